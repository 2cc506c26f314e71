"""Averages of the weights along the training, kept in the state of any optimizer.

There are two. The tail average, from an epoch of the training on, takes the place of the weights in evaluation. After k
steps of averaging, the average of a weight w is x <- x + (w - x) / max(1, k - 1), as in
``torch.optim.ASGD(t0=0, lambd=0)``, but with a separate k for each weight. Average and count are state tensors of the
parameter's shape: a `Sparsifier` sets them to zero for pruned weights, so that the average of a regrown weight starts
again and does not include the zeros from before. They are saved with the optimizer's state.

The moving average, from the first step on, forgets exponentially: a <- b a + (1 - b) w, n <- b n + (1 - b), and its
value is a / n; the state tensors a and n are masked in the same way. Its loss is recorded, and it replaces nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

UPDATES_IN_HALF_LIFE = 32  # of a moving average: more would cost time and change little
TINY = 1e-30  # a count that is zero belongs to a pruned weight


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


def keep_moving_average(optimizer: Optimizer, half_life: float) -> None:
    """Update the moving average after every step of the optimizer, or after every few if the half-life is long.

    Args:
        optimizer: gets a hook, and two state tensors for each weight that has a gradient.
        half_life: optimizer steps after which a weight's value counts half.
    """
    every = max(1, int(half_life / UPDATES_IN_HALF_LIFE))
    decay = 0.5 ** (every / half_life)
    for group in optimizer.param_groups:
        group["steps"] = 0  # saved with the optimizer's state

    def update(optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["steps"] += 1
            if group["steps"] % every == 0:
                _update_moving(optimizer, group["params"], decay)

    optimizer.register_step_post_hook(update)


@torch.no_grad()
def _update_moving(optimizer: Optimizer, weights: Sequence[Tensor], decay: float) -> None:
    chosen = [weight for weight in weights if weight.grad is not None]
    for weight in chosen:
        if "moving_sum" not in optimizer.state[weight]:
            optimizer.state[weight] |= {"moving_sum": torch.zeros_like(weight), "moving_n": torch.zeros_like(weight)}
    if chosen:
        sums, numbers = ([optimizer.state[weight][name] for weight in chosen] for name in ("moving_sum", "moving_n"))
        torch._foreach_lerp_(sums, chosen, 1 - decay)
        torch._foreach_mul_(numbers, decay)
        torch._foreach_add_(numbers, 1 - decay)


def averaged(optimizer: Optimizer) -> AbstractContextManager[None]:
    """Within the block, weights that have a tail average are replaced by it: evaluate and save here."""
    return _replaced(optimizer, "average", lambda state: state["average"])


def moving_averaged(optimizer: Optimizer) -> AbstractContextManager[None]:
    """Within the block, weights are replaced by their moving average; those without one stay, as do pruned ones."""
    return _replaced(optimizer, "moving_sum", lambda state: state["moving_sum"] / state["moving_n"].clamp(min=TINY))


@contextmanager
def _replaced(optimizer: Optimizer, name: str, value: Callable[[dict[str, Tensor]], Tensor]) -> Iterator[None]:
    swapped = []
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if name in (state := optimizer.state.get(weight, {})):
                swapped.append((weight, weight.detach().clone()))
                weight.data.copy_(value(state))
    try:
        yield
    finally:
        for weight, before in swapped:
            weight.data.copy_(before)


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
