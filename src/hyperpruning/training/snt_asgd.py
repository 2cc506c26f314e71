"""SGD with weight averaging that starts for each weight when it becomes active (SNT-ASGD; Liu et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class SNTASGD(Optimizer):
    """Plain SGD; after `start_averaging` the optimizer also keeps the mean of the values of each weight.

    After k steps of averaging, the average of a weight w is x <- x + (w - x) / max(1, k - 1), as in
    ``torch.optim.ASGD(t0=0, lambd=0)``, but with a separate k for each weight. Average and count are state tensors of
    the parameter's shape: a `Sparsifier` sets them to zero for pruned weights, so that the average of a regrown weight
    starts again and does not include the zeros from before.

    Args:
        params: the parameters.
        lr: learning rate, constant unless it is changed in `param_groups`.
        weight_decay: L2 penalty added to the gradient.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "averaging": False})

    @property
    def averaging(self) -> bool:
        """Whether averaging has started."""
        return bool(self.param_groups[0]["averaging"])

    def start_averaging(self) -> None:
        """Start averaging with the next step; a second call has no effect."""
        for group in self.param_groups:
            group["averaging"] = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, lr_factor: float = 1.0) -> Any:
        """One step: w <- w - lr lr_factor (g + weight_decay w), then the averages."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr = group["lr"] * lr_factor
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if group["weight_decay"]:
                    weight.mul_(1 - lr * group["weight_decay"])
                weight.add_(weight.grad, alpha=-lr)
                if group["averaging"]:
                    self._average(weight)
        return loss

    def _average(self, weight: Tensor) -> None:
        state = self.state[weight]
        if not state:
            state["average"] = torch.zeros_like(weight)
            state["count"] = torch.zeros_like(weight)  # not integers: torch's load_state_dict would make them floats
        count, average = state["count"], state["average"]
        count.add_(1)
        average.addcdiv_(weight - average, (count - 1).clamp_(min=1))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block, weights that have an average are replaced by it: evaluate and save here."""
        swapped = []
        for group in self.param_groups:
            for weight in group["params"]:
                if "average" in self.state[weight]:
                    swapped.append((weight, weight.detach().clone()))
                    weight.data.copy_(self.state[weight]["average"])
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
