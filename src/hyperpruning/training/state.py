"""A network in training: its optimizer, its Sparsifier, its best weights, and how far it has come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hyperpruning.kernels import float32_precision
from hyperpruning.sparsity.costs import multiply_adds
from hyperpruning.sparsity.masking import density
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.training.averaging import (
    averaged,
    is_averaging,
    keep_moving_average,
    moving_averaged,
    start_averaging,
)
from hyperpruning.training.checks import check_evaluated, unchanged
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.device import device_of
from hyperpruning.training.optimizers import make_optimizer
from hyperpruning.training.own_loop import complete_config, has_own_loop, restore, started, state_of
from hyperpruning.training.progress import Progress, restored_progress
from hyperpruning.training.pruning import make_sparsifier, prunable_weights
from hyperpruning.training.record import EpochRecord
from hyperpruning.training.task import AnyTask, loss_and_metric, metric_of, row_groups_of


class DivergedError(FloatingPointError):
    """The loss, or the metric that follows from it, is not finite."""


class Training:
    """A network, its optimizer and its Sparsifier, with the state of its training.

    Args:
        task: the task.
        config: the training settings.
        method: the pruning method; None trains a dense network.
        sparsity: fraction of zero weights over the prunable weights; only with a method.
    """

    def __init__(
        self, task: AnyTask, config: TrainConfig, method: Method | None = None, *, sparsity: float = 0.0
    ) -> None:
        self.task, self.config, self.device = task, complete_config(task, config), device_of(config.device)
        self.network = task.network(config.seed).to(self.device)
        self.objects: Mapping[str, Any] = {}  # of a loop of its own
        if has_own_loop(task):
            self.objects = started(task, self.network, config.seed, self.device)
        self.optimizer: Optimizer = self.objects["optimizer"] if self.objects else self._optimizer()
        if self.config.half_life:
            keep_moving_average(self.optimizer, self.config.half_life * task.steps(0, config.seed))
        self.sparsifier: Sparsifier | None = None
        if method is not None:
            self.sparsifier = make_sparsifier(
                task, self.network, self.optimizer, self.config, method, sparsity=sparsity
            )
        self.epoch = -1  # the last recorded one; epoch 0 is the network before training
        self.valid_losses: list[float] = []  # from epoch 1 on, after the density has reached its target
        self.best_loss = float("inf")
        self.best: dict[str, Tensor] = {}  # on the CPU
        self.best_masks: dict[str, Tensor] = {}  # only if finetuning continues from them
        self.progress: Progress | None = None  # within an epoch

    def _optimizer(self) -> Optimizer:
        config = self.config
        assert config.optimizer is not None
        assert config.lr is not None
        assert config.weight_decay is not None
        return make_optimizer(
            config.optimizer,
            self.network.parameters(),
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
        )

    @property
    def lr(self) -> float:
        """The learning rate: as set, or in a loop of its own the present one."""
        return float(self.optimizer.param_groups[0]["lr"] if self.config.lr is None else self.config.lr)

    @property
    def averaging(self) -> bool:
        """Whether averages of the weights are kept, and evaluated in place of the weights."""
        return is_averaging(self.optimizer)

    @contextmanager
    def evaluated(self, *, moving: bool = False) -> Iterator[nn.Module]:
        """The network as it would be exported: averaged and masked weights, evaluation mode, float32.

        Args:
            moving: with the moving average of the weights instead of those that would be exported.
        """
        pruned = nullcontext() if self.sparsifier is None else self.sparsifier.masked()
        weights = moving_averaged(self.optimizer) if moving else averaged(self.optimizer)
        with weights, pruned, float32_precision(), torch.no_grad():
            self.network.eval()
            try:
                yield self.network
            finally:
                self.network.train()

    def record(self, train_loss: float | None = None, dropped: int = 0) -> EpochRecord:
        """Evaluate, and keep the weights if they are the best so far."""
        with self.evaluated() as network:
            untrained = self.epoch == 0
            with unchanged(network, 'evaluate(network, "valid")') if untrained else nullcontext():
                evaluated = self.task.evaluate(network, "valid")
            check_evaluated(evaluated, "valid", untrained=untrained and self.sparsifier is None)
            valid, metric = loss_and_metric(evaluated)
            self._check_valid(valid)
            # a network that is denser than the target is never exported
            at_final_density = self.sparsifier is None or self.sparsifier.at_final_density
            if self.epoch > 0 and at_final_density:
                self.valid_losses.append(valid)
            if self.epoch > 0 and at_final_density and valid < self.best_loss:
                self.best_loss = valid
                state = network.state_dict(
                    keep_vars=True
                )  # tied weights are one tensor here, so that they are copied once
                copies = {value: value.detach().to("cpu", copy=True) for value in set(state.values())}
                self.best = {name: copies[value] for name, value in state.items()}
                if self.config.finetune_after is not None and self.sparsifier is not None:
                    self.best_masks = {name: mask.to("cpu", copy=True) for name, mask in self.sparsifier.masks.items()}
        averaged_loss = self._moving_loss(valid) if self.config.half_life else None
        masks = self.sparsifier.masks if self.sparsifier is not None else {}
        active = sum(int(mask.sum()) for mask in masks.values())
        active = active or prunable_weights(self.task, self.network, self.config)
        densities = density(masks, row_groups_of(self.task, self.network))
        ever_active = 1.0 if self.sparsifier is None else self.sparsifier.ever_active
        return EpochRecord(
            self.epoch,
            train_loss,
            valid,
            active,
            densities,
            dropped / active,
            ever_active,
            valid_metric=metric,
            averaged_loss=averaged_loss,
        )

    def multiply_adds(self) -> int:
        """The multiply-adds of one time step with the active weights, see `sparsity.costs.multiply_adds`.

        Raises:
            ValueError: the network has convolutions, whose number depends on the input.
        """
        cost, masks = multiply_adds(self.network), {} if self.sparsifier is None else self.sparsifier.masks
        return sum(
            cost(name, weight) * int(masks[name].sum() if name in masks else weight.numel())
            for name, weight in self.network.named_parameters()
        )

    def _moving_loss(self, valid: float) -> float:
        """The validation loss of the moving average; before training it is that of the weights."""
        if self.epoch == 0:
            return valid
        with self.evaluated(moving=True) as network:
            loss, _ = loss_and_metric(self.task.evaluate(network, "valid"))
        self._check_valid(loss)
        return loss

    def _check_valid(self, loss: float) -> None:
        """Check that the validation loss is finite, and the metric that follows from it: exp(710) is infinite."""
        metric = metric_of(self.task)
        for name, value in (("loss", loss), (metric.name, metric.value(loss) if metric.from_loss else 0.0)):
            if not math.isfinite(value):
                raise DivergedError(
                    f"The validation {name} must be finite, got {value} (loss {loss:g}) after epoch {self.epoch}. "
                    f"Lower the learning rate ({self.lr:g})."
                )

    def state_dict(self) -> dict[str, Any]:
        """All state that the rest of the training depends on (plain types and tensors), also within an epoch."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sparsifier": self.sparsifier.state_dict() if self.sparsifier is not None else None,
            "epoch": self.epoch,
            "valid_losses": self.valid_losses,
            "best_loss": self.best_loss,
            "best": self.best,
            "best_masks": self.best_masks,
        } | self._further_states()

    def _further_states(self) -> dict[str, Any]:
        """Those of the objects of a loop of its own, and of an unfinished epoch."""
        states = {name: state_of(one) for name, one in self.objects.items() if name != "optimizer"}
        objects = {"objects": states} if self.objects else {}
        return objects | ({} if self.progress is None else {"progress": self.progress.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`; the training continues bit for bit."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, one in state.get("objects", {}).items():
            restore(self.objects[name], one)
        if self.sparsifier is not None:
            self.sparsifier.load_state_dict(state["sparsifier"])
        self.epoch, self.valid_losses = state["epoch"], list(state["valid_losses"])
        self.best_loss, self.best, self.best_masks = state["best_loss"], state["best"], state["best_masks"]
        self.progress = restored_progress(state["progress"], self.device) if "progress" in state else None

    def begin_finetuning(self) -> None:
        """Restore the best weights with their masks; averaging restarts with the next step."""
        self.network.load_state_dict(self.best)
        if self.sparsifier is not None:
            self.sparsifier.restore(self.best_masks)
        self.optimizer.state.clear()
        start_averaging(self.optimizer)
