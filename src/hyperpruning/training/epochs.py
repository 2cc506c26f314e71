"""The loop: one network, trained as a generator of epochs that can stop after any of them and go on later."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hyperpruning.sparsity.composition import Method
from hyperpruning.sparsity.costs import Cost, multiply_adds, weights
from hyperpruning.sparsity.masking import density
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.training.calibration import calibration
from hyperpruning.training.snt_asgd import SNTASGD
from hyperpruning.training.task import Task


class DivergedError(FloatingPointError):
    """The loss stopped being a number."""


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
        scope: what is pruned: "all" weight matrices, or "recurrent", those of the recurrent layers.
        counts: what a sparsity counts, "weights" or "multiply_adds" (for one token; embeddings then stay dense).
        updates_per_epoch: mask updates in an epoch, evenly spread; 0 keeps the method's own interval in steps.
        seed: of initial weights, masks and dropout; equal for all networks of a search.
        threads: of torch while training; results are repeatable for one and the same number.
    """

    epochs: int = 10
    lr: float = 15.0
    clip: float = 0.25
    weight_decay: float = 0.0
    lr_decay: float = 1.0
    lr_decay_after: int = 0
    average_from: float = 0.6
    scope: str = "all"
    counts: str = "weights"
    updates_per_epoch: int = 4
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class EpochRecord:
    """What is known of a network after an epoch (0: before the first).

    Attributes:
        epoch: epochs trained.
        train_loss, valid_loss: nats; train_loss is None at epoch 0.
        active: active prunable weights (all of them in the dense network).
        density: active fraction of each prunable tensor, one number a gate.
        churn: weights dropped in this epoch over the active ones.
        ever_active: fraction of the prunable weights that have been active so far (ITOP's R_s); 1 when dense.
        seconds: wall-clock time of the epoch; not part of the ledger.
        spectrum: Lyapunov exponents, nats per step; -inf is None (JSON has no infinity); empty if not computed.
    """

    epoch: int
    train_loss: float | None
    valid_loss: float
    active: int
    density: dict[str, list[float]]
    churn: float
    ever_active: float = 1.0
    seconds: float = 0.0
    spectrum: tuple[float | None, ...] = ()


class Training:
    """A network with all that its training needs.

    Args:
        task: what it learns.
        config: how.
        method: how it is pruned; None trains it dense.
        sparsity: fraction of zero weights over the prunable weights; with a method only.
    """

    def __init__(self, task: Task, config: TrainConfig, method: Method | None = None, *, sparsity: float = 0.0) -> None:
        self.task, self.config = task, config
        self.network = task.network(config.seed)
        self.optimizer = SNTASGD(self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.sparsifier: Sparsifier | None = None
        if method is not None:
            check_averaging(method, config)
            steps = task.steps()
            updates = update_steps(steps, config.updates_per_epoch)
            self.sparsifier = Sparsifier(
                self.network,
                self.optimizer,
                method,
                sparsity=sparsity,
                total_steps=steps * config.epochs,
                cost=cost_of(task, self.network, config),
                row_groups=task.row_groups(self.network),
                calibration=calibration(task, self.network, method, seed=config.seed),
                when=(lambda step: (step - 1) % steps + 1 in updates) if updates else None,
                seed=config.seed,
            )
        self.epoch = -1  # the last one recorded; epoch 0 is the network as it begins
        self.best_loss = float("inf")
        self.best: dict[str, Tensor] = {}

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module]:
        """The network as it would be delivered now: averaged weights, pruned, evaluation mode, no gradients."""
        pruned = nullcontext() if self.sparsifier is None else self.sparsifier.hardened()
        with self.optimizer.averaged(), pruned, torch.no_grad():
            self.network.eval()
            try:
                yield self.network
            finally:
                self.network.train()

    def record(self, train_loss: float | None = None, dropped: int = 0) -> EpochRecord:
        """Evaluate; remember the weights when they are the best so far."""
        with self.evaluated() as network:
            valid = self.task.evaluate(network, "valid")
            if not math.isfinite(valid):
                raise DivergedError(
                    f"A validation loss must be finite, and it is {valid} after epoch {self.epoch}: "
                    f"lower the learning rate ({self.config.lr:g})."
                )
            settled = self.sparsifier is None or self.sparsifier.settled  # what is denser than asked is not delivered
            if self.epoch > 0 and settled and valid < self.best_loss:
                self.best_loss = valid
                self.best = {name: value.detach().clone() for name, value in network.state_dict().items()}
        masks = self.sparsifier.masks if self.sparsifier is not None else {}
        active = sum(int(mask.sum()) for mask in masks.values())
        active = active or prunable_weights(self.task, self.network, self.config)
        densities = density(masks, self.task.row_groups(self.network))
        ever_active = 1.0 if self.sparsifier is None else self.sparsifier.ever_active
        return EpochRecord(self.epoch, train_loss, valid, active, densities, dropped / active, ever_active)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on (plain types and tensors)."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sparsifier": self.sparsifier.state_dict() if self.sparsifier is not None else None,
            "epoch": self.epoch,
            "best_loss": self.best_loss,
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken, bit for bit."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.sparsifier is not None:
            self.sparsifier.load_state_dict(state["sparsifier"])
        self.epoch, self.best_loss, self.best = state["epoch"], state["best_loss"], state["best"]


