"""Selection criteria: functions that score the candidates at a rung; a smaller score is better.

Every criterion has the same signature: ``(rung) -> scores``, see `Rung`. A new one is a function here and a line of
`CRITERIA`. Criteria are combined in words, see `criterion_of`: "ls + averaged_loss" is a sum of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hyperpruning.search.ranking import ranks, spearman
from hyperpruning.search.regression import residuals_of, ridge, standardised, terms_of
from hyperpruning.search.space import Config, is_method_setting
from hyperpruning.settings import did_you_mean
from hyperpruning.training.record import EpochRecord

Distance = Callable[[Sequence[float], Sequence[float]], float]
FOLLOWING = {"calibrated", "surrogate", "config_surrogate"}  # need candidates that are trained further
AVERAGED = {*FOLLOWING, "averaged_loss", "averaged_ls", "blend"}  # need averages of the weights
SPECTRAL = {"ls", "ls_end", "averaged_ls", "conditional_ls", "rank_sum", "blend", "calibrated", "surrogate"}
MIN_FOLLOWED = 4  # candidates from which `calibrated` learns
BLEND_UNTIL = 0.2  # fraction of the training after which `blend` is the averaged loss alone


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
        number: of the rung, from 0.
        followed: records of the candidates that were trained further than this rung to calibrate criteria, by candidate
            and epoch; their configs are in `configs` too.
    """

    epoch: int
    epochs: int
    records: Mapping[str, Mapping[int, EpochRecord]]
    dense: Mapping[int, EpochRecord]
    configs: Mapping[str, Config]
    distance: Distance
    number: int = 0
    followed: Mapping[str, Mapping[int, EpochRecord]] = field(default_factory=dict)

    def now(self) -> dict[str, EpochRecord]:
        """The record of each candidate at the rung."""
        return {name: records[self.epoch] for name, records in self.records.items()}


Criterion = Callable[[Rung], dict[str, float]]


def loss(rung: Rung) -> dict[str, float]:
    """Validation loss, as in ordinary successive elimination."""
    return {name: record.valid_loss for name, record in rung.now().items()}


def min_loss(rung: Rung) -> dict[str, float]:
    """The smallest validation loss so far."""
    return {
        name: min(record.valid_loss for epoch, record in records.items() if epoch <= rung.epoch)
        for name, records in rung.records.items()
    }


def averaged_loss(rung: Rung) -> dict[str, float]:
    """Validation loss of the exponential average of the weights.

    Raises:
        ValueError: it was not recorded.
    """
    return {name: _averaged_loss(record) for name, record in rung.now().items()}


def _averaged_loss(record: EpochRecord) -> float:
    if record.averaged_loss is None:
        raise ValueError(
            "The loss of averaged weights must be recorded for this criterion, got a record without it. Set half_life."
        )
    return record.averaged_loss


def extrapolated_loss(rung: Rung) -> dict[str, float]:
    """Validation loss at the end by a least-squares line in log(epoch) through the epochs so far, without epoch 0.

    With fewer than two such epochs it is the loss itself.
    """
    return {name: _extrapolated(rung, records) for name, records in rung.records.items()}


def _extrapolated(rung: Rung, records: Mapping[int, EpochRecord]) -> float:
    past = sorted(epoch for epoch in records if 0 < epoch <= rung.epoch)
    losses = np.array([records[epoch].valid_loss for epoch in past])
    if len(past) < 2:
        return records[rung.epoch].valid_loss
    logs = np.log(past)
    slope = float((logs - logs.mean()) @ (losses - losses.mean()) / ((logs - logs.mean()) ** 2).sum())
    return float(losses.mean()) + slope * (math.log(rung.epochs) - float(logs.mean()))


def ls(rung: Rung) -> dict[str, float]:
    """Distance of the Lyapunov spectrum to the dense reference's at the same epoch (LSH, arXiv 2506.07975)."""
    return _distances(rung, rung.dense[rung.epoch])


def ls_end(rung: Rung) -> dict[str, float]:
    """Distance of the Lyapunov spectrum to the dense reference's at the end of its training (the last known epoch)."""
    return _distances(rung, rung.dense[max(rung.dense)])


