"""What `decide` need not compute again for a history that only grows: it saves time, and changes no decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hyperpruning.lyapunov.distances import spectrum_distance
from hyperpruning.search.history import History
from hyperpruning.search.plan import Plan, batches, names_of


@dataclass
class Memo:
    """What is known of a history.

    Attributes:
        plan: of the search.
        batches: names of the candidates.
        first_rungs: by candidate.
        complete: number of batches that are trained to their first rung.
        known: candidates of the history when `complete` was counted; a history with fewer is another one.
        scores: of ASHA, by criterion and number of the rung, after what they depend on: the epochs of the dense
            reference and the candidates that have reached the rung.
        distances: of two spectra, by their addresses, with the spectra, so that no others get these addresses.
    """

    plan: Plan
    batches: list[list[str]]
    first_rungs: dict[str, int]
    complete: int = 0
    known: int = 0
    scores: dict[tuple[str, int], tuple[tuple[int | str, ...], dict[str, float]]] = field(default_factory=dict)
    distances: dict[tuple[int, int], tuple[float, Any, Any]] = field(default_factory=dict)

    def distance(self, a: Sequence[float], b: Sequence[float]) -> float:
        """The distance of two spectra, of the kind of the plan; the spectra must not change later."""
        key = id(a), id(b)
        if key not in self.distances:
            self.distances[key] = float(spectrum_distance(a, b, kind=self.plan.distance)), a, b
        return self.distances[key][0]


def memo_of(plan: Plan, history: History) -> Memo:
    """The memo of a history; a new one if it is of another plan, or if the history has lost candidates."""
    found: Memo | None = history.memo
    if found is None or found.plan is not plan or found.known > len(history.candidates):
        first = {
            name: one.rungs[0] if one.rungs else plan.rungs[0] if plan.rungs else plan.train.epochs
            for one in plan.brackets()  # one without rungs compares its candidates at the first of all
            for name in names_of(one)
        }
        found = history.memo = Memo(plan, list(batches(plan)), first)
    found.known = len(history.candidates)
    return found
