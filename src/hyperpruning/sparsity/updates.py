"""One update of the masks: drop, redistribute, grow. The number of active blocks is exact.

An update is a function `(method, parameters, targets, fraction, buffers, generator) -> (kept, grown)`. `targets` is the
number of blocks of each tensor that must be active afterwards, `fraction` the part of them that is dropped and grown
again, `buffers` a dict of tensors that is saved from one update to the next. It returns two dicts of bool masks of each
parameter's shape: the weights that stay and the weights that are new. It changes nothing but `buffers`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from hyperpruning.sparsity.mask_inits import Calibration, Scores
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.parameter import PrunableParameters
from hyperpruning.sparsity.redistributions import growth_quotas
from hyperpruning.sparsity.scopes import Partition, RankingGroup, choose, global_
from hyperpruning.sparsity.scores import Score
from hyperpruning.sparsity.selection import apportion, count_true, largest_in_each_group, positive

Masks = dict[str, Tensor]
UpdateRule = Callable[
    [Method, PrunableParameters, Mapping[str, int], float, dict[str, Tensor], Generator], tuple[Masks, Masks]
]


@dataclass(frozen=True)
class Update:
    """The result of one update of the masks.

    Attributes:
        step: the optimizer step after which it happened, from 1.
        dropped: the number of dropped weights by parameter name.
        grown: the number of new weights by parameter name; a weight that is dropped and grown again counts in both.
        active: the number of active weights after the update by parameter name.
        ever_active: the fraction of the prunable weights that are or have been active (R_s of Liu et al. 2021, ITOP).
    """

    step: int
    dropped: dict[str, int]
    grown: dict[str, int]
    active: dict[str, int]
    ever_active: float

    @property
    def churn(self) -> float:
        """The fraction of the active weights that the update dropped."""
        before = sum(self.active.values()) - sum(self.grown.values()) + sum(self.dropped.values())
        return sum(self.dropped.values()) / before


def initial_masks(
    method: Method, parameters: PrunableParameters, counts: Mapping[str, int], calibration: Calibration | None
) -> Masks:
    """Choose the first masks.

    Args:
        method: its mask_init, mask_init_scope and granularity are used.
        parameters: the prunable parameters by name.
        counts: the number of active blocks of each tensor; with a global scope only their sum is used.
        calibration: see `mask_inits.py`.

    Returns:
        bool masks of each parameter's shape, by name.
    """
    found = method.mask_init(parameters, calibration)
    scores = {name: None if one is None else parameters[name].block_scores(one) for name, one in found.items()}
    if method.granularity.of:
        return _fill_n_of_m(method, parameters, scores, {n: torch.zeros_like(p.mask) for n, p in parameters.items()})
    everything = {name: torch.ones_like(p.block_mask(p.mask)) for name, p in parameters.items()}
    if method.mask_init_scope is global_ and len(parameters) > 1:
        counts = _global_counts(method, parameters, counts, scores, everything)
    chosen: Masks = {}
    for name, parameter in parameters.items():
        group: RankingGroup = [(name, slice(0, parameter.n_blocks), None)]
        chosen |= choose(group, scores, everything, counts[name], parameter.generator)
    return {name: p.weight_mask(chosen[name]) for name, p in parameters.items()}


def _global_counts(
    method: Method, parameters: PrunableParameters, counts: Mapping[str, int], scores: Scores, everything: Masks
) -> dict[str, int]:
    """Return how many blocks of each tensor a global choice takes, within floor and ceiling."""
    ((group,),) = global_(parameters)
    found = choose(group, scores, everything, sum(counts.values()), next(iter(parameters.values())).generator)
    shares = {name: count_true(chosen) for name, chosen in found.items()}
    lower = {name: min(counts[name], math.ceil(method.floor * p.n_blocks)) for name, p in parameters.items()}
    upper = {name: max(counts[name], math.floor(method.ceiling * p.n_blocks)) for name, p in parameters.items()}
    return apportion(sum(counts.values()), shares, lower, upper)


def drop_and_grow(
    method: Method,
    parameters: PrunableParameters,
    targets: Mapping[str, int],
    fraction: float,
    buffers: dict[str, Tensor],
    generator: Generator,
) -> tuple[Masks, Masks]:
    """Drop blocks until the targets are reached, drop `fraction` of the rest too, and grow as many as that fraction."""
    if method.soft_shrinkage and method.granularity.of:  # pruned weights are not zero: rank all of a group again
        none = {name: torch.zeros_like(p.mask) for name, p in parameters.items()}
        return _fill_n_of_m(method, parameters, _block_scores(method.drop, parameters), none), none
    survivors, n_replaced = _drop(method, parameters, targets, fraction, generator)
    kept = {name: p.weight_mask(survivors[name]) for name, p in parameters.items()}
    if method.grow is None:
        return kept, {name: torch.zeros_like(mask) for name, mask in kept.items()}
    quotas = growth_quotas(
        method.redistribute(parameters, kept, n_replaced),
        {name: count_true(mask) for name, mask in survivors.items()},
        n_replaced,
        {name: p.n_blocks for name, p in parameters.items()},
        floor=method.floor,
        ceiling=method.ceiling,
    )
    return kept, grow(method, parameters, survivors, quotas, generator)


def _drop(
    method: Method, parameters: PrunableParameters, targets: Mapping[str, int], fraction: float, generator: Generator
) -> tuple[Masks, dict[str, int]]:
    """Return the block masks after the drop, and how many of the dropped blocks of each tensor growth replaces."""
    assert method.drop is not None
    active = {name: p.block_mask(p.mask) for name, p in parameters.items()}
    # under soft shrinkage pruned weights are not zero, and may become active again
    eligible = {name: torch.ones_like(mask) for name, mask in active.items()} if method.soft_shrinkage else active
    scores = _block_scores(method.drop, parameters)
    survivors: Masks = {}
    n_replaced: dict[str, int] = {}
    for partition in method.drop_scope(parameters):
        names = {name: None for group in partition for name, _, _ in group}
        total, n_blocks = sum(targets[name] for name in names), sum(parameters[name].n_blocks for name in names)
        # at most the number of inactive blocks: a nearly dense tensor would grow its own weights again, at zero
        replaced = min(math.floor(fraction * total), n_blocks - total)
        targets_of_groups, replaced_of_groups = _split(partition, eligible, total, replaced)
        for index, group in enumerate(partition):
            count = targets_of_groups[index] - replaced_of_groups[index]
            _add(survivors, group, choose(group, scores, eligible, count, generator), parameters)
        dropped = {name: count_true(active[name]) - count_true(survivors[name]) for name in names}
        none = dict.fromkeys(names, 0)
        n_replaced |= apportion(replaced, dropped, none, dropped) if replaced else none
    return survivors, n_replaced


def _add(masks: Masks, group: RankingGroup, chosen: Masks, parameters: PrunableParameters) -> None:
    """Add the chosen blocks of a ranking group to block masks."""
    for name, span, _ in group:
        if name not in masks and len(chosen[name]) == parameters[name].n_blocks:
            masks[name] = chosen[name]
            continue
        mask = masks.setdefault(name, torch.zeros_like(parameters[name].block_mask(parameters[name].mask)))
        mask[span] |= chosen[name]


def _split(
    partition: Partition, eligible: Mapping[str, Tensor], total: int, replaced: int
) -> tuple[dict[int, int], dict[int, int]]:
    """Split two numbers of blocks between the groups of a partition, in proportion to their eligible blocks."""
    held = {
        index: sum(
            count_true(eligible[name][span] if side is None else eligible[name][span] & side)
            for name, span, side in group
        )
        for index, group in enumerate(partition)
    }
    none = dict.fromkeys(held, 0)
    totals = apportion(total, held, none, held)
    return totals, apportion(replaced, totals, none, totals)


def grow(
    method: Method,
    parameters: PrunableParameters,
    survivors: Mapping[str, Tensor],
    quotas: Mapping[str, int],
    generator: Generator,
) -> Masks:
    """Choose the new weights.

    Args:
        method: its grow, grow_scope and granularity are used.
        parameters: the prunable parameters by name.
        survivors: bool (n_blocks,) by name: the blocks that the drop left, which are not chosen.
        quotas: the number of new blocks by name.
        generator: for random choices.

    Returns:
        bool masks of each parameter's shape, by name.
    """
    assert method.grow is not None
    free = {name: ~mask for name, mask in survivors.items()}
    scores = _block_scores(method.grow, parameters)
    if method.granularity.of:  # every group of N:M grows as many as it dropped
        return _fill_n_of_m(method, parameters, scores, survivors)
    grown: Masks = {}
    for partition in method.grow_scope(parameters):
        total = sum(quotas[name] for name in {name for group in partition for name, _, _ in group})
        room = {i: sum(count_true(free[name][span]) for name, span, _ in g) for i, g in enumerate(partition)}
        counts = apportion(total, dict.fromkeys(room, 1.0), dict.fromkeys(room, 0), room)
        for index, group in enumerate(partition):
            for chosen in _positive_scores_first(group, scores, free, counts[index], generator):
                _add(grown, group, chosen, parameters)
    return {name: p.weight_mask(grown[name]) for name, p in parameters.items()}


def _block_scores(score: Score | None, parameters: PrunableParameters) -> Scores:
    """Return the scores of the blocks of every tensor; None where the choice is random."""
    assert score is not None
    return {name: None if (one := score(p)) is None else p.block_scores(one) for name, p in parameters.items()}


def _fill_n_of_m(method: Method, parameters: PrunableParameters, scores: Scores, active: Mapping[str, Tensor]) -> Masks:
    """Choose as many inactive weights of each group of N:M as it lacks."""
    pattern, masks = method.granularity, {}
    for name, p in parameters.items():
        known = torch.rand(p.n_blocks, generator=p.generator) if (one := scores[name]) is None else one[:]
        present = active[name].reshape(-1)
        missing = pattern.keep - present.view(-1, pattern.of).sum(dim=1)  # (groups,)
        masks[name] = p.weight_mask(largest_in_each_group(known.to(present.device), ~present, missing))
    return masks


def _positive_scores_first(
    group: RankingGroup, scores: Scores, free: Mapping[str, Tensor], count: int, generator: Generator
) -> list[Masks]:
    """Choose by scores above zero, and at random if there are too few (e.g. for words that were not in the batch)."""
    known = {name: score for name, _, _ in group if (score := scores[name]) is not None}
    if len(known) < len(group):
        return [choose(group, scores, free, count, generator)]
    scored = {name: positive(score, free[name]) for name, score in known.items()}
    n_scored = sum(count_true(scored[name][span]) for name, span, _ in group)
    first = choose(group, scores, scored, min(count, n_scored), generator)
    if count <= n_scored:
        return [first]
    unscored = {name: free[name] & ~scored[name] for name in known}
    return [first, choose(group, dict.fromkeys(known), unscored, count - n_scored, generator)]


def check_finite(parameters: PrunableParameters, step: int) -> None:
    """Check that weights and gradients can be ranked.

    Raises:
        FloatingPointError: a weight or a gradient is not finite.
    """
    for name, parameter in parameters.items():
        for what, values in (("weight", parameter.tensor), ("gradient", parameter.tensor.grad)):
            # checking the sum is ten times faster than checking each value; the sum alone may overflow
            if values is None or values.sum().isfinite() or values.to_dense().isfinite().all():
                continue
            raise FloatingPointError(
                f"Every {what} must be finite at an update, got NaN or infinity in {name!r} at step {step}. "
                "The masks did not change. Lower the learning rate or clip the gradients."
            )
