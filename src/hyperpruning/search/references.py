"""The dense networks that candidates are compared with, besides the one that a search trains.

`FrozenDense` is a trained dense network that the user already has: the search takes its spectrum and its losses, and
never trains it. `narrower_task` makes the dense network with as many weights as the pruned ones. `baseline_loss` tells
whether a dense network has learnt anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from hyperpruning.files import weights_sha256
from hyperpruning.sparsity.costs import weights as weights_cost
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.pruning import prunable_weights
from hyperpruning.training.task import AnyTask


class NarrowerError(ValueError):
    """A task that cannot make its network narrower."""


@dataclass(frozen=True)
class FrozenDense:
    """The weights of a trained dense network, which the search does not change.

    Attributes:
        sha256: of the weights.
        weights: by name, on the CPU; None in a plan that was read from a ledger.
    """

    sha256: str
    weights: Mapping[str, Tensor] | None = field(default=None, compare=False, repr=False)

    def load_into(self, network: nn.Module) -> None:
        """Load the weights into a network; tied weights may be given once.

        Raises:
            ValueError: names or shapes differ.
        """
        assert self.weights is not None
        expected = network.state_dict(keep_vars=True)
        given = {id(expected[name]) for name in self.weights if name in expected}
        missing = [name for name, value in expected.items() if name not in self.weights and id(value) not in given]
        unknown = [name for name in self.weights if name not in expected]
        different = [
            f"{name} of shape {tuple(value.shape)} instead of {tuple(expected[name].shape)}"
            for name, value in self.weights.items()
            if name in expected and value.shape != expected[name].shape
        ]
        faults = [f"no {name}" for name in missing] + [f"an unknown {name}" for name in unknown] + different
        if faults:
            more = f" and {len(faults) - 3} more differences" if len(faults) > 3 else ""
            raise ValueError(
                f"The dense network must have the tensors of the task's network, got {', '.join(faults[:3])}{more}. "
                "Give another one, or change the task (in an experiment: [model])."
            )
        network.load_state_dict(dict(self.weights), strict=False)


def frozen_dense(dense: object) -> object:
    """Copy a module's weights or a state_dict into a `FrozenDense`; return a path, a `FrozenDense` or None unchanged.

    Raises:
        ValueError: it is none of these.
    """
    if dense is None or isinstance(dense, FrozenDense | Path):
        return dense
    if isinstance(dense, str):
        return Path(dense)
    weights = dense.state_dict() if isinstance(dense, nn.Module) else dense
    if not (isinstance(weights, Mapping) and weights and all(isinstance(one, Tensor) for one in weights.values())):
        raise ValueError(
            f"dense must be a module, its state_dict or a model file, got {type(dense).__name__}. "
            "Leave it out to train the dense network in the search."
        )
    copied = {str(name): value.detach().to("cpu", copy=True) for name, value in weights.items()}
    return FrozenDense(weights_sha256(copied), copied)


def narrower_task(task: AnyTask, train: TrainConfig, active: int) -> AnyTask:
    """The same task with a dense network that has at most as many weights as a pruned one.

    Weights are those of matrices and kernels. If only a part of the network is pruned (scope, counts), the weights of
    the rest are added to the active ones.

    Args:
        task: of the candidates; offers ``narrower(n_weights)``, a task with a narrower network.
        train: how networks are trained.
        active: active prunable weights of the pruned network.

    Raises:
        NarrowerError: the task does not offer it, or it has no network that is narrow enough.
    """
    narrower = getattr(task, "narrower", None)
    if narrower is None:
        raise NarrowerError(
            f"A task must have the method narrower(n_weights) for a dense network with as many weights, got "
            f"{type(task).__name__} without it. Add it, or set as_many_weights = False."
        )
    network = task.network(train.seed)
    n_weights = active + _weights(network) - prunable_weights(task, network, train)
    try:
        found: AnyTask = narrower(n_weights)
    except ValueError as error:
        raise NarrowerError(str(error)) from error
    if (count := _weights(found.network(train.seed))) > n_weights:
        raise NarrowerError(
            f"narrower({n_weights}) must give a network with at most {n_weights} weights, got {count}. Correct "
            f"{type(task).__name__}.narrower."
        )
    return found


def _weights(network: nn.Module) -> int:
    return sum(weight.numel() for name, weight in network.named_parameters() if weights_cost(name, weight))


def baseline_loss(task: AnyTask) -> float | None:
    """The validation loss of the best constant prediction, in nats; None if the task does not offer it.

    Raises:
        ValueError: it is not finite.
    """
    offered = getattr(task, "baseline_loss", None)
    if offered is None:
        return None
    loss = float(offered("valid"))
    if not math.isfinite(loss):
        raise ValueError(f"baseline_loss must be finite, got {loss}. Correct {type(task).__name__}.baseline_loss.")
    return loss
