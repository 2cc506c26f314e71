"""Growth: which weights an update adds; the number of new weights is exact."""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from hyperpruning.sparsity.checks import check_scores
from hyperpruning.sparsity.mask_inits import Scores
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.parameter import PrunableParameters
from hyperpruning.sparsity.redistributions import growth_limits
from hyperpruning.sparsity.scopes import Partition, RankingGroup, Scope, choose, gate, global_
from hyperpruning.sparsity.scores import Score
from hyperpruning.sparsity.selection import apportion, count_true, largest_in_each_group, positive

Masks = dict[str, Tensor]


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
    scores = block_scores_of(method.grow, parameters)
    check_scores("grow", method.grow, parameters, scores, free)
    if method.granularity.of:  # every group of N:M grows as many as it dropped
        return fill_n_of_m(method, parameters, scores, survivors)
    if method.grow_scope is global_ and len(parameters) > 1:
        return _grow_globally(method, parameters, scores, free, quotas, generator)
    grown: Masks = {}
    for partition in ranking_partitions(method, method.grow_scope, parameters):
        total = sum(quotas[name] for name in {name for group in partition for name, _, _ in group})
        room = group_counts(partition, free)
        counts = apportion(total, dict.fromkeys(room, 1.0), dict.fromkeys(room, 0), room)
        if shares := gate_shares(method, partition):  # each gate grows to its density
            have = group_counts(partition, survivors)
            most = {index: have[index] + room[index] for index in have}
            after = apportion(sum(have.values()) + total, shares, have, most)
            counts = {index: after[index] - have[index] for index in have}
        for index, group in enumerate(partition):
            for chosen in _positive_scores_first(group, scores, free, counts[index], generator):
                add_chosen(grown, group, chosen, parameters)
    return {name: p.weight_mask(grown[name]) for name, p in parameters.items()}


def _grow_globally(
    method: Method,
    parameters: PrunableParameters,
    scores: Scores,
    free: Mapping[str, Tensor],
    quotas: Mapping[str, int],
    generator: Generator,
) -> Masks:
    """Grow where the scores of the whole network are largest, within floor and ceiling of each tensor."""
    ((group,),) = global_(parameters)
    grown: Masks = {}
    for chosen in _positive_scores_first(group, scores, free, sum(quotas.values()), generator):
        add_chosen(grown, group, chosen, parameters)
    counts = {name: count_true(grown[name]) for name in parameters}
    sizes = {name: p.n_blocks for name, p in parameters.items()}
    survivors = {name: sizes[name] - count_true(free[name]) for name in parameters}
    lower, upper = growth_limits(survivors, quotas, sizes, floor=method.floor, ceiling=method.ceiling)
    if not all(lower[name] <= counts[name] <= upper[name] for name in counts):
        counts, grown = apportion(sum(quotas.values()), counts, lower, upper), {}
        for name, count in counts.items():
            group = whole_tensor(parameters, name)
            for chosen in _positive_scores_first(group, scores, free, count, generator):
                add_chosen(grown, group, chosen, parameters)
    return {name: p.weight_mask(grown[name]) for name, p in parameters.items()}


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


def ranking_partitions(method: Method, scope: Scope, parameters: PrunableParameters) -> list[Partition]:
    """Return the partitions of a scope; those of the gates where a method gives gates densities."""
    return (gate if method.gate_densities else scope)(parameters)


def gate_shares(method: Method, partition: Partition) -> dict[int, float]:
    """Return the share of each gate of a tensor in its blocks, by the index of the group; empty without densities."""
    densities = method.gate_densities
    return {
        index: densities[index] if index < len(densities) else 1.0
        for index in range(len(partition) if densities else 0)
    }


def group_counts(partition: Partition, blocks: Mapping[str, Tensor]) -> dict[int, int]:
    """Count the True blocks of each group of a partition, by its index; a tensor that `blocks` lacks has none."""
    return {
        index: sum(
            count_true(blocks[name][span] if side is None else blocks[name][span] & side)
            for name, span, side in group
            if name in blocks
        )
        for index, group in enumerate(partition)
    }


def block_scores_of(score: Score, parameters: PrunableParameters) -> Scores:
    """Return the scores of the blocks of every tensor; None where the choice is random."""
    return {name: None if (one := score(p)) is None else p.block_scores(one) for name, p in parameters.items()}


def fill_n_of_m(method: Method, parameters: PrunableParameters, scores: Scores, active: Mapping[str, Tensor]) -> Masks:
    """Choose as many inactive weights of each group of N:M as it lacks."""
    pattern, masks = method.granularity, {}
    for name, p in parameters.items():
        known = torch.rand(p.n_blocks, generator=p.generator) if (one := scores[name]) is None else one[:]
        present = active[name].reshape(-1)
        missing = pattern.keep - present.view(-1, pattern.of).sum(dim=1)  # (groups,)
        masks[name] = p.weight_mask(largest_in_each_group(known.to(present.device), ~present, missing))
    return masks


def whole_tensor(parameters: PrunableParameters, name: str) -> RankingGroup:
    """Return the ranking group of all blocks of one tensor."""
    return [(name, slice(0, parameters[name].n_blocks), None)]


def add_chosen(masks: Masks, group: RankingGroup, chosen: Masks, parameters: PrunableParameters) -> None:
    """Add the chosen blocks of a ranking group to block masks."""
    for name, span, _ in group:
        if name not in masks and len(chosen[name]) == parameters[name].n_blocks:
            masks[name] = chosen[name]
            continue
        mask = masks.setdefault(name, torch.zeros_like(parameters[name].block_mask(parameters[name].mask)))
        mask[span] |= chosen[name]
