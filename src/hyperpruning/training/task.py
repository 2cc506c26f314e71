"""What the search needs to know of a task: the seam between it and other people's networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from hyperpruning.training.record import Metric


class Task(Protocol):
    """What the search needs to know of a task. All losses are means in nats.

    A task may have an attribute ``metric``, a `Metric`: the number in which results are told; by default the loss.
    """

    def network(self, seed: int) -> nn.Module:
        """A new network; the same seed gives the same weights."""

    def steps(self, epoch: int, seed: int) -> int:
        """Optimizer steps in an epoch (from 0). Is asked before anything is trained: refuse unusable data here."""

    def batches(self, epoch: int, seed: int) -> Iterator[Any]:
        """As many batches as steps, each passed to `loss` as it is; or a `Step` each, where there is more to say."""

    def loss(self, network: nn.Module, batch: Any, carry: Any) -> tuple[Tensor, Any]:
        """The loss of a batch, and what to carry to the next one (None at the beginning of an epoch).

        The network may be on a GPU, and the batch is where `batches` made it: move it to the network's device here.
        """

    def evaluate(self, network: nn.Module, split: str) -> float | tuple[float, float]:
        """The mean loss on "valid" or "test"; or (loss, metric) if the task's `metric` does not follow from the loss.

        The network comes in evaluation mode.
        """

    def recurrence(self, network: nn.Module) -> tuple[Any, Tensor]:
        """What `lyapunov_spectrum` takes: the recurrent part, and the probe inputs (T, B, I), equal for all networks.

        The inputs are the network's own embedding of one and the same text, on the network's device.
        """

    def row_groups(self, network: nn.Module) -> Mapping[str, int]:
        """Parameters whose rows are stacked gates, and how many: for the densities in the report."""

    def identity(self) -> dict[str, Any]:
        """All that results depend on, in JSON types, and nothing else (no paths): a run folder keeps it."""

    def describe(self, network: nn.Module) -> dict[str, Any]:
        """What an exported model needs to be built again (JSON types)."""


@dataclass(frozen=True)
class Step:
    """What one optimizer step is taken on.

    Attributes:
        parts: batches, equal in size, each passed to `loss` with what the same part of the step before carried on;
            their gradients are averaged. Several need less memory than one.
        lr_factor: on the learning rate of this step.
    """

    parts: Sequence[Any]
    lr_factor: float = 1.0


def as_step(batch: Any) -> Step:
    """A batch as a step of its own, unless it is one."""
    return batch if isinstance(batch, Step) else Step((batch,))


def metric_of(task: Task) -> Metric:
    """The metric in which a task tells its results; by default its loss."""
    metric: Metric = getattr(task, "metric", Metric())
    return metric


def loss_and_metric(evaluated: float | tuple[float, float]) -> tuple[float, float | None]:
    """What `Task.evaluate` returned: the loss, and the metric where it is computed beside it."""
    return evaluated if isinstance(evaluated, tuple) else (evaluated, None)
