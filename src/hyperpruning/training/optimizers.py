"""The optimizers of the training loop, by name.

To add one, add an entry to OPTIMIZERS: a function of the parameters and of `lr`, `weight_decay` and `momentum`, and the
settings that suit it where neither the user nor the task says otherwise. Masks, averages of the weights, learning-rate
schedules and checkpoints work with any torch optimizer: a `Sparsifier` sets all its state of a parameter's shape to
zero where the weight is pruned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from hyperpruning.training.averaging import keep_averages
from hyperpruning.training.snt_asgd import SNTASGD


class _Make(Protocol):
    def __call__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float, momentum: float
    ) -> Optimizer: ...


@dataclass(frozen=True)
class OptimizerEntry:
    """An optimizer of the training loop.

    Attributes:
        make: (parameters, lr, weight_decay, momentum) -> the optimizer.
        defaults: the settings that suit it: `lr`, `weight_decay`, `max_grad_norm`, `average_from`.
        max_lr: a larger learning rate is refused.
        keeps_momentum: whether its state has a momentum when the setting `momentum` is above 0.
    """

    make: _Make
    defaults: Mapping[str, float] = field(default_factory=dict)
    max_lr: float = 1e38
    keeps_momentum: bool = True


_USUAL = {"weight_decay": 0.0, "max_grad_norm": 1.0, "average_from": 1.0}
_STEP_IS_LR = 1.0  # Adam moves a weight by about lr in a step: above 1, it forgets all that it has learnt

OPTIMIZERS: dict[str, OptimizerEntry] = {
    "snt_asgd": OptimizerEntry(
        lambda parameters, *, lr, weight_decay, momentum: SNTASGD(parameters, lr=lr, weight_decay=weight_decay),
        {"lr": 1.0, "weight_decay": 0.0, "max_grad_norm": 0.25, "average_from": 0.6},
        keeps_momentum=False,
    ),
    "sgd": OptimizerEntry(
        lambda parameters, *, lr, weight_decay, momentum: SGD(
            parameters, lr=lr, weight_decay=weight_decay, momentum=momentum
        ),
        {**_USUAL, "lr": 0.1},
    ),
    "adam": OptimizerEntry(
        lambda parameters, *, lr, weight_decay, momentum: Adam(
            parameters, lr=lr, weight_decay=weight_decay, betas=(momentum, 0.999)
        ),
        {**_USUAL, "lr": 1e-3},
        max_lr=_STEP_IS_LR,
    ),
    "adamw": OptimizerEntry(
        lambda parameters, *, lr, weight_decay, momentum: AdamW(
            parameters, lr=lr, weight_decay=weight_decay, betas=(momentum, 0.999)
        ),
        {**_USUAL, "lr": 1e-3, "weight_decay": 0.01},
        max_lr=_STEP_IS_LR,
    ),
}
GENERAL_RECIPE: Mapping[str, object] = {"optimizer": "adamw"}  # of a task that has none


def make_optimizer(
    name: str, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float, momentum: float
) -> Optimizer:
    """The optimizer of a name; it keeps averages of the weights once they are started."""
    return keep_averages(OPTIMIZERS[name].make(parameters, lr=lr, weight_decay=weight_decay, momentum=momentum))
