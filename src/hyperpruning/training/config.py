"""How every network of a search is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainConfig:
    """How every network of a search is trained.

    Attributes:
        epochs: length of a full training.
        lr: learning rate of SGD.
        clip: largest norm of the (dense) gradient.
        weight_decay: L2 penalty.
        lr_decay: factor on the learning rate in every epoch after `lr_decay_after`.
        lr_decay_after: epochs at the full learning rate.
        average_from: fraction of the epochs after which the weights are averaged; 1 never.
        non_monotone: averaging also begins when the validation loss is worse than one of more than this many epochs
            ago (see `non_monotone`); 0 leaves it to `average_from`.
        finetune_from: fraction of the epochs after which the training goes on from its best weights, with their masks,
            which then stay, and averages them anew; 1 never.
        finetune_lr: the learning rate from there on, as a factor on `lr` (which does not fall any more).
        scope: what is pruned: "all" weight matrices, or "recurrent", those of the recurrent layers.
        counts: what a sparsity counts, "weights" or "multiply_adds" (for one token; embeddings then stay dense).
        updates_per_epoch: mask updates in an epoch, evenly spread; 0 keeps the method's own interval in steps.
        seed: of initial weights, masks and dropout; equal for all networks of a search.
        threads: of torch while training; results are repeatable for one and the same number.
        device: "cpu", "cuda", "cuda:1"; "auto" is "cuda" where there is one.
        precision: of the matrix products while training: "float32"; "tf32", on CUDA; or "bf16", where torch's own
            recurrent layers stay in float32 (on CUDA in TF32). Weights, averages, spectra and evaluation are float32.
    """

    epochs: int = 10
    lr: float = 15.0
    clip: float = 0.25
    weight_decay: float = 0.0
    lr_decay: float = 1.0
    lr_decay_after: int = 0
    average_from: float = 0.6
    non_monotone: int = 0
    finetune_from: float = 1.0
    finetune_lr: float = 1.0
    scope: str = "all"
    counts: str = "weights"
    updates_per_epoch: int = 4
    seed: int = 0
    threads: int = 1
    device: str = "auto"
    precision: str = "float32"

    @property
    def finetune_after(self) -> int | None:
        """The last epoch before the finetuning; None if there is none."""
        return self.epochs_in(self.finetune_from) if self.finetune_from < 1 else None

    def epochs_in(self, fraction: float) -> int:
        """The first epoch after which so much of the training is over: 0.55 of 100 is 55, whatever floats say."""
        return math.ceil(round(fraction * self.epochs, 6))
