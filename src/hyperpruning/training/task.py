"""The interface between the search and a task: implement it for your own network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from hyperpruning.training.record import Metric


class Task(Protocol):
    """The interface of a task. All losses are means in nats.

    A task may have an attribute ``metric``, a `Metric`, in which results are reported; by default the loss. It may have
    two more methods:

    - ``narrower(weights: int) -> Task``: the same task with a network so narrow that its matrices have at most so many
      weights; a search trains it as the reference "dense, as many weights".
    - ``baseline_loss(split: str) -> float``: the loss on "valid" or "test" of a prediction that ignores the input (the
      mean, or the frequencies of the classes or tokens, of the training data). A network that is no better has learnt
      nothing.
    """

    def network(self, seed: int) -> nn.Module:
        """A new network; the same seed gives the same weights."""

    def steps(self, epoch: int, seed: int) -> int:
        """Number of optimizer steps of an epoch (from 0). Called before training: raise ValueError for bad data."""

    def batches(self, epoch: int, seed: int) -> Iterator[Any]:
        """The batches of an epoch, one for each step, in the form that `loss` takes; or a `Step` for each."""

    def loss(self, network: nn.Module, batch: Any, carry: Any) -> tuple[Tensor, Any]:
        """The loss of a batch, and the state to carry to the next batch (None at the beginning of an epoch).

        The network may be on a GPU while the batch is on the CPU: move the batch to the network's device here.
        """

    def evaluate(self, network: nn.Module, split: str) -> float | tuple[float, float]:
        """The mean loss on "valid" or "test"; or (loss, metric) if the task's `metric` does not follow from the loss.

        The network is in evaluation mode.
        """

    def recurrence(self, network: nn.Module) -> tuple[Any, Tensor]:
        """The arguments of `lyapunov_spectrum`: the recurrent part, and the probe inputs (T, B, I) on its device.

        The probe is the same text for all networks, embedded by the given network.
        """

    def row_groups(self, network: nn.Module) -> Mapping[str, int]:
        """Number of stacked gates of each recurrent parameter, by name."""

    def identity(self) -> dict[str, Any]:
        """All settings that results depend on, in JSON types, without paths; the ledger records it."""

    def describe(self, network: nn.Module) -> dict[str, Any]:
        """The description from which an exported model can be built again, in JSON types."""


@dataclass(frozen=True)
class Step:
    """The batches of one optimizer step (gradient accumulation).

    Attributes:
        parts: batches of equal size; `loss` gets each with the state that the same part of the previous step returned.
            Their gradients are averaged. Several small parts need less memory than one batch.
        lr_factor: factor on the learning rate of this step.
    """

    parts: Sequence[Any]
    lr_factor: float = 1.0


def as_step(batch: Any) -> Step:
    """Convert a batch to a step; a step is returned unchanged."""
    return batch if isinstance(batch, Step) else Step((batch,))


def metric_of(task: Task) -> Metric:
    """The metric of a task; by default its loss."""
    metric: Metric = getattr(task, "metric", Metric())
    return metric


def loss_and_metric(evaluated: float | tuple[float, float]) -> tuple[float, float | None]:
    """Split the result of `Task.evaluate` into the loss and the metric (None if it follows from the loss)."""
    return evaluated if isinstance(evaluated, tuple) else (evaluated, None)
