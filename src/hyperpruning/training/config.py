"""How every network of a search is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hyperpruning.settings import check_settings, documented, setting

PRECISIONS = ("float32", "tf32", "bf16")


@documented
@dataclass(frozen=True)
class TrainConfig:
    """How every network of a search is trained.

    Raises:
        ValueError: a value is out of its range, or values contradict each other.
    """

    epochs: int = setting(10, "length of a full training", section="training", ge=1, le=10_000)
    lr: float = setting(15.0, "learning rate of SGD", section="training", gt=0, le=1e38)
    lr_decay: float = setting(
        1.0, "factor on the learning rate in every epoch after lr_decay_after", section="training", gt=0, le=1
    )
    lr_decay_after: int = setting(0, "epochs at the full learning rate", section="training", ge=0)
    max_grad_norm: float = setting(0.25, "the gradient is clipped to this norm", section="training", gt=0)
    weight_decay: float = setting(0.0, "L2 penalty", section="training", ge=0)
    average_from: float = setting(
        0.6,
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
