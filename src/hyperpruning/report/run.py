"""A run folder as the report sees it: the ledger, and what the search's settings say about reading it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hyperpruning.lyapunov.distances import spectrum_distance
from hyperpruning.search.ledger import LEDGER, History, RunFolderError, read
from hyperpruning.search.plan import DENSE
from hyperpruning.search.schedulers import cost
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import from_config, to_config

JUDGES = {"ls": "LSH", "loss": "the loss", "rank_sum": "rank sum"}


@dataclass(frozen=True, eq=False)
class Run:
    """A search, finished or not.

    Attributes:
        folder: the run folder.
        history: what its ledger says.
    """

    folder: Path
    history: History

    @property
    def settings(self) -> dict[str, Any]:
        """What the search was asked for, as `Plan.identity` wrote it."""
        settings: dict[str, Any] = self.history.header["identity"]
        return settings

    @property
    def epochs(self) -> int:
        """Length of a full training."""
        return int(self.settings["train"]["epochs"])

    @property
    def rungs(self) -> list[int]:
        """Epochs after which the judges look."""
        return list(self.settings["rungs"])

    @property
    def pool(self) -> int:
        """Candidates: as many as there are once all were suggested, before that as many as were asked for."""
        return len(self.history.candidates) if self.history.rounds else int(self.settings["pool"])

    @property
    def keep(self) -> list[int]:
        """Candidates that go on after each rung."""
        return [min(keep, self.pool) for keep in self.settings["keep"]]

    @property
    def judges(self) -> list[str]:
        """The objectives; the first one's choice is the result of the search."""
        return list(self.settings["objectives"])

    @property
    def prunable(self) -> int | None:
        """Weights that a sparsity counts: all of the dense network's; None before it is there."""
        records = self.history.epochs.get(DENSE, {})
        return next((record.active for record in records.values()), None)

    @property
    def ended(self) -> list[str]:
        """Candidates trained to the end."""
        return [name for name in self.history.candidates if name in self.history.finals]

    @property
    def exhausted(self) -> bool:
        """Whether no candidate is left that was not trained to the end (those that failed could not be)."""
        known = {*self.history.finals, *self.history.failures}
        return len(self.history.candidates) == self.pool and all(name in known for name in self.history.candidates)

    @property
    def finished(self) -> bool:
        """Whether the search has nothing left to do."""
        chosen = all(judge in self.history.winners for judge in self.judges)
        return chosen and (self.exhausted or not self.settings["exhaustive"])

    @property
    def winner(self) -> str | None:
        """The result of the search: the first judge's choice."""
        return self.history.winners.get(self.judges[0])

    def judge_epochs(self) -> int:
        """Epochs that one judge's search trains: every judge keeps as many."""
        return cost(pool=self.pool, rungs=self.rungs, keep=self.keep, epochs=self.epochs)

    def distance(self, one: Sequence[float], two: Sequence[float], kind: str | None = None) -> float:
        """How far two spectra are apart; by default as this search measured it."""
        return float(spectrum_distance(one, two, kind=kind or self.settings["distance"]))

    def method(self, network: str) -> str:
        """A network's method in words."""
        return "none" if network == DENSE else in_words(self.history.candidates[network].point)


def read_run(folder: Path) -> Run:
    """Read a run folder; what has not changed since the last call is not read again.

    Raises:
        RunFolderError: there is no ledger, or its first line is missing.
    """
    path = folder / LEDGER
    stat = path.stat() if path.is_file() else None
    return _read(folder, (stat.st_mtime_ns, stat.st_size) if stat else None)


@lru_cache(maxsize=4)
def _read(folder: Path, stamp: tuple[int, int] | None) -> Run:
    history = read(folder)
    if "identity" not in history.header:
        raise RunFolderError(
            f"A ledger begins with the settings of its search, and {folder / LEDGER} does not: resume the search."
        )
    return Run(folder, history)


def in_words(point: dict[str, str | float]) -> str:
    """A method in words: its name, or allocation, drop, growth, redistribution, fraction, and what is not as usual.

    >>> in_words({"allocation": "er", "drop_scope": "global", "redistribute": "nonzeros", "drop_fraction": 0.7})
    'er, global magnitude, random, nonzeros, f = 0.7'
    >>> in_words({"method": "rigl"})
    'rigl'
    """
    try:
        spelling: dict[str, Any] = to_config(from_config(point))
    except (ValueError, TypeError):  # a component that this version does not know
        return ", ".join(f"{name} = {value}" for name, value in point.items())
    usual = to_config(Method())
    main = ("allocation", "drop", "drop_scope", "grow", "redistribute", "drop_fraction")
    named = point.get("method")
    if named is not None:
        return ", ".join([str(named), *(f"{name} = {value}" for name, value in point.items() if name != "method")])
    others = [f"{name} = {value}" for name, value in spelling.items() if name not in main and value != usual[name]]
    if spelling["drop"] == "none":
        return ", ".join([str(spelling["allocation"]), "static", *others])
    drop = " ".join(str(spelling[name]) for name in ("drop_scope", "drop") if spelling[name] != "tensor")
    parts = (spelling["allocation"], drop, spelling["grow"], spelling["redistribute"])
    return ", ".join([*map(str, parts), f"f = {spelling['drop_fraction']:g}", *others])


def choices(run: Run) -> dict[str, list[str]]:
    """Who was chosen: network -> the judges that chose it, in their order."""
    chosen: dict[str, list[str]] = {}
    for judge in run.judges:
        if judge in run.history.winners:
            chosen.setdefault(run.history.winners[judge], []).append(judge)
    return chosen


def judge_name(judge: str) -> str:
    """What a judge is called: "LSH", "the loss", "rank sum"."""
    return JUDGES.get(judge, judge)


def label(judge: str) -> str:
    """What a judge's choice is called: "LSH's choice", "the loss's choice", "rank sum's choice"."""
    return f"{judge_name(judge)}'s choice"
