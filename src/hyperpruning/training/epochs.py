"""The training loop: a generator of epochs that can stop after any of them, or any step, and continue later."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any

from torch import Tensor, nn

from hyperpruning.training.averaging import non_monotone, start_averaging
from hyperpruning.training.checks import counted
from hyperpruning.training.device import forward_precision, matmul_precision, seeded
from hyperpruning.training.own_loop import LoopSparsifier, OwnLoop, all_seeded, has_own_loop
from hyperpruning.training.progress import Progress, Watch, new_progress, restore_generators
from hyperpruning.training.record import EpochRecord
from hyperpruning.training.state import DivergedError, Training
from hyperpruning.training.task import as_step, loss_and_carry, with_batches

CHECK_EVERY = 50  # steps between two checks that the loss is finite: each check synchronises the GPU


def epochs(training: Training, until: int | None = None, watch: Watch | None = None) -> Iterator[EpochRecord]:
    """Train epoch by epoch.

    Args:
        training: continued in place, also within an epoch.
        until: stop after this epoch; None goes to the end.
        watch: called after each step of an epoch; a loop of one's own is only stopped by it.

    Yields:
        the record of each epoch, beginning with epoch 0 (nothing trained) for a fresh training.

    Raises:
        DivergedError: the loss, or the metric that follows from it, is not finite.
        TimeIsUp: raised by the watch.
    """
    until = training.config.epochs if until is None else min(until, training.config.epochs)
    while training.epoch < until:
        started = time.perf_counter() - (training.progress.seconds if training.progress else 0.0)
        if watch is not None:
            watch.check_time()
        loss, dropped = _train_epoch(training, watch) if training.epoch >= 0 else (None, 0)
        training.epoch += 1
        record = training.record(loss, dropped)
        yield replace(record, seconds=time.perf_counter() - started)


def _train_epoch(training: Training, watch: Watch | None) -> tuple[float, int]:
    """Train one epoch, or the rest of it; return the mean loss and the number of dropped weights."""
    config, epoch = training.config, training.epoch
    if has_own_loop(training.task):
        return _train_own_epoch(training, training.task, watch)
    if epoch == config.finetune_after and training.progress is None:
        training.begin_finetuning()
    if _averaging_starts(training):
        start_averaging(training.optimizer)
    with (
        watch.steps() if watch else nullcontext(),
        seeded(config.seed * 1_000_003 + epoch, training.device),
        matmul_precision(config),
    ):
        task = with_batches(training.task)
        steps = task.steps(epoch, config.seed)
        batches = counted(task.batches(epoch, config.seed), steps, epoch, config.seed)
        return train_batches(training, batches, after_step=watch)


def _train_own_epoch(training: Training, task: OwnLoop, watch: Watch | None) -> tuple[float, int]:
    """Train one epoch by the loop of the task; return the mean loss and the number of dropped weights."""
    seed, epoch = training.config.seed, training.epoch
    stepping = LoopSparsifier(
        training.sparsifier,
        task.steps(epoch, seed),
        f"steps({epoch}, {seed})",
        after_step=watch.check_time if watch else None,
    )
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


def train_batches(
    training: Training, batches: Iterable[Any], *, after_step: Callable[[], None] | None = None
) -> tuple[float, int]:
    """Train on the batches of an epoch in order; return their mean loss and the number of dropped weights.

    If `training.progress` says that steps are finished, their batches are skipped.

    Args:
        training: changed in place.
        batches: of the epoch, from its beginning.
        after_step: called after each step; `training.state_dict` then holds the unfinished epoch.
    """
    config, network, optimizer = training.config, training.network, training.optimizer
    task = with_batches(training.task)
    assert config.max_grad_norm is not None
    progress = training.progress = training.progress or new_progress(training.device)
    epoch = max(0, training.epoch)
    steps = task.steps(epoch, config.seed)
    for step in map(as_step, _rest_of(batches, progress)):
        optimizer.zero_grad()
        for number, part in enumerate(step.parts):
            with forward_precision(config):
                loss, progress.carries[number] = loss_and_carry(task, network, part, progress.carries.get(number))
            loss = loss / len(step.parts)
            loss.backward()  # type: ignore[no-untyped-call]
            progress.total += loss.detach()
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate(epoch, progress.step, steps) * step.lr_factor
        progress.step += 1
        if progress.step % CHECK_EVERY == 0:
            _check_finite(training, progress.total, progress.step)
        nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        optimizer.step()
        if training.sparsifier is not None and (update := training.sparsifier.step()) is not None:
            progress.dropped += sum(update.dropped.values())
        if after_step is not None:
            after_step()
    training.progress = None
    _check_finite(training, progress.total, progress.step)
    return float(progress.total) / progress.step, progress.dropped


def _rest_of(batches: Iterable[Any], progress: Progress) -> Iterator[Any]:
    """The batches without those of the finished steps; then the generators are as they were after these."""
    rest = iter(batches)
    for _ in islice(rest, progress.step):
        pass
    restore_generators(progress)
    return rest


def _check_finite(training: Training, total: Tensor | float, count: int) -> None:
    if not math.isfinite(float(total)):
        raise DivergedError(
            f"The training loss must be finite, got {float(total)} in epoch {training.epoch + 1} within the first "
            f"{count} steps. Lower the learning rate ({training.lr:g})."
        )
