"""What a task must promise, as far as it is cheap to check before and while a search trains; see also `check_task`."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from hyperpruning.training.device import seeded
from hyperpruning.training.own_loop import has_own_loop
from hyperpruning.training.record import Metric
from hyperpruning.training.task import AnyTask, Task, as_step, loss_and_carry, metric_of, row_groups_of, with_batches

COMMON = ("network", "steps", "evaluate", "recurrence", "identity")


def method_names(task: AnyTask) -> tuple[str, ...]:
    """The methods that a task must have; with a loop of its own `start` and `train_epoch` replace two of them."""
    return (*COMMON, *(("start", "train_epoch") if has_own_loop(task) else ("batches", "loss")))


def check_promises(task: AnyTask, seed: int) -> nn.Module:
    """Check a task without training; return its network.

    Raises:
        ValueError: a promise is broken; the message says which, and what to do.
    """
    for name in method_names(task):
        if not callable(getattr(task, name, None)):
            raise ValueError(
                f"A task must have the method {name}, got {type(task).__name__} without it. Add it (see hp.Task)."
            )
    _check_words(task)
    check_steps_of(task, 0, seed)
    network = _check_network(task, seed)
    _check_row_groups(task, network)
    with torch.no_grad(), seeded(seed, torch.device("cpu")):
        recurrent_part(task, network)
        if not has_own_loop(task):
            _check_loss(with_batches(task), network, seed)
    return network


def _check_words(task: AnyTask) -> None:
    """Check what a ledger records of a task: without an identity, another task's results would be taken for its own."""
    identity, metric = task.identity(), metric_of(task)
    try:
        plain = isinstance(identity, dict) and all(isinstance(key, str) for key in identity)
        json.dumps(identity, allow_nan=False)
    except (TypeError, ValueError):
        plain = False
    if not plain:
        raise ValueError(
            f"identity must return a dict with string keys and values of JSON types, got {identity!r}. Convert the "
            "others to str, int, float or list."
        )
    if not isinstance(metric, Metric):
        raise ValueError(f"metric must be a hyperpruning.Metric, got {metric!r}. Leave it out if it is the loss.")


def check_steps_of(task: AnyTask, epoch: int, seed: int) -> None:
    """Check the number of steps of an epoch.

    Raises:
        ValueError: it is no whole number of at least 1.
    """
    steps: object = task.steps(epoch, seed)
    if type(steps) is not int or steps < 1:
        raise ValueError(
            f"steps({epoch}, {seed}) must be an int of at least 1, got {steps!r}. Return the number of batches."
        )


def _check_loss(task: Task, network: nn.Module, seed: int) -> None:
    """Check that the loss of a batch has a gradient, and comes with what is carried to the next batch."""
    for batch in islice(task.batches(0, seed), 1):
        with torch.enable_grad():
            loss: Any = loss_and_carry(task, network, as_step(batch).parts[0], None)[0]
        if not isinstance(loss, Tensor) or loss.dim():
            found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise ValueError(f"loss must return a tensor without dimensions, got {found}. Take the mean.")
        if not loss.requires_grad:
            raise ValueError(
                "loss must have a gradient, got one that is detached from the weights. Compute it with autograd."
            )


def _check_network(task: AnyTask, seed: int) -> nn.Module:
    """Check that the network depends on its seed and on nothing else."""
    found: list[Any] = []
    for number, one in enumerate((seed, seed, seed + 1)):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(number)  # a network that draws from here without a seed shows itself
            found.append(task.network(one))
        if not isinstance(found[-1], nn.Module):
            raise ValueError(f"network must return a torch.nn.Module, got a {type(found[-1]).__name__}. Return it.")
    if not _equal(found[0], found[1]):
        raise ValueError(
            f"network({seed}) must give the same weights each time, got others. Draw them under "
            "torch.manual_seed(seed), within torch.random.fork_rng()."
        )
    if _equal(found[0], found[2]):
        raise ValueError(
            f"network must give other weights for another seed, got the same for {seed} and {seed + 1}. Use the seed."
        )
    network: nn.Module = found[0]
    return network


