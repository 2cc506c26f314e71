"""The contract suite of a task."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from hyperpruning.lyapunov.spectrum import lyapunov_spectrum
from hyperpruning.testing.comparison import bits, require
from hyperpruning.testing.own_loop import check_own_loop
from hyperpruning.training.checks import method_names
from hyperpruning.training.own_loop import has_own_loop
from hyperpruning.training.record import Metric
from hyperpruning.training.task import AnyTask, Task, as_step, description_of, metric_of, row_groups_of, with_batches

EPOCHS = 2  # whose batches are read
SPLITS = ("valid", "test")


def check_task(task: AnyTask, *, seed: int = 0) -> None:
    """Check a task: all that `Task` describes, on the CPU, on two whole epochs of its batches and both its splits.

    A task with a training loop of its own (`OwnLoop`) is trained for two epochs, see `check_own_loop`.

    Args:
        task: to be checked.
        seed: of network and batches; default 0.

    Raises:
        AssertionError: a promise is broken; the message says which, and what to do.
        ValueError: the task refuses its own data or settings, in its own words.

    >>> from hyperpruning.testing.tiny_task import TinyTask
    >>> check_task(TinyTask())
    """
    for name in method_names(task):
        require(
            callable(getattr(task, name, None)),
            f"A task must have the method {name}, got {type(task).__name__} without it. Add it (see hp.Task).",
        )
    _check_identity(task)
    _check_network(task, seed)
    for epoch in range(EPOCHS):
        _check_steps(task, epoch, seed)
    network = task.network(seed)
    if not has_own_loop(task):
        for epoch in range(EPOCHS):
            _check_batches(with_batches(task), epoch, seed)
        _check_loss(with_batches(task), network, seed)
    network.eval()
    with torch.no_grad():
        for split in SPLITS:
            _check_evaluate(task, network, split)
        _check_recurrence(task, network, seed)
    _check_row_groups(task, network)
    _check_json("describe", description_of(task, network))
    if has_own_loop(task):
        check_own_loop(task, seed=seed)


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Within the block torch's global generator begins at a seed: what must not depend on it is tried with two."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _check_identity(task: AnyTask) -> None:
    identity, metric = task.identity(), metric_of(task)
    _check_json("identity", identity)
    require(
        isinstance(metric, Metric),
        f"metric must be a hyperpruning.training.record.Metric, got {metric!r}. Leave it out if it is the loss.",
    )
    try:
        copied = pickle.loads(pickle.dumps(task)).identity()
    except Exception as error:
        raise AssertionError(
            f"A task must be picklable, got {type(error).__name__}: {error}. Make it a frozen dataclass in a module, "
            "and build what cannot be pickled when it is first asked for."
        ) from error
    require(
        copied == identity == task.identity(),
        f"identity must be the same each time and for a pickled copy, got {identity} and {copied}. Leave out what "
        "differs between processes.",
    )


def _check_json(name: str, value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
        plain = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    except (TypeError, ValueError):
        plain = False
    require(
        plain,
        f"{name} must return a dict with string keys and values of JSON types, got {value!r}. Convert the others to "
        "str, int, float or list.",
    )


def _check_network(task: AnyTask, seed: int) -> None:
    found = []
    for number, each in enumerate((seed, seed, seed + 1)):
        with _global_seed(number):
            network = task.network(each)
        require(
            isinstance(network, nn.Module),
            f"network must return a torch.nn.Module, got a {type(network).__name__}. Return the module.",
        )
        found.append(bits(network.state_dict()))
    require(
        found[0] == found[1],
        f"network({seed}) must give the same weights each time, got others. Draw them under torch.manual_seed(seed), "
        "within torch.random.fork_rng().",
    )
    require(
        found[0] != found[2],
        f"network must give other weights for another seed, got the same for {seed} and {seed + 1}. Use the seed.",
    )


def _check_steps(task: AnyTask, epoch: int, seed: int) -> None:
    steps = task.steps(epoch, seed)
    require(
        isinstance(steps, int) and not isinstance(steps, bool) and steps >= 1,
        f"steps({epoch}, {seed}) must be an int of at least 1, got {steps!r}. Return the number of batches.",
    )


def _check_batches(task: Task, epoch: int, seed: int) -> None:
    steps, count, missing = task.steps(epoch, seed), 0, object()
    for one, two in zip_longest(_batches(task, epoch, seed, 0), _batches(task, epoch, seed, 1), fillvalue=missing):
        require(
            count < steps,
            f"batches({epoch}, {seed}) must give steps({epoch}, {seed}) = {steps} batches, got more. Correct one of "
            "them.",
        )
        require(
            one is not missing and two is not missing and bits(one) == bits(two),
            f"batches({epoch}, {seed}) must give the same batches each time, got another one at {count}. Draw them "
            "from a generator that is seeded with epoch and seed, and give a new iterator in each call.",
        )
        count += 1
    require(
        count == steps,
        f"batches({epoch}, {seed}) must give steps({epoch}, {seed}) = {steps} batches, got {count}. Correct one of "
        "them.",
    )


def _batches(task: Task, epoch: int, seed: int, number: int) -> Iterator[Any]:
    """The batches of an epoch, read from their beginning to their end with global numbers of their own."""
    state = torch.Generator().manual_seed(number).get_state()
    batches = iter(task.batches(epoch, seed))
    while True:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.set_state(state)
            try:
                batch = next(batches)
            except StopIteration:
                return
            state = torch.default_generator.get_state()
        yield batch


def _check_loss(task: Task, network: nn.Module, seed: int) -> None:
    """Train on the first two batches without changing the weights, the carry passed on."""
    network.train()
    before = bits(dict(network.named_parameters()))
    batches, carry = list(_first_parts(task, seed)), None
    with _global_seed(0):
        for batch in batches:
            returned = task.loss(network, batch, carry)
            require(
                isinstance(returned, tuple) and len(returned) == 2,
                f"loss must return (loss, carry), got a {type(returned).__name__}. Return None where nothing is "
                "carried.",
            )
            loss, carry = returned
            _check_gradient(network, loss)
    require(
        bits(dict(network.named_parameters())) == before,
        "loss must leave the weights as they were, got others. Leave their update to the optimizer.",
    )


def _first_parts(task: Task, seed: int) -> Iterator[Any]:
    """The first part of each of two batches (of the same one, if an epoch has one)."""
    batches = iter(task.batches(0, seed))
    first = next(batches)
    for batch in (first, next(batches, first)):
        yield as_step(batch).parts[0]


def _check_gradient(network: nn.Module, loss: Any) -> None:
    require(
        isinstance(loss, Tensor) and loss.dim() == 0 and bool(loss.isfinite()),
        f"loss must be a finite tensor without dimensions, got {loss!r}. Take the mean.",
    )
    network.zero_grad()
    require(
        loss.requires_grad,
        "loss must have a gradient, got one that is detached from the weights. Compute it with autograd.",
    )
    try:
        loss.backward()
    except RuntimeError as error:
        raise AssertionError(
            f"backward of the loss must work in every step, got: {error} Check the dtype of the targets, or detach "
            "what is carried to the next batch."
        ) from error
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    require(
        bool(gradients) and all(bool(gradient.to_dense().isfinite().all()) for gradient in gradients),
        f"The gradient of the loss must be finite and reach the weights, got {len(gradients)} gradients or others "
        "that are not finite. Correct loss.",
    )


def _check_evaluate(task: AnyTask, network: nn.Module, split: str) -> None:
    metric, before = metric_of(task), bits(network.state_dict())
    found = []
    for number in range(2):
        with _global_seed(number):
            found.append(task.evaluate(network, split))
        beside = metric.from_loss is None
        numbers = found[-1] if isinstance(found[-1], tuple) else (found[-1],)
        require(
            len(numbers) == 1 + beside and all(isinstance(n, float) and math.isfinite(n) for n in numbers),
            f'evaluate(network, "{split}") must return {"(loss, metric), two finite floats" if beside else "a finite "}'
            f"{'' if beside else 'float'}, as the metric {metric.name!r} asks, got {found[-1]!r}. Convert tensors by "
            "float(...).",
        )
    require(
        found[0] == found[1],
        f'evaluate(network, "{split}") must give the same each time, got {found[0]} and {found[1]}. Draw nothing at '
        "random, or from a generator with a fixed seed.",
    )
    require(
        bits(network.state_dict()) == before,
        f'evaluate(network, "{split}") must leave the weights as they were, got others. Restore what you change.',
    )
    require(
        not any(module.training for module in network.modules()),
        f'evaluate(network, "{split}") must leave the network in evaluation mode, got training mode. Do not call '
        "train().",
    )


def _check_recurrence(task: AnyTask, network: nn.Module, seed: int) -> None:
    recurrent, probe = task.recurrence(network)
    try:
        exponents = lyapunov_spectrum(recurrent, probe, warmup=0).exponents
    except (TypeError, ValueError) as error:
        raise AssertionError(
            f"recurrence must return what lyapunov_spectrum accepts, got: {error} Return (recurrent part, inputs)."
        ) from error
    require(
        len(exponents) > 0 and bool((exponents < math.inf).all()),  # false for NaN
        f"Exponents of the recurrent part must be finite or -inf, got {exponents.tolist()}. Start with smaller "
        "weights.",
    )
    again, other = task.recurrence(network)[1], task.recurrence(task.network(seed + 1).eval())[1]
    require(
        bits(again) == bits(probe) and other.shape == probe.shape,
        "The inputs of recurrence must be the same each time, and of one shape for all networks, got others. Take one "
        "fixed part of the data.",
    )


def _check_row_groups(task: AnyTask, network: nn.Module) -> None:
    groups, parameters = row_groups_of(task, network), dict(network.named_parameters())
    require(
        isinstance(groups, Mapping),
        f"row_groups must return a mapping from names to numbers, got a {type(groups).__name__}. {{}} will do.",
    )
    for name, count in groups.items():
        require(
            name in parameters,
            f"row_groups must name parameters of the network, got {name!r}. Use the names of named_parameters().",
        )
        rows = parameters[name].shape[0] if parameters[name].dim() else 0
        require(
            isinstance(count, int) and count >= 1 and rows % count == 0,
            f"row_groups must divide the {rows} rows of {name!r} into equal groups, got {count!r}. Give the number of "
            "gates.",
        )
