"""Updates that behave as the published recurrent engine really does, to reproduce its results; inexact on purpose.

Each is an update (see `updates.py`) for `Method.update`, named "published_..." in an experiment.toml. They differ from
the exact update in how many weights they drop, in the wrong sign of SET, and in growth: every inactive position grows
with the same probability, so that the number of active weights is only on average the target. `Method.floor` and
`ceiling` have no effect. No default search space contains them. Not reproduced: the feedback of this deviation into
later updates, and the limit of growth at 99 % of the inactive positions. Source: the code of Liu et al. 2021
(Selfish-RNN), in the version of the hyperpruning code.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from hyperpruning.sparsity import redistributions
from hyperpruning.sparsity.growth import Masks
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.parameter import PrunableParameters
from hyperpruning.sparsity.updates import UpdateRule

INITIAL_THRESHOLD = 0.001
TOLERANCE = 0.02  # of the number of dropped weights, relative to the planned number
NEAR_DENSE = 0.2  # the fraction of inactive weights below which the guard protects a tensor


@dataclass(frozen=True)
class Quota:
    """What a drop rule aims at.

    Attributes:
        fraction: the drop fraction of the schedule.
        guarded: the drop fraction of each tensor, which the near-dense guard may lower.
        baseline: the number of active weights at the first update.
    """

    fraction: float
    guarded: Mapping[str, float]
    baseline: int


# (parameters, quota, buffers) -> masks of the weights that stay
DropRule = Callable[[PrunableParameters, Quota, dict[str, Tensor]], Masks]


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
    counts = {name: int(parameter.mask.count_nonzero()) for name, parameter in parameters.items()}
    baseline = {n: int(buffers.setdefault(f"baseline {n}", torch.tensor(count))) for n, count in counts.items()}
    shares = _shares(method, parameters, float(buffers.get("threshold", torch.tensor(INITIAL_THRESHOLD))))
    total = max(sum(shares.values()), 1e-4)
    normalised = {name: share / total for name, share in shares.items()}
    planned = _planned(parameters, counts, shares, fraction)
    plan = {name: math.ceil(share * planned) for name, share in normalised.items()}
    guarded = {name: _guarded(parameters[name].mask, fraction, normalised[name], len(plan)) for name in plan}
    kept = drop(parameters, Quota(fraction, guarded, sum(baseline.values())), buffers)
    removed = sum(counts.values()) - sum(int(mask.count_nonzero()) for mask in kept.values())
    expected = sum(plan.values()) if drop is threshold else fraction * sum(baseline.values())
    if drop is threshold:  # adapt the threshold to the planned number
        scale = removed / expected if expected else 0.0
        buffers["threshold"] *= 2.0 if scale < 1 - TOLERANCE else 0.5 if scale > 1 + TOLERANCE else 1.0
    grown = {}
    for name, mask in kept.items():
        quota = plan[name]
        if drop is threshold or (drop is global_threshold and method.redistribute is not redistributions.none):
            quota = math.floor(removed / expected * plan[name]) if expected else 0
        elif method.redistribute is redistributions.none:
            quota = baseline[name] - int(mask.count_nonzero())
        grown[name] = bernoulli(~mask, quota, generator)
    return kept, grown


def bernoulli(empty: Tensor, count: int, generator: Generator) -> Tensor:
    """Grow each empty position with probability count / (number of empty positions), on average `count` of them."""
    drawn = torch.rand(empty.shape, generator=generator).to(empty.device)
    return empty & (drawn < count / max(1, int(empty.count_nonzero())))


def magnitude(parameters: PrunableParameters, quota: Quota, buffers: dict[str, Tensor]) -> Masks:
    """Drop all weights up to the magnitude of the last one in the quota; ties are dropped beyond the quota."""
    kept = {}
    for name, parameter in parameters.items():
        sizes, active = parameter.weight.abs(), int(parameter.mask.count_nonzero())
        count = math.ceil(quota.guarded[name] * active)
        rank = parameter.mask.numel() - active + count
        kept[name] = (
            parameter.mask & (sizes > sizes.flatten().kthvalue(rank).values) if count else parameter.mask.clone()
        )
    return kept


def signed(parameters: PrunableParameters, quota: Quota, buffers: dict[str, Tensor]) -> Masks:
    """Drop half of the quota from the smallest positive weights and half from the most negative ones (sign error)."""
    kept = {}
    for name, parameter in parameters.items():
        half = math.ceil(math.ceil(quota.fraction * int(parameter.mask.count_nonzero())) / 2)
        weight, kept[name] = parameter.weight, parameter.mask.clone()
        for side in (weight > 0, weight < 0):
            values = weight[side]
            if half and len(values):  # if one sign is missing, the published code crashes
                kept[name] &= ~side | (weight > values.kthvalue(min(half, len(values))).values)
    return kept


def threshold(parameters: PrunableParameters, quota: Quota, buffers: dict[str, Tensor]) -> Masks:
    """Drop |w| <= H with one H for all tensors, which is doubled or halved if an update missed the planned number."""
    level = buffers.setdefault("threshold", torch.tensor(INITIAL_THRESHOLD, dtype=torch.float64))
    return {name: p.mask & (p.weight.abs() > float(level)) for name, p in parameters.items()}


def global_threshold(parameters: PrunableParameters, quota: Quota, buffers: dict[str, Tensor]) -> Masks:
    """Search the H that drops the planned number within 2 %; the search step shrinks from update to update."""
    level = buffers.setdefault("threshold", torch.tensor(INITIAL_THRESHOLD, dtype=torch.float64))
    step = buffers.setdefault("increment", torch.tensor(0.2, dtype=torch.float64))
    active = sum(int(p.mask.count_nonzero()) for p in parameters.values())
    plan, before = math.ceil(quota.fraction * quota.baseline), 0
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


def _shares(method: Method, parameters: PrunableParameters, level: float) -> dict[str, float]:
    """Return each tensor's share by the redistribution, before the drop; without one all tensors get equal shares."""
    if method.redistribute is redistributions.none:
        return dict.fromkeys(parameters, 1.0)
    if method.redistribute is redistributions.nonzeros:  # the code counts what is above the threshold of the drop
        return {name: float((p.weight.abs() > level).sum()) for name, p in parameters.items()}
    masks = {name: p.mask for name, p in parameters.items()}
    return method.redistribute(parameters, masks, dict.fromkeys(parameters, 0))


def _guarded(mask: Tensor, fraction: float, share: float, n_tensors: int) -> float:
    """Return the drop fraction of a tensor: if it is nearly dense and grows, at most its fraction of inactive weights.

    A tensor grows if its share is above that of equal shares.
    """
    inactive = (mask.numel() - int(mask.count_nonzero())) / mask.numel()
    return min(inactive, fraction) if inactive < NEAR_DENSE and share > 1 / n_tensors else fraction


def _planned(
    parameters: PrunableParameters, counts: Mapping[str, int], shares: Mapping[str, float], fraction: float
) -> int:
    """Return the number of weights that the code plans to drop.

    Its guard sees shares that are not yet normalised, and only the tensors so far; so this is not what is dropped.
    """
    return sum(
        math.ceil(_guarded(parameters[name].mask, fraction, shares[name], so_far) * count)
        for so_far, (name, count) in enumerate(counts.items(), start=1)
    )


PUBLISHED_UPDATES: dict[str, UpdateRule] = {
    "published_magnitude": partial(update, drop=magnitude),
    "published_set": partial(update, drop=signed),
    "published_threshold": partial(update, drop=threshold),
    "published_global": partial(update, drop=global_threshold),
}
