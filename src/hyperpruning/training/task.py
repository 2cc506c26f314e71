"""The interface between the search and a task: implement it for your own network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import Tensor, nn

from hyperpruning.sparsity.gates import row_groups
from hyperpruning.training.record import Metric


class AnyTask(Protocol):
    """What every task has, with the training loop of the package (`Task`) or with its own (`OwnLoop`).

    See `Task` for the attributes and further methods that it may have.
    """

    def network(self, seed: int) -> nn.Module:
        """A new network; the same seed gives the same weights."""

    def steps(self, epoch: int, seed: int) -> int:
        """Number of optimizer steps of an epoch (from 0). Called before training: raise ValueError for bad data."""

    def evaluate(self, network: nn.Module, split: str) -> float | tuple[float, float]:
        """The mean loss on "valid" or "test"; or (loss, metric) if the task's `metric` does not follow from the loss.

        The network is in evaluation mode.
        """

    def recurrence(self, network: nn.Module) -> tuple[Any, Tensor]:
        """The arguments of `lyapunov_spectrum`: the recurrent part, and the probe inputs (T, B, I) on its device.

        The probe is the same text for all networks, embedded by the given network.
        """

    def identity(self) -> dict[str, Any]:
        """All settings that results depend on, in JSON types, without paths; the ledger records it."""


class Task(AnyTask, Protocol):
    """The interface of a task. All losses are means in nats.

    A task may have an attribute ``metric``, a `Metric`, in which results are reported; by default the loss. It may have
    an attribute ``recipe``, the training settings that suit it where the user does not say: a mapping with some of
    "optimizer", "lr", "weight_decay", "max_grad_norm" and "average_from"; by default ``{"optimizer": "adamw"}``. Its
    numbers are for its optimizer; without one they are the optimizer's defaults. It may have more methods:

    - ``row_groups(network) -> Mapping[str, int]``: the number of stacked gates of each recurrent parameter, by name; by
      default those of torch's recurrent layers and of layers with an attribute `row_groups`.
    - ``describe(network) -> dict``: what is written into a model file, in JSON types; by default the identity.
    - ``narrower(weights: int) -> Task``: the same task with a network so narrow that its matrices have at most so many
      weights; a search trains it as the reference "dense, as many weights".
    - ``baseline_loss(split: str) -> float``: the loss on "valid" or "test" of a prediction that ignores the input (the
      mean, or the frequencies of the classes or tokens, of the training data). A network that is no better has learnt
      nothing.
    """

    def batches(self, epoch: int, seed: int) -> Iterator[Any]:
        """The batches of an epoch, one for each step, in the form that `loss` takes; or a `Step` for each."""

    def loss(self, network: nn.Module, batch: Any, carry: Any) -> tuple[Tensor, Any]:
        """The loss of a batch, and the state to carry to the next batch (None at the beginning of an epoch).

        The network may be on a GPU while the batch is on the CPU: move the batch to the network's device here.
        """


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


def metric_of(task: AnyTask) -> Metric:
    """The metric of a task; by default its loss."""
    metric: Metric = getattr(task, "metric", Metric())
    return metric


def row_groups_of(task: AnyTask, network: nn.Module) -> Mapping[str, int]:
    """Number of stacked gates of each recurrent parameter: what the task says, else what the modules tell."""
    own = getattr(task, "row_groups", None)
    groups: Mapping[str, int] = row_groups(network) if own is None else own(network)
    return groups


def description_of(task: AnyTask, network: nn.Module) -> dict[str, Any]:
    """What a model file says of a network: what the task says, else its identity."""
    own = getattr(task, "describe", None)
    description: dict[str, Any] = task.identity() if own is None else own(network)
    return description


def recipe_of(task: AnyTask) -> Mapping[str, Any]:
    """The training settings that suit a task; by default none."""
    recipe: Mapping[str, Any] = getattr(task, "recipe", {})
    return recipe


def with_batches(task: AnyTask) -> Task:
    """The task, if it has `batches` and `loss`.

    Raises:
        ValueError: it has not.
    """
    if not all(callable(getattr(task, name, None)) for name in ("batches", "loss")):
        raise ValueError(
            f"A task must have batches and loss here, got {type(task).__name__} without them. Add them, also to a "
            "task with its own training loop."
        )
    return cast(Task, task)


def loss_and_carry(task: Task, network: nn.Module, batch: Any, carry: Any) -> tuple[Tensor, Any]:
    """What `Task.loss` returns.

    Raises:
        ValueError: it is no pair.
    """
    returned: Any = task.loss(network, batch, carry)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError(
            f"loss must return (loss, carry), got a {type(returned).__name__}. Return None where nothing is carried."
        )
    return returned


def loss_and_metric(evaluated: float | tuple[float, float]) -> tuple[float, float | None]:
    """Split the result of `Task.evaluate` into the loss and the metric (None if it follows from the loss)."""
    return evaluated if isinstance(evaluated, tuple) else (evaluated, None)
