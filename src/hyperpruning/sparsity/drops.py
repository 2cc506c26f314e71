"""Which weights an update takes away.

A drop is a function `(parameters, masks, fraction) -> kept`: parameters and bool masks by name (parameters carry their
`.grad`), the fraction of the active weights to take, and back the masks of what stays, each a subset of its mask.
Of equal weights the first stay. To add one, write the function and its line in DROPS.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hyperpruning.sparsity.exact import apportion, largest, within

Drop = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], float], dict[str, Tensor]]


def magnitude(parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
    """Drop the smallest |w| of each tensor: floor(f a_l) of them. Source: RigL, Evci et al. 2020."""
    kept = {}
    for name, mask in masks.items():
        weights = parameters[name][mask].abs()  # (a_l,)
        kept[name] = within(mask, largest(weights, len(weights) - _quota(fraction, mask)))
    return kept


def signed_magnitude(
    parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor], fraction: float
) -> dict[str, Tensor]:
    """Drop, of each tensor, the same fraction of the smallest positive weights and of the negative closest to zero.

    floor(f a_l) in all. A weight that is exactly zero counts as positive.
    Source: SET, Mocanu et al. 2018. (The recurrent codes published since drop the most negative weights instead.)
    """
    kept = {}
    for name, mask in masks.items():
        weights = parameters[name][mask]  # (a_l,)
        groups = {"positive": weights >= 0, "negative": weights < 0}
        counts = {sign: int(group.count_nonzero()) for sign, group in groups.items()}
        quotas = apportion(_quota(fraction, mask), counts, dict.fromkeys(counts, 0), counts)
        stays = torch.zeros_like(groups["positive"])
        for sign, group in groups.items():
            stays[group] = largest(weights[group].abs(), counts[sign] - quotas[sign])
        kept[name] = within(mask, stays)
    return kept


def global_magnitude(
    parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor], fraction: float
) -> dict[str, Tensor]:
    """Drop the smallest |w| of all tensors together: floor(f A) of them.

    Source: DSR, Mostafa & Wang 2019, whose adaptive threshold aims at this set; here it is met exactly.
    """
    weights = [parameters[name][mask].abs() for name, mask in masks.items()]
    stays = largest(torch.cat(weights), sum(map(len, weights)) - _quota(fraction, *masks.values()))
    parts = torch.split(stays, [len(part) for part in weights])
    return {name: within(mask, part) for (name, mask), part in zip(masks.items(), parts, strict=True)}


def _quota(fraction: float, *masks: Tensor) -> int:
    """Count what to drop: floor(f a), but no more than there are empty places to move to.

    Without that limit a nearly dense tensor would have its own weights set to zero and returned to it.
    """
    active = sum(int(mask.count_nonzero()) for mask in masks)
    return min(math.floor(fraction * active), sum(mask.numel() for mask in masks) - active)


DROPS: dict[str, Drop] = {
    "magnitude": magnitude,
    "signed_magnitude": signed_magnitude,
    "global_magnitude": global_magnitude,
}
