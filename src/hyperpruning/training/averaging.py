"""Averages of the weights along the training, kept in the state of any optimizer.

After k steps of averaging, the average of a weight w is x <- x + (w - x) / max(1, k - 1), as in
``torch.optim.ASGD(t0=0, lambd=0)``, but with a separate k for each weight. Average and count are state tensors of the
parameter's shape: a `Sparsifier` sets them to zero for pruned weights, so that the average of a regrown weight starts
again and does not include the zeros from before. They are saved with the optimizer's state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer


def keep_averages(optimizer: Optimizer) -> Optimizer:
    """From `start_averaging` on, update the averages after every step of the optimizer; returns the optimizer.

    An optimizer with the default "averaging", such as `SNTASGD`, updates them itself.
    """
    if "averaging" not in optimizer.defaults:
        optimizer.defaults["averaging"] = False
        for group in optimizer.param_groups:
            group["averaging"] = False
        optimizer.register_step_post_hook(lambda optimizer, *_: update_averages(optimizer))
    return optimizer


def is_averaging(optimizer: Optimizer) -> bool:
    """Whether averaging has started."""
    return bool(optimizer.param_groups[0].get("averaging", False))


def start_averaging(optimizer: Optimizer) -> None:
    """Start averaging with the next step; a second call has no effect."""
    for group in optimizer.param_groups:
        group["averaging"] = True


@torch.no_grad()
def update_averages(optimizer: Optimizer) -> None:
    """Include the present weights in their averages, if averaging has started; weights without a gradient are left."""
    for group in optimizer.param_groups:
        if group["averaging"]:
            for weight in group["params"]:
                if weight.grad is not None:
                    _update(weight, optimizer.state[weight])


def _update(weight: Tensor, state: dict[str, Tensor]) -> None:
    if "average" not in state:
        state["average"] = torch.zeros_like(weight)
        state["count"] = torch.zeros_like(weight)  # not integers: torch's load_state_dict would make them floats
    count, average = state["count"], state["average"]
    count.add_(1)
    average.addcdiv_(weight - average, (count - 1).clamp_(min=1))


@contextmanager
def averaged(optimizer: Optimizer) -> Iterator[None]:
    """Within the block, weights that have an average are replaced by it: evaluate and save here."""
    swapped = []
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if "average" in optimizer.state.get(weight, {}):
                swapped.append((weight, weight.detach().clone()))
                weight.data.copy_(optimizer.state[weight]["average"])
    try:
        yield
    finally:
        for weight, value in swapped:
            weight.data.copy_(value)


def non_monotone(losses: Sequence[float], n: int = 5) -> bool:
    """Whether averaging should start: the newest validation loss is worse than the best of more than n epochs ago.

    The trigger of NT-ASGD (Merity et al. 2018, arXiv 1708.02182, section 3): with v the newest loss and more than n
    before it, v > min(those before it without their last n).

    Args:
        losses: validation losses, one for each epoch, the newest last.
        n: number of epochs without improvement.

    >>> non_monotone([5.0, 4.0, 4.5, 4.2], n=2), non_monotone([5.0, 4.0, 4.5, 5.1], n=2)
    (False, True)
    """
    *earlier, newest = losses
    return len(earlier) > n and newest > min(earlier[: len(earlier) - n])
