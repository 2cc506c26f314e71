"""The task of forecasting a multivariate series from windows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperpruning.data.corpus import SPLITS, DataError
from hyperpruning.data.samples import Samples, Splits, mean_and_scale, split_series, splits_of
from hyperpruning.models.sequence_model import Forecaster
from hyperpruning.settings import described, documented, setting
from hyperpruning.tasks.sequence_task import SequenceTask
from hyperpruning.training.record import Metric

ERRORS: dict[str, tuple[Callable[..., Tensor], Metric]] = {
    "mse": (functional.mse_loss, Metric("mean squared error", unit="")),
    "mae": (functional.l1_loss, Metric("mean absolute error", unit="")),
}


@documented
@dataclass(frozen=True, eq=False, kw_only=True)
class Forecasting(SequenceTask):
    """Forecasting a multivariate series: `Forecasting(data=series, window=30, horizon=5)`.

    The series is an array (T, F) or (T,), in the order of time. It is cut into the three splits, one after the other in
    time, and each split into windows: no time step of one split is in another one. A mapping gives the splits as series
    of their own. A file has the array "series", or the arrays "train", "valid" and "test".

    The loss is the mean error of all predicted steps and features, each divided by the standard deviation of the
    feature in the training data (with `standardize`): 1 is about what a prediction of the mean gives. A `model` of your
    own is called with windows (B, window, F); it returns the next steps (B, horizon, F), both in the units of the data.

    Raises:
        ValueError: a value is out of its range, or the series does not fit.
    """

    ARRAYS: ClassVar[Sequence[str]] = ("series", *SPLITS)
    defaults: ClassVar[Mapping[str, Any]] = {"warmup": 10}

    window: int = setting(30, "time steps that the network reads", section="data", ge=1, le=1_000_000)
    horizon: int = setting(1, "time steps after them that it predicts at once", section="data", ge=1, le=1_000_000)
    stride: int = setting(1, "time steps from one window to the next", section="data", ge=1, le=1_000_000)
    error: str = setting("mse", '"mse" or "mae": the loss and the metric', section="training", choices=ERRORS)
    metric: Metric = described("the number in which results are reported", ERRORS["mse"][1])

    def __post_init__(self) -> None:
        if any(self.metric == metric for _, metric in ERRORS.values()) and self.error in ERRORS:
            object.__setattr__(self, "metric", ERRORS[self.error][1])
        super().__post_init__()

    def _from_arrays(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
        if "series" in arrays:
            return arrays["series"]
        return arrays

    @cached_property
    def series(self) -> Splits:
        """The series of each split, (T, F) each."""
        return split_series(self._source(), self.fractions)

    def _split(self, data: Any) -> Splits:
        return splits_of(self._windows(split, *self.series[split]) for split in SPLITS)

    def _windows(self, split: str, series: Tensor) -> Samples:
        """The windows of a split (N, window, F), and the steps that follow each, (N, horizon, F); no copies."""
        length = self.window + self.horizon
        if len(series) < length:
            raise DataError(
                f"The {split} series must have at least window + horizon = {length} time steps, got {len(series)}. "
                "Lower window or horizon, or give more data."
            )
        cut = series.unfold(0, length, self.stride).transpose(1, 2)  # (N, length, F)
        return cut[:, : self.window], cut[:, self.window :]

    @property
    def data_sha256(self) -> str:
        """The hash of the series, split by split."""
        return self.series.sha256

    @property
    def _shape(self) -> tuple[int, int]:
        return self.series.train[0].shape[1], self.horizon

    @cached_property
    def standardization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each feature in the training data; 0 and 1 without `standardize`."""
        return mean_and_scale(self.series.train[0], self.standardize)

    def _network(self, inputs: int, outputs: int, *, seed: int, **sizes: Any) -> Forecaster:
        return Forecaster(inputs, outputs, **self.model_sizes | sizes, seed=seed)

    def _loss(self, network: nn.Module, batch: Samples) -> Tensor:
        if self.loss_fn is not None:
            return super()._loss(network, batch)
        windows, targets = batch
        predicted: Any = network(windows)
        if isinstance(predicted, Tensor) and self.horizon == 1 and predicted.shape == targets[:, 0].shape:
            predicted = predicted[:, None]
        if not isinstance(predicted, Tensor) or predicted.shape != targets.shape:
            shape = tuple(predicted.shape) if isinstance(predicted, Tensor) else type(predicted).__name__
            raise ValueError(f"The model must return the shape {tuple(targets.shape)}, got {shape}. Reshape it.")
        scale = network.scale if isinstance(network, Forecaster) else self.standardization[1].to(targets.device)
        return ERRORS[self.error][0](predicted / scale, targets / scale)

    def _probe(self) -> Samples:
        """Validation windows at equal distances: neighbours have nearly all steps in common."""
        count = len(self.splits.valid[0])
        chosen = torch.arange(min(self.probe_batch, count)) * count // min(self.probe_batch, count)
        return tuple(part[chosen] for part in self.splits.valid)

    def baseline_loss(self, split: str) -> float:
        """The loss of predicting the mean of the training data for every step."""
        (mean, scale), targets = self.standardization, self.splits[split][1]
        if not self.standardize:
            mean = self.series.train[0].mean(0)
        return float(ERRORS[self.error][0]((mean / scale).expand(targets.shape).double(), (targets / scale).double()))

    def describe(self, network: nn.Module) -> dict[str, Any]:
        """The sizes of a network of the package, how the data are read, and their hash."""
        return self._description("forecasting", network)
