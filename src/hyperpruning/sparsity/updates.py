"""One update of the masks: drop, redistribute, grow. The number of active blocks is exact.

An update is a function `(method, parameters, targets, fraction, buffers, generator) -> (kept, grown)`. `targets` is the
number of blocks of each tensor that must be active afterwards, `fraction` the part of them that is dropped and grown
again, `buffers` a dict of tensors that is saved from one update to the next. It returns two dicts of bool masks of each
parameter's shape: the weights that stay and the weights that are new. It changes nothing but `buffers`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from hyperpruning.sparsity import regrowth_inits, scopes
from hyperpruning.sparsity.checks import check_not_empty, check_scores
from hyperpruning.sparsity.dense_parts import choose_with, dense_blocks
from hyperpruning.sparsity.growth import (
    Masks,
    add_chosen,
    block_scores_of,
    fill_n_of_m,
    gate_shares,
    group_counts,
    grow,
    ranking_partitions,
    whole_tensor,
)
from hyperpruning.sparsity.mask_inits import Calibration, Scores
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.parameter import PrunableParameters
from hyperpruning.sparsity.redistributions import growth_quotas
from hyperpruning.sparsity.scopes import Partition, choose, global_
from hyperpruning.sparsity.selection import apportion, count_true

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

    Raises:
        FloatingPointError: a score is NaN.
        MethodError: a global scope leaves a tensor without active weights.
    """
    found = method.mask_init(parameters, calibration)
    scores = {name: None if one is None else parameters[name].block_scores(one) for name, one in found.items()}
    if method.granularity.of:
        return fill_n_of_m(method, parameters, scores, {n: torch.zeros_like(p.mask) for n, p in parameters.items()})
    everything = {name: torch.ones_like(p.block_mask(p.mask)) for name, p in parameters.items()}
    check_scores("mask_init", method.mask_init, parameters, scores, everything)
    if method.mask_init_scope is global_ and len(parameters) > 1:
        counts = _global_counts(method, parameters, counts, scores, everything)
    chosen: Masks = {}
    dense = dense_blocks(method.dense_part, parameters)
    for partition in ranking_partitions(method, scopes.tensor, parameters):
        name = partition[0][0][0]
        counts_of_groups, _ = _split(method, partition, everything, dense, counts[name], 0)
        for index, group in enumerate(partition):
            generator = parameters[name].generator
            found_blocks = choose_with(dense, group, scores, everything, counts_of_groups[index], generator)
            add_chosen(chosen, group, found_blocks, parameters)
    check_not_empty(method, parameters, chosen)
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
    """Drop blocks until the targets are reached, drop `fraction` of the rest too, and grow as many as that fraction.

    Raises:
        FloatingPointError: a score is NaN.
        MethodError: a global scope leaves a tensor without active weights.
    """
    if method.soft_shrinkage and method.granularity.of:  # pruned weights are not zero: rank all of a group again
        none = {name: torch.zeros_like(p.mask) for name, p in parameters.items()}
        everything = {name: ~mask.reshape(-1) for name, mask in none.items()}
        return fill_n_of_m(method, parameters, _drop_scores(method, parameters, everything), none), none
    survivors, n_replaced = _drop(method, parameters, targets, fraction, generator)
    kept = {name: p.weight_mask(survivors[name]) for name, p in parameters.items()}
    if method.grow is None:
        check_not_empty(method, parameters, survivors)
        return kept, {name: torch.zeros_like(mask) for name, mask in kept.items()}
    quotas = growth_quotas(
        method.redistribute(parameters, kept, n_replaced),
        {name: count_true(mask) for name, mask in survivors.items()},
        n_replaced,
        {name: p.n_blocks for name, p in parameters.items()},
        floor=method.floor,
        ceiling=method.ceiling,
    )
    grown = grow(method, parameters, survivors, quotas, generator)
    check_not_empty(method, parameters, {name: kept[name] | grown[name] for name in kept})
    return kept, grown


def _drop(
    method: Method, parameters: PrunableParameters, targets: Mapping[str, int], fraction: float, generator: Generator
) -> tuple[Masks, dict[str, int]]:
    """Return the block masks after the drop, and how many of the dropped blocks of each tensor growth replaces."""
    active = {name: p.block_mask(p.mask) for name, p in parameters.items()}
    # under soft shrinkage pruned weights are not zero, and may become active again
    eligible = {name: torch.ones_like(mask) for name, mask in active.items()} if method.soft_shrinkage else active
    scores = _drop_scores(method, parameters, eligible)
    dense = dense_blocks(method.dense_part, parameters)
    drop = partial(_drop_in_scope, method, parameters, scores=scores, dense=dense, generator=generator)
    partitions = ranking_partitions(method, method.drop_scope, parameters)
    if method.replace_scope is None:
        return drop(partitions, eligible, targets=targets, fraction=fraction)
    lowered, _ = drop(partitions, eligible, targets=targets, fraction=0.0)
    targets = {name: count_true(mask) for name, mask in lowered.items()}
    partitions = ranking_partitions(method, method.replace_scope, parameters)
    return drop(partitions, lowered, targets=targets, fraction=fraction)


