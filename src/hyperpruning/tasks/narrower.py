"""The same task with a narrower network: the dense network that has as many weights as a pruned one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar("T")


def narrower_task(task: T, weights: int, widths: Sequence[str], network: Callable[[Mapping[str, Any]], nn.Module]) -> T:
    """Return the task with the widest network that has at most so many weights, all widths in proportion.

    Args:
        task: a frozen dataclass.
        weights: the largest number of weights in matrices (biases and other vectors are not counted; tied weights
            count once).
        widths: the names of the fields that are widths, each an int, a tuple of ints or a mapping with such values.
        network: builds the network with other values of these fields; it is called on the device "meta", where it takes
            no memory.

    Raises:
        ValueError: even a network of width 1 has more weights.
    """
    widest = max(max(_as_tuple(getattr(task, name))) for name in widths)

    def scaled(width: int) -> dict[str, Any]:
        return {name: _scaled(getattr(task, name), width / widest) for name in widths}

    def fits(width: int) -> bool:
        with torch.device("meta"):
            return weight_count(network(scaled(width))) <= weights

    if not fits(1):
        with torch.device("meta"):
            least = weight_count(network(scaled(1)))
        raise ValueError(
            f"weights must be at least the {least:,} of a network of width 1, got {weights:,}. Prune less, or leave "
            "the narrower network out."
        )
    low, high = 1, widest + 1  # low fits; high does not, or is wider than the task's network
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return replace(task, **scaled(low))  # type: ignore[type-var]


def weight_count(network: nn.Module) -> int:
    """Number of weights in matrices, tied ones once: those that can be pruned."""
    return sum(weight.numel() for weight in network.parameters() if weight.ndim >= 2)


def _scaled(width: Any, factor: float) -> Any:
    if isinstance(width, Mapping):
        return {name: _scaled(one, factor) for name, one in width.items()}
    if isinstance(width, int):
        return max(1, round(width * factor))
    return tuple(max(1, round(one * factor)) for one in width)


def _as_tuple(width: Any) -> tuple[int, ...]:
    if isinstance(width, Mapping):
        return tuple(one for value in width.values() for one in _as_tuple(value))
    return (width,) if isinstance(width, int) else tuple(width)
