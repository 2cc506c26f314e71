"""The training loop: a generator of epochs that can stop after any of them and continue later."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hyperpruning.kernels import float32_precision
from hyperpruning.sparsity.masking import density
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.device import device_of, forward_precision, matmul_precision, seeded
from hyperpruning.training.pruning import make_sparsifier, prunable_weights
from hyperpruning.training.record import EpochRecord
from hyperpruning.training.snt_asgd import SNTASGD, non_monotone
from hyperpruning.training.task import Task, as_step, loss_and_metric, metric_of

CHECK_EVERY = 50  # steps between two checks that the loss is finite: each check synchronises the GPU


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

    def __init__(self, task: Task, config: TrainConfig, method: Method | None = None, *, sparsity: float = 0.0) -> None:
        self.task, self.config, self.device = task, config, device_of(config.device)
        self.network = task.network(config.seed).to(self.device)
        self.optimizer = SNTASGD(self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.sparsifier: Sparsifier | None = None
        if method is not None:
            self.sparsifier = make_sparsifier(task, self.network, self.optimizer, config, method, sparsity=sparsity)
        self.epoch = -1  # the last recorded one; epoch 0 is the network before training
        self.valid_losses: list[float] = []  # from epoch 1 on, after the density has reached its target
        self.best_loss = float("inf")
        self.best: dict[str, Tensor] = {}  # on the CPU
        self.best_masks: dict[str, Tensor] = {}  # only if finetuning continues from them

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module]:
        """The network as it would be exported: averaged and masked weights, evaluation mode, float32."""
        pruned = nullcontext() if self.sparsifier is None else self.sparsifier.masked()
        with self.optimizer.averaged(), pruned, float32_precision(), torch.no_grad():
            self.network.eval()
            try:
                yield self.network
            finally:
                self.network.train()

    def record(self, train_loss: float | None = None, dropped: int = 0) -> EpochRecord:
        """Evaluate, and keep the weights if they are the best so far."""
        with self.evaluated() as network:
            valid, metric = loss_and_metric(self.task.evaluate(network, "valid"))
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
        masks = self.sparsifier.masks if self.sparsifier is not None else {}
        active = sum(int(mask.sum()) for mask in masks.values())
        active = active or prunable_weights(self.task, self.network, self.config)
        densities = density(masks, self.task.row_groups(self.network))
        ever_active = 1.0 if self.sparsifier is None else self.sparsifier.ever_active
        return EpochRecord(
            self.epoch, train_loss, valid, active, densities, dropped / active, ever_active, valid_metric=metric
        )

    def _check_valid(self, loss: float) -> None:
        """Check that the validation loss is finite, and the metric that follows from it: exp(710) is infinite."""
        metric = metric_of(self.task)
        for name, value in (("loss", loss), (metric.name, metric.value(loss) if metric.from_loss else 0.0)):
            if not math.isfinite(value):
                raise DivergedError(
                    f"The validation {name} must be finite, got {value} (loss {loss:g}) after epoch {self.epoch}. "
                    f"Lower the learning rate ({self.config.lr:g})."
                )

    def state_dict(self) -> dict[str, Any]:
        """All state that the rest of the training depends on (plain types and tensors)."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sparsifier": self.sparsifier.state_dict() if self.sparsifier is not None else None,
            "epoch": self.epoch,
            "valid_losses": self.valid_losses,
            "best_loss": self.best_loss,
            "best": self.best,
            "best_masks": self.best_masks,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`; the training continues bit for bit."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.sparsifier is not None:
            self.sparsifier.load_state_dict(state["sparsifier"])
        self.epoch, self.valid_losses = state["epoch"], list(state["valid_losses"])
        self.best_loss, self.best, self.best_masks = state["best_loss"], state["best"], state["best_masks"]

    def begin_finetuning(self) -> None:
        """Restore the best weights with their masks; averaging restarts with the next step."""
        self.network.load_state_dict(self.best)
        if self.sparsifier is not None:
            self.sparsifier.restore(self.best_masks)
        self.optimizer.state.clear()
        self.optimizer.start_averaging()


def epochs(training: Training, until: int | None = None) -> Iterator[EpochRecord]:
    """Train epoch by epoch.

    Args:
        training: continued in place.
        until: stop after this epoch; None goes to the end.

    Yields:
        the record of each epoch, beginning with epoch 0 (nothing trained) for a fresh training.

    Raises:
        DivergedError: the loss, or the metric that follows from it, is not finite.
    """
    until = training.config.epochs if until is None else min(until, training.config.epochs)
    while training.epoch < until:
        started = time.perf_counter()
        loss, dropped = _train_epoch(training) if training.epoch >= 0 else (None, 0)
        training.epoch += 1
        record = training.record(loss, dropped)
        yield replace(record, seconds=time.perf_counter() - started)


def _train_epoch(training: Training) -> tuple[float, int]:
    """Train one epoch; return the mean loss and the number of dropped weights."""
    config, epoch = training.config, training.epoch
    if epoch == config.finetune_after:
        training.begin_finetuning()
    if _averaging_starts(training):
        training.optimizer.start_averaging()
    for group in training.optimizer.param_groups:
        group["lr"] = _learning_rate(config, epoch)
    with seeded(config.seed * 1_000_003 + epoch, training.device), matmul_precision(config):
        return train_batches(training, training.task.batches(epoch, config.seed))


def _learning_rate(config: TrainConfig, epoch: int) -> float:
    """The learning rate after a number of epochs."""
    if config.finetune_after is not None and epoch >= config.finetune_after:
        return config.lr * config.finetune_lr
    return config.lr * config.lr_decay ** max(0, epoch + 1 - config.lr_decay_after)


def _averaging_starts(training: Training) -> bool:
    """Whether weights are averaged in the next epoch; never during soft shrinkage."""
    config, losses = training.config, training.valid_losses
    if training.sparsifier is not None and training.sparsifier.soft_shrinking:
        return False
    triggered = config.non_monotone and losses and non_monotone(losses, config.non_monotone)
    return bool(triggered) or training.epoch >= config.epochs_in(config.average_from)


def train_batches(training: Training, batches: Iterable[Any]) -> tuple[float, int]:
    """Train on batches in order; return their mean loss and the number of dropped weights."""
    config, network, optimizer = training.config, training.network, training.optimizer
    total, count, dropped = torch.zeros((), dtype=torch.float64, device=training.device), 0, 0
    carries: dict[int, Any] = {}
    for step in map(as_step, batches):
        optimizer.zero_grad()
        for number, part in enumerate(step.parts):
            with forward_precision(config):
                loss, carries[number] = training.task.loss(network, part, carries.get(number))
            loss = loss / len(step.parts)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        count += 1
        if count % CHECK_EVERY == 0:
            _check_finite(training, total, count)
        nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        optimizer.step(lr_factor=step.lr_factor)
        if training.sparsifier is not None and (update := training.sparsifier.step()) is not None:
            dropped += sum(update.dropped.values())
    _check_finite(training, total, count)
    return float(total) / count, dropped


def _check_finite(training: Training, total: Tensor, count: int) -> None:
    if not math.isfinite(float(total)):
        raise DivergedError(
            f"The training loss must be finite, got {float(total)} in epoch {training.epoch + 1} within the first "
            f"{count} steps. Lower the learning rate ({training.config.lr:g})."
        )
