"""Somebody's own training loop as a task: what it hands over, so that a search can prune, pause and continue it."""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from types import MappingProxyType
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.sparsity.updates import Update
from hyperpruning.training.config import RECIPE, TrainConfig
from hyperpruning.training.device import seeded
from hyperpruning.training.task import AnyTask, recipe_of

# settings of the package's loop, which a loop of one's own decides itself
LEFT_TO_THE_LOOP = (
    *RECIPE,
    *("momentum", "schedule", "warmup_epochs", "lr_decay", "lr_decay_after"),
    *("non_monotone", "finetune_from", "finetune_lr", "precision"),
)


class OwnLoop(AnyTask, Protocol):
    """A task that trains its network itself, with its own optimizer, schedule, clipping and losses.

    It needs no `batches` and no `loss`; all the rest of a task is as in `Task`. The settings of `TrainConfig` about
    optimizer, learning rate, averages, finetuning and precision must be left out.
    """

    def start(self, network: nn.Module) -> Mapping[str, Any]:
        """The objects that the loop changes, by name: "optimizer", and e.g. a scheduler, a scaler or a generator.

        Each has `state_dict` and `load_state_dict` (or is a `torch.Generator`): a checkpoint holds their states.
        """

    def train_epoch(
        self, network: nn.Module, state: Mapping[str, Any], sparsifier: LoopSparsifier, epoch: int
    ) -> float:
        """Train one epoch (from 0); return the mean training loss.

        Call ``sparsifier.step()`` after each of the `steps` optimizer steps, before gradients are set to zero, whether
        the network is pruned or dense. `state` is what `start` returned. Python's, NumPy's and torch's global
        generators start each epoch from a seed.
        """


class LoopSparsifier:
    """What `OwnLoop.train_epoch` steps; for a dense network a step does nothing.

    Args:
        sparsifier: of the network; None if it is dense.
        steps: the steps of the epoch.
        where: the call of `steps` that gave this number.
        after_step: called after each step.
    """

    def __init__(
        self, sparsifier: Sparsifier | None, steps: int, where: str, *, after_step: Callable[[], None] | None = None
    ) -> None:
        self.sparsifier, self.steps, self.where, self.after_step = sparsifier, steps, where, after_step
        self.count = self.dropped = 0

    def step(self) -> Update | None:
        """Set pruned weights to zero, and update the masks if it is time.

        Raises:
            ValueError: the epoch has no more steps.
        """
        self.count += 1
        if self.count > self.steps:
            self.check_count()
        update = None if self.sparsifier is None else self.sparsifier.step()
        if update is not None:
            self.dropped += sum(update.dropped.values())
        if self.after_step is not None:
            self.after_step()
        return update

    def check_count(self) -> None:
        """Check that the epoch had as many steps as planned: mask updates count on it."""
        if self.count != self.steps:
            raise ValueError(
                f"train_epoch must call sparsifier.step() after each of the {self.where} = {self.steps} optimizer "
                f"steps, got {'more' if self.count > self.steps else self.count} calls. Correct one of them."
            )

    def check_weights(self) -> None:
        """Check that pruned weights are zero after the epoch, except during soft shrinkage."""
        if self.sparsifier is None or self.sparsifier.soft_shrinking:
            return
        for name, mask in self.sparsifier.masks.items():
            if bool(self.sparsifier.parameters[name].detach()[~mask].any()):
                raise ValueError(
                    f"Pruned weights must be 0 after train_epoch, got others in {name!r}. Change weights only before "
                    "sparsifier.step()."
                )


def has_own_loop(task: AnyTask) -> TypeGuard[OwnLoop]:
    """Whether a task trains its network itself."""
    return callable(getattr(task, "train_epoch", None))


def complete_config(task: AnyTask, config: TrainConfig) -> TrainConfig:
    """The settings of a training with the recipe of its task; of a task with a loop of its own as they are.

    Raises:
        ValueError: the recipe is invalid, or a setting is given that such a loop decides itself.
    """
    if has_own_loop(task):
        _check_left_out(config)
        return config
    return config.with_recipe(recipe_of(task))


def _check_left_out(config: TrainConfig) -> None:
    for field in fields(TrainConfig):
        value = getattr(config, field.name)
        if field.name in LEFT_TO_THE_LOOP and value != field.default:
            raise ValueError(
                f"{field.name} must be left out when a task has its own training loop, got {value!r}. Set it in "
                "train_epoch or start."
            )


def started(task: OwnLoop, network: nn.Module, seed: int, device: torch.device) -> Mapping[str, Any]:
    """The objects of a loop before training, read-only.

    Raises:
        ValueError: there is no optimizer of the network's weights, or an object cannot be saved and restored.
    """
    with all_seeded(seed, device):
        objects: Any = task.start(network)
    optimizer = objects.get("optimizer") if isinstance(objects, Mapping) else None
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            'start must return a dict of objects by name with a torch optimizer as "optimizer", got '
            f"{sorted(objects) if isinstance(objects, Mapping) else type(objects).__name__}. Add it."
        )
    for name, one in objects.items():
        _check_restorable(name, one)
    return MappingProxyType(dict(objects))


def _check_restorable(name: str, one: Any) -> None:
    """Check that an object can be saved, and restored from a file that executes no code."""
    if not isinstance(one, torch.Generator) and not all(
        callable(getattr(one, method, None)) for method in ("state_dict", "load_state_dict")
    ):
        raise ValueError(
            f"Every object of start must have state_dict and load_state_dict, got a {type(one).__name__} as {name!r}. "
            "Leave out what does not change, and give the others the two methods."
        )
    buffer = io.BytesIO()
    try:
        torch.save(state_of(one), buffer)
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    except Exception as error:
        raise ValueError(
            f"The state_dict of {name!r} must hold tensors and plain types, got {type(error).__name__}: "
            f"{str(error).splitlines()[0]} Convert the others, e.g. by float(...)."
        ) from (None if isinstance(error, pickle.UnpicklingError) else error)


def state_of(one: Any) -> Any:
    """The state of an object of `OwnLoop.start`."""
    return one.get_state() if isinstance(one, torch.Generator) else one.state_dict()


def restore(one: Any, state: Any) -> None:
    """Restore what `state_of` returned."""
    if isinstance(one, torch.Generator):
        one.set_state(state)
    else:
        one.load_state_dict(state)


@contextmanager
def all_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within the block, the global generators of torch, NumPy and Python start from a seed."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        with seeded(seed, device):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
