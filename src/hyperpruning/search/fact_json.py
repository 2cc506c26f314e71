"""The facts of a ledger as JSON, one function each way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hyperpruning.search.history import (
    DENSE,
    SMALL,
    Candidate,
    Choice,
    Epoch,
    Fact,
    Failure,
    FinalResult,
    Header,
    Promotion,
    RoundDecision,
    SpaceExhausted,
    Stopped,
    Winner,
)
from hyperpruning.settings import check_types
from hyperpruning.training.record import Metric, record_from_json

NETWORK_NAME = re.compile(r"dense|small|c(0[1-9]|[1-9][0-9]+)(s[2-9]|s[1-9][0-9]+)?")  # s2: its second seed
KINDS: dict[str, type[Any]] = {
    "search": Header,
    "candidate": Candidate,
    "epoch": Epoch,
    "promotion": Promotion,
    "round": RoundDecision,
    "final": FinalResult,
    "failure": Failure,
    "stop": Stopped,
    "winner": Winner,
    "choice": Choice,
    "exhausted": SpaceExhausted,
}


def to_json(fact: Fact) -> dict[str, Any]:
    """Convert a fact to JSON types, without wall-clock times, so that equal searches have equal ledgers."""
    kind = next(kind for kind, cls in KINDS.items() if isinstance(fact, cls))
    if isinstance(fact, Epoch):
        values = {"network": fact.network, **fact.record.to_json()}
        del values["seconds"]
    else:
        values = {key: value for key, value in asdict(fact).items() if value is not None or key == "from_loss"}
    return {"kind": kind, **values}


def from_json(values: Mapping[str, Any]) -> Fact:
    """The fact that `to_json` wrote.

    Raises:
        ValueError: its kind or a field is unknown in this version.
    """
    rest = dict(values)
    kind = rest.pop("kind", None)
    try:
        if kind == "epoch":
            rest = {"network": rest.pop("network"), "record": record_from_json(rest)}
        if kind == "search":
            rest["metric"] = Metric(**rest["metric"])
            check_types(rest["metric"])
        if kind == "round":
            rest |= {"kept": tuple(rest["kept"]), "dropped": tuple(rest["dropped"])}
        fact: Fact = KINDS[str(kind)](**rest)
        check_types(fact)
        _check_names(fact)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"A fact must have a kind and fields of this version, got {kind!r} ({error}).") from None
    return fact


def _check_names(fact: Fact) -> None:
    """Check the form of a name, since it becomes part of a path."""
    names = [fact.name if isinstance(fact, Candidate) else getattr(fact, "network", DENSE)]
    if isinstance(fact, RoundDecision):
        names = [*fact.kept, *fact.dropped, *fact.scores]
    for name in names:
        if not NETWORK_NAME.fullmatch(name):
            raise ValueError(f"The name of a network must be {DENSE!r}, {SMALL!r} or c01, c01s2, ..., got {name!r}.")
