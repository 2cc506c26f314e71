"""What classification of sequences and forecasting share: recurrent networks of the package, and data from a file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from hyperpruning.data.corpus import DataError
from hyperpruning.data.samples import read_arrays
from hyperpruning.models.sequence_model import POOLS, SequenceModel
from hyperpruning.models.stack import LAYERS, MAX_LAYERS, MAX_WIDTH
from hyperpruning.settings import described, setting
from hyperpruning.tasks.narrower import narrower_task
from hyperpruning.tasks.supervised import SupervisedTask


@dataclass(frozen=True, eq=False, kw_only=True)
class SequenceTask(SupervisedTask):
    """A task whose network is one of the package, or the user's own `model`."""

    ARRAYS: ClassVar[Sequence[str]]
    defaults: ClassVar[Mapping[str, Any]]  # of settings in a TOML, where they differ
    recipe: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "lr": 5e-3}

    model: Any = described("a class or function that builds a network of your own; None: one of the package", None)
    data: Any = described("the data; None: those of `file`", None, shown=False)
    loss_fn: Any = described("(network, batch) -> the mean loss of a batch; None: the task's own", None)
    file: Path | None = setting(None, "file with the data, .npz as numpy.savez writes it", section="data")
    standardize: bool = setting(
        True, "scale each feature by its mean and standard deviation in the training data", section="data"
    )
    cell: str = setting("gru", f"recurrent cell: {', '.join(LAYERS)}", section="model", choices=tuple(LAYERS))
    hidden: int | tuple[int, ...] = setting(
        64, "units of each recurrent layer; [64, 32] for layers of different sizes", section="model", ge=1, le=MAX_WIDTH
    )
    layers: int | None = setting(
        None, "recurrent layers; left out: 1, or as many as hidden lists", section="model", ge=1, le=MAX_LAYERS
    )
    depth: int = setting(1, "micro-steps of a recurrent highway layer", section="model", ge=1, le=MAX_LAYERS)
    dropout: float = setting(
        0.0, "probability of dropout between the layers and before the output", section="model", ge=0, lt=1
    )
    pool: str = setting(
        "last", 'what the output layer reads: the "last" output of a sequence, or their "mean"', section="model",
        choices=POOLS,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.hidden, tuple) and len(self.hidden) > MAX_LAYERS:
            raise ValueError(f"hidden must list at most {MAX_LAYERS} layers, got {len(self.hidden)}. Shorten it.")
        if self.data is not None and self.file is not None:
            raise ValueError(f"data must be left out with a file, got both and {self.file}. Give one of them.")

    def check_model(self) -> None:
        """Build the network on the device "meta", without data.

        Raises:
            ValueError: sizes contradict each other.
        """
        with torch.device("meta"):
            self._network(1, 2, seed=0)

    @property
    def model_sizes(self) -> dict[str, Any]:
        """The settings of the section "model"."""
        return {
            field.name: getattr(self, field.name) for field in fields(self) if field.metadata.get("section") == "model"
        }

    def _description(self, kind: str, network: nn.Module) -> dict[str, Any]:
        """What a model file says of a network."""
        if not isinstance(network, SequenceModel):
            return {"kind": kind, **self.identity()}
        data = {
            field.name: list(value) if isinstance(value := getattr(self, field.name), tuple) else value
            for field in fields(self)
            if field.metadata.get("section") == "data" and field.name not in ("file", "eval_batch")
        }
        return {"kind": kind, "model": network.sizes, "data": data, "data_sha256": self.data_sha256}

    @abstractmethod
    def _network(self, inputs: int, outputs: int, *, seed: int, **sizes: Any) -> SequenceModel:
        """A network of the package; `sizes` replace the settings."""

    @property
    @abstractmethod
    def _shape(self) -> tuple[int, int]:
        """Number of inputs and outputs of the network, from the data."""

    @property
    @abstractmethod
    def standardization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each feature in the training data; 0 and 1 without `standardize`."""

    def network(self, seed: int) -> nn.Module:
        """A new network; the package's own standardises its inputs."""
        if self.model is not None:
            return super().network(seed)
        network = self._network(*self._shape, seed=seed)
        mean, scale = self.standardization
        network.mean.copy_(mean)
        network.scale.copy_(scale)
        return network

    @property
    def narrower(self) -> Callable[[int], Self] | None:
        """`Task.narrower`: all layers become narrower in the same proportion; None for a model of your own."""
        if self.model is not None:
            return super().narrower
        shape = self._shape
        return lambda weights: narrower_task(
            self, weights, ("hidden",), lambda sizes: self._network(*shape, seed=0, **sizes)
        )

    def _source(self) -> Any:
        """The data that were given, or those of the file by the names of its arrays."""
        if self.data is not None:
            return super()._source()
        if self.file is None:
            raise DataError(
                f"{type(self).__name__} must have data, got none. Set file in [data], a .npz with the arrays "
                f"{', '.join(self.ARRAYS)}; in Python, give data = ..."
            )
        return self._from_arrays(read_arrays(self.file, self.ARRAYS))

    @abstractmethod
    def _from_arrays(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
        """The data of a file, as `data` takes them."""
