"""One update of the masks: drop, redistribute, grow. The number of active units is exact.

An update is a function `(method, parameters, targets, fraction, memory, generator) -> (kept, grown)`. `targets` is the
number of units that each tensor must have afterwards, `fraction` the part of them that is dropped and grown again,
`memory` a dict of tensors that is saved from one update to the next. It returns two dicts of bool masks of each
parameter's shape: the weights that stay and the weights that are new. It changes nothing but `memory`.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from hyperpruning.sparsity.mask_inits import Calibration, Scores
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.parameter import PrunableParameters
from hyperpruning.sparsity.redistributions import growth_quotas
from hyperpruning.sparsity.scopes import Pool, choose, global_
from hyperpruning.sparsity.scores import Score
from hyperpruning.sparsity.selection import apportion, counted, largest_of_each, positive

Masks = dict[str, Tensor]
UpdateRule = Callable[
    [Method, PrunableParameters, Mapping[str, int], float, dict[str, Tensor], Generator],
    tuple[Masks, Masks],
]


def beginning(
    method: Method,
    parameters: PrunableParameters,
    counts: Mapping[str, int],
    calibration: Calibration | None,
) -> Masks:
    """Choose the masks to begin with: `counts` units of each tensor, or as many in all if the scope is global."""
    found = method.mask_init(parameters, calibration)
    scores = {name: None if one is None else parameters[name].pooled(one) for name, one in found.items()}
    if method.granularity.of:
        return _filled(
            method,
            parameters,
            scores,
            {name: torch.zeros_like(p.mask) for name, p in parameters.items()},
        )
    everything = {name: torch.ones_like(p.chosen(p.mask)) for name, p in parameters.items()}
    if method.mask_init_scope is global_ and len(parameters) > 1:
        counts = _global_counts(method, parameters, counts, scores, everything)
    chosen: Masks = {}
    for name, parameter in parameters.items():
        chosen |= choose(
            [(name, slice(0, parameter.units), None)], scores, everything, counts[name], parameter.generator
        )
    return {name: p.spread(chosen[name]) for name, p in parameters.items()}


def _global_counts(
    method: Method,
    parameters: PrunableParameters,
    counts: Mapping[str, int],
    scores: Scores,
    everything: Masks,
) -> dict[str, int]:
    """Count what a global choice takes of each tensor, within the density limits, so that no tensor dies of it."""
    ((pool,),) = global_(parameters)
    found = choose(pool, scores, everything, sum(counts.values()), next(iter(parameters.values())).generator)
    share = {name: counted(chosen) for name, chosen in found.items()}
    lower = {
        name: min(counts[name], math.ceil(method.floor * parameter.units)) for name, parameter in parameters.items()
    }
    upper = {
        name: max(counts[name], math.floor(method.ceiling * parameter.units)) for name, parameter in parameters.items()
    }
    return apportion(sum(counts.values()), share, lower, upper)


def exchange(
    method: Method,
    parameters: PrunableParameters,
    targets: Mapping[str, int],
    fraction: float,
    memory: dict[str, Tensor],
    generator: Generator,
) -> tuple[Masks, Masks]:
    """Drop down to the targets and `fraction` of them further, and grow as many as that fraction."""
    if method.soft_shrinkage and method.granularity.of:  # every weight may return, and every group keeps its best
        none = {name: torch.zeros_like(p.mask) for name, p in parameters.items()}
        return _filled(method, parameters, _pooled(method.drop, parameters), none), none
    survivors, lost = _drop(method, parameters, targets, fraction, generator)
    kept = {name: p.spread(survivors[name]) for name, p in parameters.items()}
    if method.grow is None:
        return kept, {name: torch.zeros_like(mask) for name, mask in kept.items()}
    quotas = growth_quotas(
        method.redistribute(parameters, kept, lost),
        {name: counted(units) for name, units in survivors.items()},
        lost,
        {name: p.units for name, p in parameters.items()},
        floor=method.floor,
        ceiling=method.ceiling,
    )
    return kept, grow(method, parameters, survivors, quotas, generator)


def _drop(
    method: Method,
    parameters: PrunableParameters,
    targets: Mapping[str, int],
    fraction: float,
    generator: Generator,
) -> tuple[Masks, dict[str, int]]:
    """Choose what stays; return the units that do, flat, and how many each tensor is to get back."""
    assert method.drop is not None
    active = {name: p.chosen(p.mask) for name, p in parameters.items()}
    # under soft shrinkage every weight is alive, and may return
    eligible = {name: torch.ones_like(units) for name, units in active.items()} if method.soft_shrinkage else active
    scores = _pooled(method.drop, parameters)
    survivors: Masks = {}
    lost: dict[str, int] = {}
    for family in method.drop_scope(parameters):
        names = {name: None for pool in family for name, _, _ in pool}
        total, units = sum(targets[name] for name in names), sum(parameters[name].units for name in names)
        # no more than there are empty places to move to: a nearly dense tensor would get its own weights back, at zero
        swapped = min(math.floor(fraction * total), units - total)
        stay, give = _split(family, eligible, total, swapped)
        for place, pool in enumerate(family):
            chosen = choose(pool, scores, eligible, stay[place] - give[place], generator)
            _add(survivors, pool, chosen, parameters)
        gone = {name: counted(active[name]) - counted(survivors[name]) for name in names}
        lost |= apportion(swapped, gone, dict.fromkeys(names, 0), gone) if swapped else dict.fromkeys(names, 0)
    return survivors, lost


def _add(masks: Masks, pool: Pool, chosen: Masks, parameters: PrunableParameters) -> None:
    """Add what was chosen of a pool to flat masks."""
    for name, span, _ in pool:
        if name not in masks and len(chosen[name]) == parameters[name].units:
            masks[name] = chosen[name]
            continue
        whole = masks.setdefault(name, torch.zeros_like(parameters[name].chosen(parameters[name].mask)))
        whole[span] |= chosen[name]


def _split(
    family: list[Pool], eligible: Mapping[str, Tensor], total: int, swapped: int
) -> tuple[dict[int, int], dict[int, int]]:
    """Split what a family has to have, and what it exchanges, between its pools in proportion to what they hold."""
    held = {
        place: sum(
            counted(eligible[name][span] if side is None else eligible[name][span] & side) for name, span, side in pool
        )
        for place, pool in enumerate(family)
    }
    none = dict.fromkeys(held, 0)
    stay = apportion(total, held, none, held)
    return stay, apportion(swapped, stay, none, stay)


def grow(
    method: Method,
    parameters: PrunableParameters,
    survivors: Mapping[str, Tensor],
    quotas: Mapping[str, int],
    generator: Generator,
) -> Masks:
    """Choose what is new outside the survivors (flat units): as many as the quotas say."""
    assert method.grow is not None
    free = {name: ~units for name, units in survivors.items()}
    scores = _pooled(method.grow, parameters)
    if method.granularity.of:  # every group gets back what it lost
        return _filled(method, parameters, scores, survivors)
    grown: Masks = {}
    for family in method.grow_scope(parameters):
        total = sum(quotas[name] for name in {name for pool in family for name, _, _ in pool})
        room = {i: sum(counted(free[name][span]) for name, span, _ in p) for i, p in enumerate(family)}
        counts = apportion(total, dict.fromkeys(room, 1.0), dict.fromkeys(room, 0), room)
        for place, pool in enumerate(family):
            for chosen in _informed_first(pool, scores, free, counts[place], generator):
                _add(grown, pool, chosen, parameters)
    return {name: p.spread(grown[name]) for name, p in parameters.items()}


def _pooled(rule: Score | None, parameters: PrunableParameters) -> Scores:
    """Score the units of every tensor; None where the rule chooses at random."""
    assert rule is not None
    return {
        name: None if (one := rule(parameter)) is None else parameter.pooled(one)
        for name, parameter in parameters.items()
    }


def _filled(method: Method, parameters: PrunableParameters, scores: Scores, active: Mapping[str, Tensor]) -> Masks:
    """Choose what is missing to `keep` of every `of` weights."""
    unit, masks = method.granularity, {}
    for name, parameter in parameters.items():
        known = torch.rand(parameter.units, generator=parameter.generator) if (one := scores[name]) is None else one[:]
        there = active[name].reshape(-1)
        missing = unit.keep - there.view(-1, unit.of).sum(dim=1)
        masks[name] = parameter.spread(largest_of_each(known.to(there.device), ~there, missing))
    return masks


def _informed_first(
    pool: Pool,
    scores: Scores,
    free: Mapping[str, Tensor],
    count: int,
    generator: Generator,
) -> list[Masks]:
    """Choose among the scores above zero, and at random where these are too few (words that were not in the batch)."""
    known = {name: score for name, _, _ in pool if (score := scores[name]) is not None}
    if len(known) < len(pool):
        return [choose(pool, scores, free, count, generator)]
    informed = {name: positive(score, free[name]) for name, score in known.items()}
    enough = sum(counted(informed[name][span]) for name, span, _ in pool)
    first = choose(pool, scores, informed, min(count, enough), generator)
    if count <= enough:
        return [first]
    silent = {name: free[name] & ~informed[name] for name in known}
    return [first, choose(pool, dict.fromkeys(known), silent, count - enough, generator)]
