"""Selection criteria: functions that score the candidates at a rung; a smaller score is better.

Every criterion has the same signature: ``(rung) -> scores``, see `Rung`. A new one is a function here and a line of
`CRITERIA`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hyperpruning.search.ranking import ranks
from hyperpruning.search.space import Config
from hyperpruning.training.record import EpochRecord

Distance = Callable[[Sequence[float], Sequence[float]], float]


@dataclass(frozen=True)
class Rung:
    """The input of a criterion: candidates at a rung.

    Attributes:
        epoch: epoch of the rung; each candidate has a record of it.
        epochs: length of a full training.
        records: by candidate and epoch.
        dense: records of the dense reference by epoch.
        configs: by candidate.
        distance: between two spectra.
    """

    epoch: int
    epochs: int
    records: Mapping[str, Mapping[int, EpochRecord]]
    dense: Mapping[int, EpochRecord]
    configs: Mapping[str, Config]
    distance: Distance


Criterion = Callable[[Rung], dict[str, float]]


def ls(rung: Rung) -> dict[str, float]:
    """Distance of the Lyapunov spectrum to the dense reference's at the same epoch (LSH, arXiv 2506.07975)."""
    reference = rung.dense[rung.epoch].exponents
    return {name: rung.distance(records[rung.epoch].exponents, reference) for name, records in rung.records.items()}


def loss(rung: Rung) -> dict[str, float]:
    """Validation loss, as in ordinary successive elimination."""
    return {name: records[rung.epoch].valid_loss for name, records in rung.records.items()}


def rank_sum(rung: Rung) -> dict[str, float]:
    """Rank by `ls` plus rank by `loss`, among the given candidates; equal values share their mean rank."""
    by_ls, by_loss = (list(criterion(rung).values()) for criterion in (ls, loss))
    return dict(zip(rung.records, (ranks(by_ls) + ranks(by_loss)).tolist(), strict=True))


CRITERIA: dict[str, Criterion] = {"ls": ls, "loss": loss, "rank_sum": rank_sum}
