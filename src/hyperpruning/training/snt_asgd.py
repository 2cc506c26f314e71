"""SGD with weight averaging that starts for each weight when it becomes active (SNT-ASGD; Liu et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class SNTASGD(Optimizer):
    """Plain SGD; after `start_averaging` each weight also keeps the mean of its own values.

    With k steps of averaging behind a weight w, its average is x <- x + (w - x) / max(1, k - 1), as in
    ``torch.optim.ASGD(t0=0, lambd=0)``, but k is counted for every weight alone. Average and count are state tensors
    of the weight's shape: a `Sparsifier` zeroes them where it prunes, so the average of a
    regrown weight starts anew and does not include the zeros of the time when it was pruned.

    Args:
        params: the parameters.
        lr: learning rate, constant unless the groups are changed.
        weight_decay: L2 penalty added to the gradient.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "averaging": False})

    @property
    def averaging(self) -> bool:
        """Whether averages are being kept."""
        return bool(self.param_groups[0]["averaging"])

    def start_averaging(self) -> None:
        """From the next step on every weight keeps its mean; calling it again changes nothing."""
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
        """Within the block the network's weights are the averages (where there are any): evaluate and save here."""
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
    """Tell whether averaging is to begin: the newest validation loss is worse than one of more than n epochs ago.

    The trigger of NT-ASGD (Merity et al. 2018, arXiv 1708.02182, section 3): with v the newest loss and more than n
    before it, v > min(those before it without their last n).

    Args:
        losses: validation losses, one an epoch, the newest last.
        n: how many epochs a loss may fail to improve on older ones.

    >>> non_monotone([5.0, 4.0, 4.5, 4.2], n=2), non_monotone([5.0, 4.0, 4.5, 5.1], n=2)
    (False, True)
    """
    *earlier, newest = losses
    return len(earlier) > n and newest > min(earlier[: len(earlier) - n])