def averaged_ls(rung: Rung) -> dict[str, float]:
    """Distance of the spectrum of the averaged weights to that of the dense reference's averaged weights."""
    reference = rung.dense[rung.epoch].averaged_exponents
    return {name: rung.distance(record.averaged_exponents, reference) for name, record in rung.now().items()}


def _distances(rung: Rung, reference: EpochRecord) -> dict[str, float]:
    return {name: rung.distance(record.exponents, reference.exponents) for name, record in rung.now().items()}


def conditional_ls(rung: Rung) -> dict[str, float]:
    """LS distance freed of the settings that are not the pruning method's (learning rate, dropout, ...).

    The distances are regressed on these settings among the candidates of the rung (linear and squared terms; a setting
    that has text values has a column for each); the residuals are the scores. Without such settings it is `ls`. A term
    is used only while there are at least three candidates for each, so that residuals remain.
    """
    return _freed(rung, ls(rung))


def _freed(rung: Rung, scores: Mapping[str, float]) -> dict[str, float]:
    """Scores without what the settings outside the pruning method explain, see `conditional_ls`."""
    names = [name for name in scores if math.isfinite(scores[name])]
    terms = terms_of([_others(rung.configs.get(name, {})) for name in names])[: len(names) // 3]
    if not terms:
        return dict(scores)
    residuals = dict(zip(names, residuals_of([scores[name] for name in names], terms), strict=True))
    return {name: residuals.get(name, score) for name, score in scores.items()}


def _others(config: Config) -> Config:
    return {name: value for name, value in config.items() if not is_method_setting(name)}


def drop_fraction(rung: Rung) -> dict[str, float]:
    """The drop fraction of the method: the baseline that any early criterion must beat; 0 where a method has none."""
    return {name: float(rung.configs.get(name, {}).get("drop_fraction", 0.0)) for name in rung.records}


def first(rung: Rung) -> dict[str, float]:
    """The order of suggestion: the baseline of knowing nothing."""
    return dict.fromkeys(rung.records, 0.0)


def rank_sum(rung: Rung) -> dict[str, float]:
    """Rank by `ls` plus rank by `loss`, among the given candidates; equal values share their mean rank."""
    return _weighted_ranks(rung, [(ls, 1.0), (loss, 1.0)])


def blend(rung: Rung) -> dict[str, float]:
    """(1 - w) rank by `averaged_loss` + w rank by `conditional_ls`, w = max(0, 1 - e / (0.2 E)) at epoch e of E."""
    weight = max(0.0, 1 - rung.epoch / (BLEND_UNTIL * rung.epochs))
    return _weighted_ranks(rung, [(averaged_loss, 1 - weight), (conditional_ls, weight)])


def calibrated(rung: Rung) -> dict[str, float]:
    """Ranks by `averaged_loss`, `conditional_ls` and `loss`, weighted by what each foretold in this very search.

    Some candidates are trained further than the rung (`Rung.followed`). The weight of a criterion is the squared
    Spearman correlation of its scores of them at this rung with their latest losses of averaged weights, and 0 where
    the correlation is negative. Without at least four such candidates, or if nothing foretold anything, it is `blend`.
    """
    late = _late_losses(rung)
    if len(late) < MIN_FOLLOWED:
        return blend(rung)
    early = replace(rung, records={name: rung.followed[name] for name in late})
    weights = []
    for criterion in (averaged_loss, conditional_ls, loss):
        rho = spearman(list(criterion(early).values()), list(late.values()))
        weights.append((criterion, max(0.0, rho or 0.0) ** 2))
    return _weighted_ranks(rung, weights) if any(weight for _, weight in weights) else blend(rung)


def config_surrogate(rung: Rung) -> dict[str, float]:
    """The loss that a ridge regression on the configs foretells, fitted to the candidates that are trained further.

    With fewer than four such candidates (`Rung.followed`) it is `blend`.
    """
    return _surrogate(rung, ())


def surrogate(rung: Rung) -> dict[str, float]:
    """As `config_surrogate`, with the loss of averaged weights and the conditional LS distance at the rung as well."""
    return _surrogate(rung, (averaged_loss, conditional_ls))


def _surrogate(rung: Rung, early: Sequence[Criterion]) -> dict[str, float]:
    late = _late_losses(rung)
    if len(late) < MIN_FOLLOWED:
        return blend(rung)
    every = replace(rung, records={**{name: rung.followed[name] for name in late}, **rung.records})
    scores = [criterion(every) for criterion in early]
    names = list(every.records)
    columns = [one for one in (standardised([each[name] for name in names]) for each in scores) if one is not None]
    terms = [*terms_of([rung.configs.get(name, {}) for name in names]), *columns]
    foretold = ridge(terms, [late.get(name) for name in names])
    return {name: value for name, value in zip(names, foretold, strict=True) if name in rung.records}


def _late_losses(rung: Rung) -> dict[str, float]:
    """The loss of averaged weights of each followed candidate at the latest epoch that all of them reached."""
    latest = min((max(records) for records in rung.followed.values()), default=0)
    if latest <= rung.epoch:
        return {}
    return {name: _averaged_loss(records[latest]) for name, records in rung.followed.items()}


def _weighted_ranks(rung: Rung, weights: Sequence[tuple[Criterion, float]]) -> dict[str, float]:
    """The weighted sum of the ranks by several criteria; one of weight 0 is not computed."""
    total = np.zeros(len(rung.records))
    for criterion, weight in weights:
        if weight:
            scores = criterion(rung)
            total += weight * ranks([scores[name] for name in rung.records])
    return dict(zip(rung.records, total.tolist(), strict=True))


CRITERIA: dict[str, Criterion] = {
    "ls": ls,
    "loss": loss,
    "rank_sum": rank_sum,
    "conditional_ls": conditional_ls,
    "averaged_loss": averaged_loss,
    "blend": blend,
    "calibrated": calibrated,
    "min_loss": min_loss,
    "extrapolated_loss": extrapolated_loss,
    "ls_end": ls_end,
    "averaged_ls": averaged_ls,
    "drop_fraction": drop_fraction,
    "first": first,
    "config_surrogate": config_surrogate,
    "surrogate": surrogate,
}


def criterion_of(text: str) -> Criterion:
    """The criterion that a text names.

    Args:
        text: a key of `CRITERIA`; or keys joined by " + " (sum of ranks) or " * " (product of ranks); or several of
            these joined by " then ": one for each rung, the last one for all later rungs.

    Raises:
        ValueError: a name is unknown (the error suggests the nearest one), or + and * are mixed.

    >>> criterion_of("ls then ls + loss").__name__
    'ls then ls + loss'
    """
    by_rung = [_combination(part.strip()) for part in text.split(" then ")]
    if len(by_rung) == 1:
        return by_rung[0]

    def chosen(rung: Rung) -> dict[str, float]:
        return by_rung[min(rung.number, len(by_rung) - 1)](rung)

    chosen.__name__ = text
    return chosen


def _combination(text: str) -> Criterion:
    """One name, a sum of ranks or a product of ranks."""
    if "+" in text and "*" in text:
        raise ValueError(f"A criterion must join names by + or by *, got both in {text!r}. Use one of them.")
    product = "*" in text
    parts = [_named(part.strip()) for part in text.split("*" if product else "+")]
    if len(parts) == 1:
        return parts[0]

    def combined(rung: Rung) -> dict[str, float]:
        found = [ranks([scores[name] for name in rung.records]) for scores in (part(rung) for part in parts)]
        total = np.log(found).sum(axis=0) if product else np.sum(found, axis=0)
        return dict(zip(rung.records, total.tolist(), strict=True))

    combined.__name__ = text
    return combined


def _named(name: str) -> Criterion:
    if name not in CRITERIA:
        raise ValueError(
            f"A criterion must be one of {', '.join(CRITERIA)}, got {name!r}.{did_you_mean(name, CRITERIA)}"
        )
    return CRITERIA[name]