def _equal(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def _check_row_groups(task: AnyTask, network: nn.Module) -> None:
    groups, parameters = row_groups_of(task, network), dict(network.named_parameters())
    if not isinstance(groups, Mapping):
        raise ValueError(
            f"row_groups must return a mapping from names to numbers, got a {type(groups).__name__}. {{}} will do."
        )
    for name, count in groups.items():
        if name not in parameters:
            raise ValueError(
                f"row_groups must name parameters of the network, got {name!r}. Use the names of named_parameters()."
            )
        rows = parameters[name].shape[0] if parameters[name].dim() else 0
        if not isinstance(count, int) or count < 1 or rows % count:
            raise ValueError(
                f"row_groups must divide the {rows} rows of {name!r} into equal groups, got {count!r}. Give the number "
                "of gates."
            )


def recurrent_part(task: AnyTask, network: nn.Module) -> tuple[Any, Tensor]:
    """What `AnyTask.recurrence` returns.

    Raises:
        ValueError: it is no pair of a recurrent part and inputs.
    """
    returned: Any = task.recurrence(network)
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], Tensor):
        raise ValueError(
            f"recurrence must return (recurrent part, inputs), got a {type(returned).__name__}. Return the inputs "
            "(T, B, I) that drive it too."
        )
    return returned


def check_evaluated(evaluated: Any, split: str, *, untrained: bool) -> None:
    """Check what `AnyTask.evaluate` returned: a float, or two.

    Args:
        evaluated: what it returned.
        split: "valid" or "test".
        untrained: whether the network is dense and untrained: then the loss must be finite.

    Raises:
        ValueError: it is something else.
    """
    numbers = evaluated if isinstance(evaluated, tuple) else (evaluated,)
    plain = 1 <= len(numbers) <= 2 and all(isinstance(one, float | int) for one in numbers)
    if not plain or (untrained and not all(math.isfinite(one) for one in numbers)):
        rule = " before training" if plain else ""
        raise ValueError(
            f'evaluate(network, "{split}") must return a finite float, or (loss, metric){rule}, got {evaluated!r}. '
            + ("Check the data and the initial weights." if plain else "Convert tensors by float(...).")
        )


@contextmanager
def unchanged(network: nn.Module, what: str) -> Iterator[None]:
    """Check that the block leaves the network's weights and buffers as they are.

    Raises:
        ValueError: it does not.
    """
    before = {name: value.detach().clone() for name, value in network.state_dict().items()}
    yield
    for name, value in network.state_dict().items():
        if not torch.equal(value, before[name]) and not bool((value.isnan() & before[name].isnan()).any()):
            raise ValueError(
                f"{what} must leave the weights as they were, got another {name!r}. Restore what it changes, and keep "
                "the network in evaluation mode."
            )


def counted(batches: Iterable[Any], steps: int, epoch: int, seed: int) -> Iterator[Any]:
    """The batches of an epoch, which must be as many as its steps: mask updates and schedules count on it.

    Raises:
        ValueError: there are fewer, or there is another one after `steps`.
    """
    name, count = f"batches({epoch}, {seed}) must give steps({epoch}, {seed}) = {steps} batches", 0
    for batch in batches:
        if count == steps:
            raise ValueError(f"{name}, got more. Correct one of them.")
        yield batch
        count += 1
    if count < steps:
        raise ValueError(f"{name}, got {count}. Correct one of them.")


def check_travels(task: object) -> None:
    """Check that a task can be sent to a worker process.

    Raises:
        ValueError: it cannot be pickled.
    """
    try:
        pickle.dumps(task)
    except Exception as error:
        raise ValueError(
            f"A task must be picklable to train in worker processes, got {type(error).__name__}: {error}. Make it a "
            "frozen dataclass in a module without functions in its fields, or search without an executor."
        ) from error
