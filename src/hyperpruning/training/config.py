"""How every network of a search is trained."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# bounds of numbers, by the names that pydantic's Field has for them: those of `TrainConfig` and `LanguageModelling`
_COUNT, _POSITIVE, _NOT_NEGATIVE, _SHARE = {"ge": 1}, {"gt": 0}, {"ge": 0}, {"gt": 0, "le": 1}
BOUNDS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("epochs", "threads", "batch", "bptt", "accumulate", "eval_batch", "test_batch"), _COUNT),
    **dict.fromkeys(("embedding", "depth", "experts", "probe_steps", "probe_batch"), _COUNT),
    **dict.fromkeys(("lr", "clip", "finetune_lr", "embedding_std"), _POSITIVE),
    **dict.fromkeys(("weight_decay", "lr_decay_after", "non_monotone", "updates_per_epoch"), _NOT_NEGATIVE),
    **dict.fromkeys(("bptt_deviation", "bptt_longest", "activation_penalty", "temporal_penalty"), _NOT_NEGATIVE),
    **dict.fromkeys(("lr_decay", "finetune_from", "share"), _SHARE),
    "average_from": {"ge": 0, "le": 1},
    "seed": {"ge": 0, "lt": 2**32},
}
CHOICES: dict[str, tuple[str, ...]] = {
    "scope": ("all", "recurrent"),
    "counts": ("weights", "multiply_adds"),
    "precision": ("float32", "tf32", "bf16"),
}
_HOLDS = {"ge": (operator.ge, "at least"), "gt": (operator.gt, "above"), "le": (operator.le, "at most")}
_HOLDS["lt"] = operator.lt, "below"


def check_values(values: Mapping[str, Any]) -> None:
    """Refuse numbers beyond their bounds and names that are no choice; what has neither is passed over.

    Raises:
        ValueError: the first such value, with its rule.
    """
    for name, value in values.items():
        bounds = BOUNDS.get(name, {})
        if not all(_HOLDS[bound][0](value, limit) for bound, limit in bounds.items()):
            rule = " and ".join(f"{_HOLDS[bound][1]} {limit}" for bound, limit in bounds.items())
            raise ValueError(f"{name} is {rule}, and {value!r} is not: change it")
        if value not in CHOICES.get(name, (value,)):
            raise ValueError(f"{name} is one of {', '.join(CHOICES[name])}, and {value!r} is not: choose one of them")


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

    Raises:
        ValueError: a value out of its range, or values that do not go together.
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

    def __post_init__(self) -> None:
        check_values(vars(self))
        if self.finetune_after is not None and self.finetune_after >= self.epochs:
            raise ValueError(
                f"finetune_from leaves an epoch at least, and {self.finetune_from} of {self.epochs} leaves none: "
                "lower it, or set 1 for no finetuning"
            )
        if self.finetune_lr != 1 and self.finetune_from == 1:
            raise ValueError(
                f"finetune_lr is that of a finetuning, and there is none where it is {self.finetune_lr}: "
                "set finetune_from, or leave it out"
            )
        if self.precision == "tf32" and self.device == "cpu":
            raise ValueError(
                'precision "tf32" is one of GPUs, and device is "cpu": set precision = "float32", or device = "auto"'
            )

    @property
    def finetune_after(self) -> int | None:
        """The last epoch before the finetuning; None if there is none."""
        return self.epochs_in(self.finetune_from) if self.finetune_from < 1 else None

    def epochs_in(self, fraction: float) -> int:
        """The first epoch after which so much of the training is over: 0.55 of 100 is 55, whatever floats say."""
        return math.ceil(round(fraction * self.epochs, 6))