def _drop_in_scope(
    method: Method,
    parameters: PrunableParameters,
    partitions: Sequence[Partition],
    eligible: Mapping[str, Tensor],
    *,
    scores: Scores,
    dense: Masks,
    targets: Mapping[str, int],
    fraction: float,
    generator: Generator,
) -> tuple[Masks, dict[str, int]]:
    """Drop as `_drop`, in the partitions of one scope, from the eligible blocks."""
    survivors: Masks = {}
    n_replaced: dict[str, int] = {}
    for partition in partitions:
        names = list({name: None for group in partition for name, _, _ in group})
        total, n_blocks = sum(targets[name] for name in names), sum(parameters[name].n_blocks for name in names)
        replaced = math.floor(fraction * total)
        if method.regrowth_init is not regrowth_inits.keep or total == n_blocks:
            # at most the number of inactive blocks: a nearly dense tensor would grow its own weights again, at zero
            replaced = min(replaced, n_blocks - total)
        targets_of_groups, replaced_of_groups = _split(method, partition, eligible, dense, total, replaced)
        replaced = sum(replaced_of_groups.values())
        for index, group in enumerate(partition):
            count = targets_of_groups[index] - replaced_of_groups[index]
            add_chosen(survivors, group, choose_with(dense, group, scores, eligible, count, generator), parameters)
        dropped = {name: count_true(eligible[name]) - count_true(survivors[name]) for name in names}
        none = dict.fromkeys(names, 0)
        n_replaced |= apportion(replaced, dropped, none, dropped) if replaced else none
        if len(names) > 1:
            _keep_floors(method, parameters, names, survivors, n_replaced, eligible=eligible, scores=scores)
    return survivors, n_replaced


def _keep_floors(
    method: Method,
    parameters: PrunableParameters,
    names: Sequence[str],
    survivors: Masks,
    n_replaced: dict[str, int],
    *,
    eligible: Mapping[str, Tensor],
    scores: Scores,
) -> None:
    """Repeat the drop of tensors that were ranked together, if it left one below its floor: within each tensor."""
    have = {name: count_true(eligible[name]) for name in names}
    counts = {name: count_true(survivors[name]) + n_replaced[name] for name in names}  # after growth
    active = {name: count_true(parameters[name].block_mask(parameters[name].mask)) for name in names}
    floor = {name: math.ceil(method.floor * parameters[name].n_blocks) for name in names}
    least = {name: min(floor[name], active[name], have[name]) for name in names}  # a falling budget may be below it
    if (total := sum(counts.values())) < sum(least.values()):  # or below all of them together
        least = apportion(total, least, dict.fromkeys(names, 0), least)
    if all(counts[name] >= least[name] for name in names):
        return
    counts = apportion(total, counts, least, have)
    shares = {name: n_replaced[name] for name in names}
    replaced = apportion(sum(shares.values()), shares, dict.fromkeys(names, 0), counts)
    n_replaced |= replaced
    for name in names:
        count, generator = counts[name] - replaced[name], parameters[name].generator
        survivors |= choose(whole_tensor(parameters, name), scores, eligible, count, generator)


def _split(
    method: Method, partition: Partition, eligible: Mapping[str, Tensor], dense: Masks, total: int, replaced: int
) -> tuple[dict[int, int], dict[int, int]]:
    """Split two numbers of blocks between the groups of a partition, in proportion to their eligible blocks.

    Where a method gives gates densities, the groups are the gates, and the proportion is that of the densities. Dense
    blocks are not replaced.
    """
    held = group_counts(partition, eligible)
    kept = group_counts(partition, {name: eligible[name] & dense[name] for name in dense})
    kept = kept if sum(kept.values()) <= total else dict.fromkeys(held, 0)
    shares = gate_shares(method, partition) or held
    totals = apportion(total, shares, kept, held)
    free = {index: totals[index] - kept[index] for index in totals}
    return totals, apportion(min(replaced, sum(free.values())), totals, dict.fromkeys(held, 0), free)


def _drop_scores(method: Method, parameters: PrunableParameters, eligible: Mapping[str, Tensor]) -> Scores:
    """Return the scores by which blocks are kept."""
    assert method.drop is not None
    scores = block_scores_of(method.drop, parameters)
    check_scores("drop", method.drop, parameters, scores, eligible)
    return scores
