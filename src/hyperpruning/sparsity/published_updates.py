"""What the published recurrent engine really does, to reproduce its results: inexact on purpose, in no default space.

Each is an update (see `updates.py`) for `Method.update`, named "published_..." in an experiment.toml. They differ from
the exact update in how many weights they drop, in the wrong sign of SET, and in growth: every empty position grows with
one probability, so that the budget holds in expectation only. Not reproduced: the feedback of the deviation into later
plans, and the limit at 99 % of the free places. Source: the code of Liu et al. 2021 (Selfish-RNN), as the code of
hyperpruning has it.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Generator, Tensor

from hyperpruning.sparsity import redistributions
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.parameter import PrunableParameters
from hyperpruning.sparsity.updates import Masks, UpdateRule

START = 0.001  # of the global threshold
TOLERANCE = 0.02

# (parameters, fraction, memory) -> what stays
Death = Callable[[PrunableParameters, float, dict[str, Tensor]], Masks]


def update(
    method: Method,
    parameters: PrunableParameters,
    targets: Mapping[str, int],
    fraction: float,
    memory: dict[str, Tensor],
    generator: Generator,
    *,
    death: Death,
) -> tuple[Masks, Masks]:
    """Drop as one of the published modes does, and grow with a probability for each empty position."""
    planned = sum(math.ceil(fraction * int(parameter.mask.count_nonzero())) for parameter in parameters.values())
    shares = _shares(method, parameters)
    kept = death(parameters, fraction, memory)
    removed = {
        name: int(parameter.mask.count_nonzero() - kept[name].count_nonzero()) for name, parameter in parameters.items()
    }
    scale = 1.0
    if death is threshold:  # the controller's plans are scaled to what it did, its threshold to what it should have
        scale = sum(removed.values()) / planned if planned else 0.0
        memory["threshold"] *= 2.0 if scale < 1 - TOLERANCE else 0.5 if scale > 1 + TOLERANCE else 1.0
    grown = {}
    for name, mask in kept.items():
        quota = math.floor(scale * math.ceil(shares[name] * planned))
        if method.redistribute is redistributions.none and death is not threshold:
            quota = targets[name] - int(mask.count_nonzero())
        grown[name] = bernoulli(~mask, quota, generator)
    return kept, grown


def bernoulli(empty: Tensor, count: int, generator: Generator) -> Tensor:
    """Grow each empty position with the probability count / positions: `count` of them in expectation."""
    drawn = torch.rand(empty.shape, generator=generator).to(empty.device)
    return empty & (drawn < count / max(1, int(empty.count_nonzero())))


def magnitude(parameters: PrunableParameters, fraction: float, memory: dict[str, Tensor]) -> Masks:
    """Drop every weight of a tensor up to the size of the last one to go: ties go beyond the quota."""
    kept = {}
    for name, parameter in parameters.items():
        sizes, quota = parameter.weight.abs(), math.ceil(fraction * int(parameter.mask.count_nonzero()))
        rank = parameter.mask.numel() - int(parameter.mask.count_nonzero()) + quota
        kept[name] = (
            parameter.mask & (sizes > sizes.flatten().kthvalue(rank).values) if quota else parameter.mask.clone()
        )
    return kept


def signed(parameters: PrunableParameters, fraction: float, memory: dict[str, Tensor]) -> Masks:
    """Drop half the quota of the smallest positive weights, and half of the most negative: the sign error."""
    kept = {}
    for name, parameter in parameters.items():
        half = math.ceil(math.ceil(fraction * int(parameter.mask.count_nonzero())) / 2)
        weight, kept[name] = parameter.weight, parameter.mask.clone()
        for side in (weight > 0, weight < 0):
            values = weight[side]
            if half and len(values):  # where one sign is missing the published code crashes
                kept[name] &= ~side | (weight > values.kthvalue(min(half, len(values))).values)
    return kept


def threshold(parameters: PrunableParameters, fraction: float, memory: dict[str, Tensor]) -> Masks:
    """Drop |w| <= H with one H for all, doubled or halved after an update that missed the plan."""
    level = memory.setdefault("threshold", torch.tensor(START, dtype=torch.float64))
    return {name: p.mask & (p.weight.abs() > float(level)) for name, p in parameters.items()}


def global_threshold(parameters: PrunableParameters, fraction: float, memory: dict[str, Tensor]) -> Masks:
    """Look for the H that drops the plan within 2 %, with steps that shrink from update to update."""
    level = memory.setdefault("threshold", torch.tensor(START, dtype=torch.float64))
    step = memory.setdefault("increment", torch.tensor(0.2, dtype=torch.float64))
    active = sum(int(p.mask.count_nonzero()) for p in parameters.values())
    plan, before = math.ceil(fraction * active), 0
    while True:
        kept = {
            name: parameter.mask & (parameter.weight.abs() > float(level)) for name, parameter in parameters.items()
        }
        removed = active - sum(int(mask.count_nonzero()) for mask in kept.values())
        if removed == before or (1 - TOLERANCE) * plan <= removed <= (1 + TOLERANCE) * plan:
            return kept
        before = removed
        level *= 1 - step if removed > plan else 1 + step
        step *= 0.99


def _shares(method: Method, parameters: PrunableParameters) -> dict[str, float]:
    """Share the plan as redistribution says before the drop; without one by tensors, not by weights."""
    if method.redistribute is redistributions.none:
        return dict.fromkeys(parameters, 1 / len(parameters))
    masks = {name: p.mask for name, p in parameters.items()}
    shares = method.redistribute(parameters, masks, dict.fromkeys(parameters, 0))
    return {name: share / max(sum(shares.values()), 1e-4) for name, share in shares.items()}


PUBLISHED_UPDATES: dict[str, UpdateRule] = {
    "published_magnitude": partial(update, death=magnitude),
    "published_set": partial(update, death=signed),
    "published_threshold": partial(update, death=threshold),
    "published_global": partial(update, death=global_threshold),
}
