"""Updates that behave as the published recurrent engine really does, to reproduce its results; inexact on purpose.

Each is an update (see `updates.py`) for `Method.update`, named "published_..." in an experiment.toml. They differ from
the exact update in how many weights they drop, in the wrong sign of SET, and in growth: every inactive position grows
with the same probability, so that the number of active weights is only on average the target. No default search space
contains them. Not reproduced: the feedback of this deviation into later updates, and the limit of growth at 99 % of the
inactive positions. Source: the code of Liu et al. 2021 (Selfish-RNN), in the version of the hyperpruning code.
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

INITIAL_THRESHOLD = 0.001
TOLERANCE = 0.02  # of the number of dropped weights, relative to the planned number

# (parameters, fraction, buffers) -> masks of the weights that stay
DropRule = Callable[[PrunableParameters, float, dict[str, Tensor]], Masks]


def update(
    method: Method,
    parameters: PrunableParameters,
    targets: Mapping[str, int],
    fraction: float,
    buffers: dict[str, Tensor],
    generator: Generator,
    *,
    drop: DropRule,
) -> tuple[Masks, Masks]:
    """Drop by one of the published rules, and grow each inactive position with the same probability."""
    planned = sum(math.ceil(fraction * int(parameter.mask.count_nonzero())) for parameter in parameters.values())
    shares = _shares(method, parameters)
    kept = drop(parameters, fraction, buffers)
    removed = {
        name: int(parameter.mask.count_nonzero() - kept[name].count_nonzero()) for name, parameter in parameters.items()
    }
    scale = 1.0
    if drop is threshold:  # adapt the planned growth to the dropped number, and the threshold to the planned number
        scale = sum(removed.values()) / planned if planned else 0.0
        buffers["threshold"] *= 2.0 if scale < 1 - TOLERANCE else 0.5 if scale > 1 + TOLERANCE else 1.0
    grown = {}
    for name, mask in kept.items():
        quota = math.floor(scale * math.ceil(shares[name] * planned))
        if method.redistribute is redistributions.none and drop is not threshold:
            quota = targets[name] - int(mask.count_nonzero())
        grown[name] = bernoulli(~mask, quota, generator)
    return kept, grown


def bernoulli(empty: Tensor, count: int, generator: Generator) -> Tensor:
    """Grow each empty position with probability count / (number of empty positions), on average `count` of them."""
    drawn = torch.rand(empty.shape, generator=generator).to(empty.device)
    return empty & (drawn < count / max(1, int(empty.count_nonzero())))


def magnitude(parameters: PrunableParameters, fraction: float, buffers: dict[str, Tensor]) -> Masks:
    """Drop all weights up to the magnitude of the last one in the quota; ties are dropped beyond the quota."""
    kept = {}
    for name, parameter in parameters.items():
        sizes, quota = parameter.weight.abs(), math.ceil(fraction * int(parameter.mask.count_nonzero()))
        rank = parameter.mask.numel() - int(parameter.mask.count_nonzero()) + quota
        kept[name] = (
            parameter.mask & (sizes > sizes.flatten().kthvalue(rank).values) if quota else parameter.mask.clone()
        )
    return kept


def signed(parameters: PrunableParameters, fraction: float, buffers: dict[str, Tensor]) -> Masks:
    """Drop half of the quota from the smallest positive weights and half from the most negative ones (sign error)."""
    kept = {}
    for name, parameter in parameters.items():
        half = math.ceil(math.ceil(fraction * int(parameter.mask.count_nonzero())) / 2)
        weight, kept[name] = parameter.weight, parameter.mask.clone()
        for side in (weight > 0, weight < 0):
            values = weight[side]
            if half and len(values):  # if one sign is missing, the published code crashes
                kept[name] &= ~side | (weight > values.kthvalue(min(half, len(values))).values)
    return kept


def threshold(parameters: PrunableParameters, fraction: float, buffers: dict[str, Tensor]) -> Masks:
    """Drop |w| <= H with one H for all tensors, which is doubled or halved if an update missed the planned number."""
    level = buffers.setdefault("threshold", torch.tensor(INITIAL_THRESHOLD, dtype=torch.float64))
    return {name: p.mask & (p.weight.abs() > float(level)) for name, p in parameters.items()}


def global_threshold(parameters: PrunableParameters, fraction: float, buffers: dict[str, Tensor]) -> Masks:
    """Search the H that drops the planned number within 2 %; the search step shrinks from update to update."""
    level = buffers.setdefault("threshold", torch.tensor(INITIAL_THRESHOLD, dtype=torch.float64))
    step = buffers.setdefault("increment", torch.tensor(0.2, dtype=torch.float64))
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
    """Return each tensor's share by the redistribution before the drop; without one all tensors get equal shares."""
    if method.redistribute is redistributions.none:
        return dict.fromkeys(parameters, 1 / len(parameters))
    masks = {name: p.mask for name, p in parameters.items()}
    shares = method.redistribute(parameters, masks, dict.fromkeys(parameters, 0))
    return {name: share / max(sum(shares.values()), 1e-4) for name, share in shares.items()}


PUBLISHED_UPDATES: dict[str, UpdateRule] = {
    "published_magnitude": partial(update, drop=magnitude),
    "published_set": partial(update, drop=signed),
    "published_threshold": partial(update, drop=threshold),
    "published_global": partial(update, drop=global_threshold),
}
