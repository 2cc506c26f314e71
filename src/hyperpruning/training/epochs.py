"""The training loop: a generator of epochs that can stop after any of them and continue later."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hyperpruning.kernels import float32_precision
from hyperpruning.sparsity.masking import density
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.training.averaging import averaged, is_averaging, non_monotone, start_averaging
from hyperpruning.training.checks import check_evaluated, counted, unchanged
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.device import device_of, forward_precision, matmul_precision, seeded
from hyperpruning.training.optimizers import make_optimizer
from hyperpruning.training.own_loop import (
    LoopSparsifier,
    OwnLoop,
    all_seeded,
    complete_config,
    has_own_loop,
    restore,
    started,
    state_of,
)
from hyperpruning.training.pruning import make_sparsifier, prunable_weights
from hyperpruning.training.record import EpochRecord
from hyperpruning.training.task import (
    AnyTask,
    as_step,
    loss_and_carry,
    loss_and_metric,
    metric_of,
    row_groups_of,
    with_batches,
)

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

    def __init__(
        self, task: AnyTask, config: TrainConfig, method: Method | None = None, *, sparsity: float = 0.0
    ) -> None:
        self.task, self.config, self.device = task, complete_config(task, config), device_of(config.device)
        self.network = task.network(config.seed).to(self.device)
        self.objects: Mapping[str, Any] = {}  # of a loop of its own
        if has_own_loop(task):
            self.objects = started(task, self.network, config.seed, self.device)
        self.optimizer: Optimizer = self.objects["optimizer"] if self.objects else self._optimizer()
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
    def evaluated(self) -> Iterator[nn.Module]:
        """The network as it would be exported: averaged and masked weights, evaluation mode, float32."""
        pruned = nullcontext() if self.sparsifier is None else self.sparsifier.masked()
        with averaged(self.optimizer), pruned, float32_precision(), torch.no_grad():
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
        masks = self.sparsifier.masks if self.sparsifier is not None else {}
        active = sum(int(mask.sum()) for mask in masks.values())
        active = active or prunable_weights(self.task, self.network, self.config)
        densities = density(masks, row_groups_of(self.task, self.network))
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
                    f"Lower the learning rate ({self.lr:g})."
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
        } | self._states_of_objects()

    def _states_of_objects(self) -> dict[str, Any]:
        states = {name: state_of(one) for name, one in self.objects.items() if name != "optimizer"}
        return {"objects": states} if self.objects else {}

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

    def begin_finetuning(self) -> None:
        """Restore the best weights with their masks; averaging restarts with the next step."""
        self.network.load_state_dict(self.best)
        if self.sparsifier is not None:
            self.sparsifier.restore(self.best_masks)
        self.optimizer.state.clear()
        start_averaging(self.optimizer)


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
    if has_own_loop(training.task):
        return _train_own_epoch(training, training.task)
    if epoch == config.finetune_after:
        training.begin_finetuning()
    if _averaging_starts(training):
        start_averaging(training.optimizer)
    with seeded(config.seed * 1_000_003 + epoch, training.device), matmul_precision(config):
        task = with_batches(training.task)
        steps = task.steps(epoch, config.seed)
        return train_batches(training, counted(task.batches(epoch, config.seed), steps, epoch, config.seed))


def _train_own_epoch(training: Training, task: OwnLoop) -> tuple[float, int]:
    """Train one epoch by the loop of the task; return the mean loss and the number of dropped weights."""
    seed, epoch = training.config.seed, training.epoch
    stepping = LoopSparsifier(training.sparsifier, task.steps(epoch, seed), f"steps({epoch}, {seed})")
    with all_seeded(seed * 1_000_003 + epoch, training.device):
        loss: Any = task.train_epoch(training.network, training.objects, stepping, epoch)
    stepping.check_count()
    stepping.check_weights()
    if not isinstance(loss, float | int):
        raise ValueError(
            f"train_epoch must return the mean training loss as a float, got a {type(loss).__name__}. Convert it by "
            "float(...)."
        )
    _check_finite(training, loss, stepping.count)
    return float(loss), stepping.dropped


def _averaging_starts(training: Training) -> bool:
    """Whether weights are averaged in the next epoch; never during soft shrinkage."""
    config, losses = training.config, training.valid_losses
    if training.sparsifier is not None and training.sparsifier.soft_shrinking:
        return False
    assert config.average_from is not None
    triggered = config.non_monotone and losses and non_monotone(losses, config.non_monotone)
    return bool(triggered) or training.epoch >= config.epochs_in(config.average_from)


def train_batches(training: Training, batches: Iterable[Any]) -> tuple[float, int]:
    """Train on batches in order; return their mean loss and the number of dropped weights."""
    config, network, optimizer = training.config, training.network, training.optimizer
    task = with_batches(training.task)
    assert config.max_grad_norm is not None
    total, count, dropped = torch.zeros((), dtype=torch.float64, device=training.device), 0, 0
    epoch = max(0, training.epoch)
    steps = task.steps(epoch, config.seed)
    carries: dict[int, Any] = {}
    for step in map(as_step, batches):
        optimizer.zero_grad()
        for number, part in enumerate(step.parts):
            with forward_precision(config):
                loss, carries[number] = loss_and_carry(task, network, part, carries.get(number))
            loss = loss / len(step.parts)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate(epoch, count, steps) * step.lr_factor
        count += 1
        if count % CHECK_EVERY == 0:
            _check_finite(training, total, count)
        nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        optimizer.step()
        if training.sparsifier is not None and (update := training.sparsifier.step()) is not None:
            dropped += sum(update.dropped.values())
    _check_finite(training, total, count)
    return float(total) / count, dropped


def _check_finite(training: Training, total: Tensor | float, count: int) -> None:
    if not math.isfinite(float(total)):
        raise DivergedError(
            f"The training loss must be finite, got {float(total)} in epoch {training.epoch + 1} within the first "
            f"{count} steps. Lower the learning rate ({training.lr:g})."
        )
