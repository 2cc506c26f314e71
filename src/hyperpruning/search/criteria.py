"""The judges: functions from what is known of the candidates after an epoch to scores, smaller is better.

Every judge has the same signature: ``(records, dense, distance) -> scores``, where `records` holds the candidates'
`EpochRecord`s of one epoch, `dense` the dense network's of the same epoch, and `distance` compares two spectra.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from hyperpruning.training.epochs import EpochRecord

Distance = Callable[[Sequence[float], Sequence[float]], float]
Objective = Callable[[Mapping[str, EpochRecord], EpochRecord, Distance], dict[str, float]]


def exponents(record: EpochRecord) -> list[float]:
    """The spectrum in a record, with -inf where JSON has none."""
    return [-math.inf if value is None else value for value in record.spectrum]


def ls(records: Mapping[str, EpochRecord], dense: EpochRecord, distance: Distance) -> dict[str, float]:
    """Distance of the Lyapunov spectrum to the dense network's at the same epoch (LSH)."""
    return {name: distance(exponents(record), exponents(dense)) for name, record in records.items()}


def loss(records: Mapping[str, EpochRecord], dense: EpochRecord, distance: Distance) -> dict[str, float]:
    """Validation loss: what ordinary early stopping looks at."""
    return {name: record.valid_loss for name, record in records.items()}


def rank_sum(records: Mapping[str, EpochRecord], dense: EpochRecord, distance: Distance) -> dict[str, float]:
    """Rank by `ls` plus rank by `loss`, among the candidates given; ties share their mean rank."""
    by_ls, by_loss = ranks(ls(records, dense, distance)), ranks(loss(records, dense, distance))
    return {name: by_ls[name] + by_loss[name] for name in records}


OBJECTIVES: dict[str, Objective] = {"ls": ls, "loss": loss, "rank_sum": rank_sum}


def ranks(scores: Mapping[str, float]) -> dict[str, float]:
    """Ranks from 1, ties at their mean rank."""
    values = sorted(scores.values())
    return {
        name: (values.index(score) + 1 + values.index(score) + values.count(score)) / 2
        for name, score in scores.items()
    }
