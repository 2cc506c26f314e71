"""How every network of a search is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hyperpruning.settings import check_settings, did_you_mean, documented, setting
from hyperpruning.training.optimizers import GENERAL_RECIPE, OPTIMIZERS

PRECISIONS = ("float32", "tf32", "bf16")
SCHEDULES = ("constant", "step", "cosine")
# settings that a task may choose; where neither the user nor the task says, the optimizer's defaults are used
RECIPE = ("optimizer", "lr", "weight_decay", "max_grad_norm", "average_from")


@documented
@dataclass(frozen=True)
class TrainConfig:
    """How every network of a search is trained.

    None in a setting leaves it to the task: `Plan` and `Training` put its value in, see `with_recipe`.

    Raises:
        ValueError: a value is out of its range, or values contradict each other.
    """

    epochs: int = setting(10, "length of a full training", section="training", ge=1, le=10_000)
    optimizer: str | None = setting(
        None, f"one of {', '.join(OPTIMIZERS)}; left out: the task's", section="training", choices=OPTIMIZERS
    )
    lr: float | None = setting(
        None, "learning rate; left out: the task's or the optimizer's", section="training", gt=0, le=1e38
    )
    momentum: float = setting(0.9, "momentum of sgd; beta1 of adam and adamw", section="training", ge=0, lt=1)
    schedule: str = setting(
        "constant",
        'of the learning rate: "constant"; "step": see lr_decay; "cosine": to 0 at the end, in every step',
        section="training",
        choices=SCHEDULES,
    )
    warmup_epochs: float = setting(
        0.0, "epochs in which the learning rate rises linearly, in every step; e.g. 0.5", section="training", ge=0
    )
    lr_decay: float = setting(
        1.0,
        'factor on the learning rate in every epoch after lr_decay_after, with schedule = "step"',
        section="training",
        gt=0,
        le=1,
    )
    lr_decay_after: int = setting(0, "epochs before lr_decay begins", section="training", ge=0)
    max_grad_norm: float | None = setting(None, "the gradient is clipped to this norm", section="training", gt=0)
    weight_decay: float | None = setting(None, "L2 penalty; decoupled in adamw", section="training", ge=0)
    average_from: float | None = setting(
        None,
        "fraction of the epochs after which the weights are averaged; 1: never",
        section="training",
        ge=0,
        le=1,
    )
    non_monotone: int = setting(
        0,
        "start averaging when the validation loss is worse than the best of more than this many epochs ago "
        "(NT-ASGD: 5); 0: off",
        section="training",
        ge=0,
    )
    finetune_from: float = setting(
        1.0,
        "fraction of the epochs after which training goes on from the best weights with fixed masks; 1: never",
        section="training",
        gt=0,
        le=1,
    )
    finetune_lr: float = setting(1.0, "factor on lr while finetuning", section="training", gt=0)
    scope: str = setting(
        "all",
        'what is pruned: "all" weight matrices, or those of the "recurrent" layers',
        section="pruning",
        choices=("all", "recurrent"),
    )
    counts: str = setting(
        "weights",
        'what sparsity counts: "weights", or "multiply_adds" per token (then embeddings stay dense)',
        section="pruning",
        choices=("weights", "multiply_adds"),
    )
    updates_per_epoch: int = setting(
        4,
        "mask updates in an epoch, evenly spaced; 0: each method's own interval in steps",
        section="pruning",
        ge=0,
        le=1_000_000,
    )
    seed: int = setting(
        0, "seed of initial weights, masks, dropout and suggestions", section="training", ge=0, lt=2**32
    )
    threads: int = setting(
        1,
        "threads of torch while training; results repeat bit for bit with the same number",
        section="training",
        ge=1,
        le=4096,
    )
    device: str = setting(
        "auto", 'where networks train: "cpu", "cuda", "cuda:1"; "auto": cuda if available', section="training"
    )
    precision: str = setting(
        "float32",
        'of matrix products while training; "tf32" and "bf16" are for GPUs, evaluation is always float32',
        section="training",
        choices=PRECISIONS,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.finetune_after is not None and self.finetune_after >= self.epochs:
            raise ValueError(
                f"finetune_from must leave at least one epoch of finetuning, got {self.finetune_from} of {self.epochs} "
                "epochs. Lower it, or set 1 for no finetuning."
            )
        if self.finetune_lr != 1 and self.finetune_from == 1:
            raise ValueError(
                f"finetune_lr must be 1 without finetuning, got {self.finetune_lr}. Set finetune_from, or leave it out."
            )
        if self.schedule != "step" and (self.lr_decay != 1 or self.lr_decay_after):
            raise ValueError(
                f'schedule must be "step" with lr_decay or lr_decay_after, got "{self.schedule}". Set it, or leave '
                "them out."
            )
        if self.warmup_epochs >= (self.finetune_after or self.epochs):
            raise ValueError(
                f"warmup_epochs must be below the {self.finetune_after or self.epochs} epochs of the schedule, got "
                f"{self.warmup_epochs:g}. Lower it."
            )
        if self.optimizer is not None and self.lr is not None and self.lr > OPTIMIZERS[self.optimizer].max_lr:
            raise ValueError(
                f"lr must be at most {OPTIMIZERS[self.optimizer].max_lr:g} with the optimizer {self.optimizer}, got "
                f"{self.lr:g}. Lower it, or choose another optimizer."
            )
        if self.precision == "tf32" and self.device == "cpu":
            raise ValueError(
                'device must be a GPU when precision is "tf32", got "cpu". Set precision = "float32" or another device.'
            )

    @property
    def finetune_after(self) -> int | None:
        """The last epoch before finetuning; None without finetuning."""
        return self.epochs_in(self.finetune_from) if self.finetune_from < 1 else None

    def epochs_in(self, fraction: float) -> int:
        """The epoch at a fraction of the training, rounded up: 0.55 of 100 is 55 in spite of floating-point error."""
        return math.ceil(round(fraction * self.epochs, 6))

    def with_recipe(self, recipe: Mapping[str, Any]) -> TrainConfig:
        """The same settings; those of `RECIPE` that are None come from a task's recipe, else from the optimizer.

        The numbers in a recipe are for its own optimizer: if the user chose another one, its defaults are used.

        Args:
            recipe: see `Task`; an empty one leaves the optimizer to `GENERAL_RECIPE`.

        Raises:
            ValueError: the recipe has another setting, or a value is out of its range.
        """
        if unknown := sorted(recipe.keys() - {*RECIPE}):
            raise ValueError(
                f"The recipe of a task must have no other settings than {', '.join(RECIPE)}, got {unknown[0]!r}."
                f"{did_you_mean(unknown[0], RECIPE)}"
            )
        own = {**GENERAL_RECIPE, **recipe}
        name = own["optimizer"] if self.optimizer is None else self.optimizer
        entry = OPTIMIZERS.get(str(name))
        values = {**(entry.defaults if entry else {}), **(own if own["optimizer"] == name else {}), "optimizer": name}
        missing: dict[str, Any] = {each: values.get(each) for each in RECIPE if getattr(self, each) is None}
        return replace(self, **missing) if missing else self

    def learning_rate(self, epoch: int, step: int = 0, steps: int = 1) -> float:
        """The learning rate of a step; it depends on these numbers alone, so that a training continues exactly.

        Args:
            epoch: epochs trained before, from 0.
            step: steps of this epoch before, from 0.
            steps: steps of this epoch.
        """
        assert self.lr is not None
        if self.finetune_after is not None and epoch >= self.finetune_after:
            return self.lr * self.finetune_lr
        lr, end = self.lr, self.finetune_after or self.epochs
        if self.schedule == "step":
            lr *= self.lr_decay ** max(0, epoch + 1 - self.lr_decay_after)
        if self.schedule == "cosine":
            progress = max(0.0, epoch + step / steps - self.warmup_epochs) / (end - self.warmup_epochs)
            lr *= (1 + math.cos(math.pi * progress)) / 2
        return lr * min(1.0, (epoch + (step + 1) / steps) / self.warmup_epochs) if self.warmup_epochs else lr
