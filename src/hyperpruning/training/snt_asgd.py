"""SGD with weight averaging that starts for each weight when it becomes active (SNT-ASGD; Liu et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from hyperpruning.training import averaging


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
        return averaging.is_averaging(self)

    def start_averaging(self) -> None:
        """Start averaging with the next step; a second call has no effect."""
        averaging.start_averaging(self)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step: w <- w - lr (g + weight_decay w), then the averages."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if group["weight_decay"]:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(weight.grad, alpha=-group["lr"])
        averaging.update_averages(self)
        return loss

    def averaged(self) -> AbstractContextManager[None]:
        """Within the block, weights that have an average are replaced by it: evaluate and save here."""
        return averaging.averaged(self)
