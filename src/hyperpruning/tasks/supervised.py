"""A task of one's own from what cannot be derived: a model, data and a loss. Everything else has a default."""

from __future__ import annotations

import hashlib
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from functools import cached_property, lru_cache, partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from hyperpruning.data.samples import Samples, Splits, shuffled_batches, split_samples
from hyperpruning.settings import check_settings, described, documented, is_setting, setting
from hyperpruning.tasks.narrower import narrower_task
from hyperpruning.tasks.recurrence import evaluating, probed, recurrent_module
from hyperpruning.training.record import Metric

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@documented
@dataclass(frozen=True, eq=False)
class SupervisedTask:
    """A task from a model, data and a loss: `SupervisedTask(model, data, loss_fn)`.

    The samples of an epoch are shuffled by a generator that is seeded with seed and epoch. A network is evaluated by
    the mean over all samples of a split. The recurrent part of the network is found, with the inputs that it gets for
    the first validation samples. Model, loss and metric must be functions or classes of a module (no lambda), so that
    the task travels to worker processes.

    Raises:
        ValueError: a value is out of its range, the data are none, or they do not fit together.
    """

    model: Any = described(
        "builds a new network: a class or a function, called with `sizes` and, if it has such an argument, with `seed`"
    )
    data: Any = described(
        "a tuple of arrays, samples first, e.g. (inputs, targets); a torch Dataset of such tuples; a mapping with one "
        'of these for each of "train", "valid" and "test"; or a function without arguments that returns one of these',
        shown=False,
    )
    loss_fn: Any = described(
        "(network, batch) -> the mean loss of a batch, in nats or in the unit of the targets; a batch is a tuple of "
        "tensors on the device of the network"
    )
    _: KW_ONLY
    sizes: Mapping[str, Any] = described(
        "keyword arguments of the model that are widths; the dense network with as many weights as the pruned one is "
        "made by lowering them",
        None,
    )
    metric: Metric = described("the number in which results are reported", Metric())
    metric_fn: Any = described("(network, batch) -> the mean of the metric, if it does not follow from the loss", None)
    recurrent: Any = described(
        "the name of the recurrent module if the network has several; or, for a cell of your own, a function of "
        "(network, batch) that returns (`hp.DrivenStep(step, start)`, inputs (T, B, I))",
        None,
    )
    fractions: tuple[float, float, float] = setting(
        (0.7, 0.15, 0.15), "of the data for train, valid and test, if they are not split", section="data", gt=0, lt=1
    )
    split_seed: int = setting(0, "seed of the random split", section="data", ge=0)
    batch: int = setting(32, "samples of a batch", section="training", ge=1, le=1_000_000)
    eval_batch: int = setting(256, "samples that are evaluated at once", section="data", ge=1, le=1_000_000)
    probe_batch: int = setting(
        8, "validation samples whose inputs are the probe", section="spectrum", ge=1, le=1_000_000
    )

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("model", "loss_fn", "metric_fn"):
            function = getattr(self, name)
            if isinstance(function, nn.Module) or not (function is None or callable(function)):
                raise ValueError(
                    f"{name} must be a function or a class, got a {type(function).__name__}. "
                    + ("Give its class, so that every seed has a network." if name == "model" else "Give a function.")
                )
        if (self.metric.from_loss is None) != (self.metric_fn is not None) and type(self) is SupervisedTask:
            raise ValueError(
                "metric_fn must be given if and only if the metric has from_loss=None, got "
                f"{self.metric} and metric_fn={self.metric_fn}. Give both or none."
            )
        if self.data is not None and not callable(self.data):
            _ = self.splits  # checks them

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the data once, as they were given."""
        return {name: value for name, value in vars(self).items() if name not in ("splits", "series")}

    @cached_property
    def splits(self) -> Splits:
        """The samples of each split."""
        return self._split(self._source())

    def _source(self) -> Any:
        return _loaded(self.data) if callable(self.data) else self.data

    def _split(self, data: Any) -> Splits:
        return split_samples(data, self.fractions, self.split_seed)

    def network(self, seed: int) -> nn.Module:
        """A new network; torch's global generator has this seed while it is built, and is then restored."""
        options = dict(self.sizes or {})
        if "seed" in inspect.signature(self.model).parameters:
            options["seed"] = seed
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network: nn.Module = self.model(**options)
        return network

    @property
    def narrower(self) -> Callable[[int], Self] | None:
        """`Task.narrower`: all `sizes` become smaller in the same proportion; None without sizes."""
        if not self.sizes:
            return None
        return lambda weights: narrower_task(self, weights, ("sizes",), lambda values: self.model(**values["sizes"]))

    def steps(self, epoch: int, seed: int) -> int:
        """Number of batches of the training split."""
        return math.ceil(len(self.splits.train[0]) / self.batch)

    def batches(self, epoch: int, seed: int) -> Iterator[Samples]:
        """The training samples in random order."""
        return shuffled_batches(self.splits.train, self.batch, seed * 1_000_033 + epoch)

    def loss(self, network: nn.Module, batch: Samples, carry: Any) -> tuple[Tensor, None]:
        """The loss of a batch; nothing is carried to the next one."""
        loss: Tensor = self._loss(network, self._batch(batch, network))
        return loss, None

    def evaluate(self, network: nn.Module, split: str) -> float | tuple[float, float]:
        """The mean loss over the samples of a split, and the mean of the metric if there is a `metric_fn`."""
        samples = self.splits[split]
        totals = torch.zeros(2, dtype=torch.float64)
        with evaluating(network):
            for start in range(0, len(samples[0]), self.eval_batch):
                batch = self._batch(tuple(part[start : start + self.eval_batch] for part in samples), network)
                measured = [float(value) for value in self._measure(network, batch)]
                totals[: len(measured)] += torch.tensor(measured, dtype=torch.float64) * len(batch[0])
        loss, metric = (totals / len(samples[0])).tolist()
        return (loss, metric) if self.metric.from_loss is None else loss

    def _batch(self, samples: Samples, network: nn.Module) -> Samples:
        """Samples as a batch on the device of the network."""
        device = next(network.parameters()).device
        return tuple(part.to(device, non_blocking=True) for part in samples)

    def _loss(self, network: nn.Module, batch: Samples) -> Tensor:
        """The mean loss of a batch on the device of the network."""
        try:
            loss: Tensor = self.loss_fn(network, batch)
        except (AttributeError, TypeError) as error:
            raise TypeError(
                f"loss_fn must work as loss_fn(network, batch), got: {error}. Write a function such as "
                "mse_loss(network(batch[0]), batch[1])."
            ) from error
        return loss

    def _measure(self, network: nn.Module, batch: Samples) -> tuple[Any, ...]:
        """The mean loss of a batch, and the metric if it does not follow from the loss."""
        loss = self._loss(network, batch)
        return (loss,) if self.metric_fn is None else (loss, self.metric_fn(network, batch))

    def recurrence(self, network: nn.Module) -> Any:
        """The recurrent module, and its inputs in a forward pass on the probe."""
        batch = self._batch(self._probe(), network)
        with evaluating(network):
            if callable(self.recurrent):
                found = self.recurrent(network, batch)
                if not isinstance(found, tuple) or len(found) != 2:
                    raise ValueError(
                        "recurrent must return (recurrent part, inputs (T, B, I)), got "
                        f"{f'{len(found)} values' if isinstance(found, tuple) else type(found).__name__}. "
                        "Of a step with its start, return hp.DrivenStep(step, start), inputs."
                    )
                return found
            part, inputs = probed(recurrent_module(network, self.recurrent), lambda: self._loss(network, batch))
            samples, first, second = len(batch[0]), *inputs.shape[:2]
            if not getattr(part, "batch_first", False) and first == samples != second:
                raise ValueError(
                    "The inputs of a cell of your own must be (T, B, I), got "
                    f"{tuple(inputs.shape)} of {samples} samples. Give recurrent = a function of "
                    "(network, batch) that returns the cell and its inputs, time first."
                )
            return part, inputs

    def _probe(self) -> Samples:
        """The validation samples that drive the recurrent part: the first ones."""
        return tuple(part[: self.probe_batch] for part in self.splits.valid)

    def identity(self) -> dict[str, Any]:
        """The settings, the hashes of the data and of the network's structure, the names of the functions."""
        return dict(self._identity)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        settings = {
            field.name: list(value) if isinstance(value := getattr(self, field.name), tuple) else value
            for field in fields(self)
            if is_setting(field) and field.metadata["section"] and field.name not in ("file", "folder")
        }
        own = {name: _name(getattr(self, name)) for name in ("model", "loss_fn", "metric_fn", "recurrent", "sizes")}
        if self.model is not None:
            structure = _ADDRESS.sub("", repr(self.network(0)))
            own["network_sha256"] = hashlib.sha256(structure.encode()).hexdigest()
        given = {name: value for name, value in own.items() if value is not None}
        return {"task": type(self).__name__, **settings, **given, "data_sha256": self.data_sha256}

    @property
    def data_sha256(self) -> str:
        """The hash of all data, split by split."""
        return self.splits.sha256

    def describe(self, network: nn.Module) -> dict[str, Any]:
        """The identity."""
        return self.identity()


@lru_cache(maxsize=4)
def _loaded(load: Callable[[], Any]) -> Any:
    """The data that a function returns: once in a process."""
    return load()


def _name(value: Any) -> Any:
    """A function or class by its name, with the arguments of a `partial`; everything else by its text."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, partial):
        return [_name(value.func), [_name(one) for one in value.args], {k: _name(v) for k, v in value.keywords.items()}]
    if isinstance(value, Mapping):
        return {str(key): _name(one) for key, one in value.items()}
    return getattr(value, "__qualname__", None) or _ADDRESS.sub("", repr(value))