def update_steps(steps: int, updates: int) -> set[int]:
    """The steps of an epoch, from 1 on, that update the masks: in the middle of its equal parts.

    So none falls shortly before the evaluation, where judges would see the cut more than the network.

    >>> sorted(update_steps(steps=100, updates=4))
    [13, 38, 63, 88]
    """
    return {int((part + 0.5) * steps / updates) + 1 for part in range(updates)}


# what a sparsity can count: model -> cost of a weight
COSTS: dict[str, Callable[[nn.Module], Cost]] = {"weights": lambda network: weights, "multiply_adds": multiply_adds}
# what can be pruned: (name of a parameter, row groups of the recurrent ones) -> whether it is
SCOPES: dict[str, Callable[[str, Mapping[str, int]], bool]] = {
    "all": lambda name, recurrent: True,
    "recurrent": lambda name, recurrent: name in recurrent,
}


def cost_of(task: Task, network: nn.Module, config: TrainConfig) -> Cost:
    """What a weight of each parameter costs; nothing where it is not pruned."""
    cost, inside, recurrent = COSTS[config.counts](network), SCOPES[config.scope], task.row_groups(network)
    return lambda name, parameter: cost(name, parameter) if inside(name, recurrent) else 0


def prunable_weights(task: Task, network: nn.Module, config: TrainConfig) -> int:
    """Weights that a sparsity counts: those of matrices that cost something, tied ones once."""
    cost = cost_of(task, network, config)
    return sum(weight.numel() for name, weight in network.named_parameters() if cost(name, weight))


def check_averaging(method: Method, config: TrainConfig) -> None:
    """Refuse averages of weights that are still fading: they would not be zero where the weights are."""
    if method.fade and config.average_from < method.stop:
        raise ValueError(
            f"Averages begin when no weight fades any more, and average_from is {config.average_from:g} where fading "
            f"stops at {method.stop:g} of the training: raise average_from, or stop earlier."
        )


def epochs(training: Training, until: int | None = None) -> Iterator[EpochRecord]:
    """Train epoch by epoch.

    Args:
        training: continued in place.
        until: stop after this epoch; None goes to the end.

    Yields:
        the record of each epoch, beginning with epoch 0 (nothing trained) for a fresh training.

    Raises:
        DivergedError: the loss is not finite.
    """
    until = training.config.epochs if until is None else min(until, training.config.epochs)
    while training.epoch < until:
        started = time.perf_counter()
        loss, dropped = _train_epoch(training) if training.epoch >= 0 else (None, 0)
        training.epoch += 1
        record = training.record(loss, dropped)
        yield EpochRecord(**(vars(record) | {"seconds": time.perf_counter() - started}))


def _train_epoch(training: Training) -> tuple[float, int]:
    """One pass over the training data: its mean loss, and how many weights were dropped."""
    config, optimizer = training.config, training.optimizer
    decayed = max(0, training.epoch + 1 - config.lr_decay_after)
    for group in optimizer.param_groups:
        group["lr"] = config.lr * config.lr_decay**decayed
    if training.epoch >= config.average_from * config.epochs:
        optimizer.start_averaging()
    with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator: seeded here, restored after
        torch.manual_seed(config.seed * 1_000_003 + training.epoch)
        return train_batches(training, training.task.batches(training.epoch, config.seed))


def train_batches(training: Training, batches: Iterable[Any]) -> tuple[float, int]:
    """Train on some batches in turn: their mean loss, and how many weights were dropped."""
    config, network, optimizer = training.config, training.network, training.optimizer
    total, count, dropped, carry = 0.0, 0, 0, None
    for batch in batches:
        optimizer.zero_grad()
        loss, carry = training.task.loss(network, batch, carry)
        total, count = total + float(loss.detach()), count + 1
        if not math.isfinite(total):
            raise DivergedError(
                f"A training loss must be finite, and it was {float(loss.detach())} in epoch {training.epoch + 1}, "
                f"batch {count}: lower the learning rate ({config.lr:g})."
            )
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimizer.step()
        if training.sparsifier is not None and (update := training.sparsifier.step()) is not None:
            dropped += sum(update.dropped.values())
    return total / count, dropped
