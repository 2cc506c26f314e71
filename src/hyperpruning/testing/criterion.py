"""The contract suite of a selection criterion."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from hyperpruning.lyapunov.distances import spectrum_distance
from hyperpruning.search.criteria import Criterion, Rung
from hyperpruning.search.space import Config
from hyperpruning.testing.comparison import require
from hyperpruning.training.record import EpochRecord

NETWORKS: dict[str, tuple[float, tuple[float | None, ...]]] = {  # loss after the last epoch, and spectrum
    "c01": (2.0, (-0.5, -1.0, -2.0)),
    "c02": (1.5, (-0.1, -3.0, None)),
    "c03": (1.5, (0.2, None, None)),
    "c05": (3.0, (-0.5, -1.0, -2.0)),
}
EPOCH = 2


def check_criterion(criterion: Criterion) -> None:
    """Check a selection criterion on invented rungs, also with equal candidates, one candidate and dead units.

    It gives a score that is a number or inf to each candidate of the rung and to no other; the scores do not depend on
    the order of the candidates (beyond rounding); the rung stays as it was, and gets the same scores again.

    Args:
        criterion: ``(rung) -> scores``, see `hyperpruning.search.criteria`.

    Raises:
        AssertionError: a promise is broken; the message says which, and what to do.

    >>> check_criterion(lambda rung: {name: records[rung.epoch].valid_loss for name, records in rung.records.items()})
    """
    for what, rung in _rungs():
        before = _values(rung)
        scores = _scores(criterion, rung, what)
        _check_scores(scores, rung, what)
        again = _scores(criterion, rung, what)
        require(
            again == scores,
            f"A criterion must give the same scores each time, got {scores} and {again} for {what}. Keep no state, and "
            "draw nothing at random.",
        )
        require(
            _values(rung) == before,
            f"A criterion must leave the rung as it was, got another one after {what}. Copy what you change.",
        )
        other = _scores(criterion, _reversed(rung), what)
        same = scores.keys() == other.keys() and all(
            math.isclose(scores[name], other[name], rel_tol=1e-9, abs_tol=1e-12) for name in scores
        )
        require(
            same,
            f"Scores must not depend on the order of the candidates, got {scores} and in reverse {other} for {what}. "
            "Look candidates up by name.",
        )


def _rungs() -> Iterator[tuple[str, Rung]]:
    """Invented rungs and what each is of."""
    dense = {epoch: _record(epoch, 1.0, (-0.4, -1.2, -2.5)) for epoch in range(EPOCH + 1)}
    dead = {epoch: replace(record, spectrum=(-0.4, -1.2, None)) for epoch, record in dense.items()}
    yield "four candidates", _rung(list(NETWORKS), dense)
    yield "one candidate", _rung(["c02"], dense)
    yield "two equal candidates and another", _rung(["c01", "c05", "c03"], dense, equal=True)
    yield "a dense reference with a dead unit", _rung(list(NETWORKS), dead)


def _rung(names: Sequence[str], dense: dict[int, EpochRecord], *, equal: bool = False) -> Rung:
    records = {}
    for name in names:
        loss, spectrum = NETWORKS["c01" if equal and name == "c05" else name]
        records[name] = {epoch: _record(epoch, loss + EPOCH - epoch, spectrum) for epoch in range(EPOCH + 1)}
    return Rung(
        epoch=EPOCH,
        epochs=5,
        records=records,
        dense=dict(dense),
        configs={name: _config(name) for name in names},
        distance=_distance,
    )


def _record(epoch: int, loss: float, spectrum: tuple[float | None, ...]) -> EpochRecord:
    density = {"rnn.weight_hh_l0": [0.2]}
    train = None if epoch == 0 else loss
    return EpochRecord(
        epoch,
        train,
        loss,
        100,
        density,
        0.1,
        ever_active=0.4,
        seconds=1.0,
        spectrum=spectrum,
        averaged_loss=loss + 0.1,
        averaged_spectrum=spectrum,
    )


def _config(name: str) -> Config:
    return {"drop_scope": "tensor", "drop_fraction": 0.1 * int(name[1:])}


def _distance(one: Sequence[float], two: Sequence[float]) -> float:
    return float(spectrum_distance(one, two))


def _reversed(rung: Rung) -> Rung:
    """The rung with its candidates in the other order."""
    return replace(
        rung,
        records=dict(reversed(list(rung.records.items()))),
        configs=dict(reversed(list(rung.configs.items()))),
    )


def _values(rung: Rung) -> dict[str, Any]:
    """A copy of all that the rung holds, in order."""
    copied = copy.deepcopy(vars(rung))
    return copied | {"order": (list(copied["records"]), list(copied["configs"]), list(copied["dense"]))}


def _scores(criterion: Criterion, rung: Rung, what: str) -> dict[str, float]:
    try:
        return dict(criterion(rung))
    except Exception as error:
        raise AssertionError(
            f"A criterion must score every rung, got {type(error).__name__}: {error} for {what}. Read exponents from "
            "EpochRecord.exponents, where a dead unit has -inf."
        ) from error


def _check_scores(scores: dict[str, float], rung: Rung, what: str) -> None:
    require(
        scores.keys() == rung.records.keys(),
        f"A criterion must score the candidates {list(rung.records)}, got scores of {list(scores)} for {what}. Score "
        "each of rung.records and no other.",
    )
    for name, score in scores.items():
        require(
            isinstance(score, int | float) and score > -math.inf,  # false for NaN
            f"A score must be a float, finite or inf, got {score!r} for {name} of {what}. Give inf to the worst.",
        )
