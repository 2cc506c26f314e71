"""The run folder: an append-only ledger, and what can be read from it.

::

    runs/mine/
      experiment.toml       what was asked for
      ledger.jsonl          what is known: one line a fact, in an order that does not depend on workers or crashes
      networks/c01/         the checkpoints of a network (training/checkpoint.py)
      lock                  held by the one driver at work

A line is JSON with a check of its own; a torn or damaged line costs that line alone, and what it said is recomputed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hyperpruning.search.space import Candidate
from hyperpruning.training.checkpoint import record_from
from hyperpruning.training.epochs import EpochRecord

logger = logging.getLogger(__name__)
Fact = dict[str, Any]
LEDGER = "ledger.jsonl"


class RunFolderError(RuntimeError):
    """A run folder that cannot be used now: in use, of another experiment, or not one at all."""


@dataclass
class History:
    """All that a ledger says, ordered for reading. The search decides from this and from nothing else.

    Attributes:
        header: experiment and versions.
        candidates: by name, in the order of suggestion.
        epochs: by network ("dense" or a candidate's name) and epoch.
        rounds: decisions by (objective, round).
        finals: by network trained to the end: best epoch, losses, hash of the weights.
        failures: by network that diverged or could not be built: why.
        winners: by objective.
    """

    header: Fact = field(default_factory=dict)
    candidates: dict[str, Candidate] = field(default_factory=dict)
    epochs: dict[str, dict[int, EpochRecord]] = field(default_factory=dict)
    rounds: dict[tuple[str, int], Fact] = field(default_factory=dict)
    finals: dict[str, Fact] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    winners: dict[str, str] = field(default_factory=dict)

    def add(self, fact: Fact) -> None:
        """Take one line of the ledger in."""
        match fact["kind"]:
            case "search":
                self.header = fact
            case "candidate":
                self.candidates[fact["name"]] = Candidate(fact["name"], fact["generation"], fact["point"])
            case "epoch":
                values = {key: value for key, value in fact.items() if key not in ("kind", "network")}
                self.epochs.setdefault(fact["network"], {})[fact["epoch"]] = record_from(values)
            case "round":
                self.rounds[fact["objective"], fact["round"]] = fact
            case "final":
                self.finals[fact["network"]] = fact
            case "failure":
                self.failures[fact["network"]] = fact["reason"]
            case "winner":
                self.winners[fact["objective"]] = fact["network"]

    def trained(self, network: str) -> int:
        """The last epoch up to which all of a network's records are there; -1 for none."""
        records = self.epochs.get(network, {})
        epoch = -1
        while epoch + 1 in records:
            epoch += 1
        return epoch

    def at(self, epoch: int) -> dict[str, EpochRecord]:
        """The candidates' records of one epoch; one that diverged has records up to then, and none after."""
        return {name: self.epochs[name][epoch] for name in self.candidates if epoch in self.epochs.get(name, {})}


def epoch_fact(network: str, record: EpochRecord) -> Fact:
    """An epoch as the ledger keeps it: without its wall-clock time, so that equal searches have equal ledgers."""
    values = asdict(record)
    del values["seconds"]
    return {"kind": "epoch", "network": network, **values}


def read(folder: Path, *, warn: bool = False) -> History:
    """What the ledger of a run folder says, also while a search writes it.

    Args:
        folder: of the run.
        warn: log a warning for each damaged line.

    Raises:
        RunFolderError: there is no ledger.
    """
    path = folder / LEDGER
    if not path.is_file():
        raise RunFolderError(f"A run folder holds a {LEDGER}, and {folder} has none: give the --out of a search.")
    history = History()
    for number, fact in _facts(path):
        if fact is not None:
            history.add(fact)
        elif warn:
            logger.warning("Line %d of %s is damaged and left out: what it said is recomputed.", number, path)
    return history


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for one driver.

    Raises:
        RunFolderError: another driver is at work in it.
    """
    from filelock import FileLock, Timeout  # here, so that a search without a lock does without the package

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunFolderError(
            f"One search at a time works in a run folder, and {folder} is in use: wait for it, or give another --out."
        ) from None
    try:
        yield
    finally:
        lock.release()


class Ledger:
    """Appends facts, each on disk before `append` returns; a line torn by a crash is cut off first."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER
        if self.path.exists():
            _cut_torn_line(self.path)

    def append(self, fact: Fact) -> None:
        """Write one line."""
        line = json.dumps(fact | {"check": _check(fact)}, allow_nan=False) + "\n"
        with self.path.open("ab") as file:
            size = file.tell()
            try:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.path, size)
                raise


def _facts(path: Path) -> Iterator[tuple[int, Fact | None]]:
    """The lines by number; None for a damaged one."""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            fact = json.loads(line)
            if fact.pop("check") != _check(fact):
                raise ValueError
        except (ValueError, KeyError, AttributeError, TypeError):
            yield number, None
        else:
            yield number, fact


def _cut_torn_line(path: Path) -> None:
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def _check(fact: Fact) -> str:
    return hashlib.sha256(json.dumps(fact, sort_keys=True).encode()).hexdigest()[:12]
