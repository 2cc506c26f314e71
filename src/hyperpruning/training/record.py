"""The record of a network after an epoch, and the metric of a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from hyperpruning.settings import check_types


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def shown(value: float) -> str:
    """A loss or metric as it is printed: two decimals, and below 1 three significant digits."""
    return f"{value:.3g}" if 0 < abs(value) < 1 else f"{value:.2f}"


# functions that compute a metric from the loss
FROM_LOSS: dict[str, Callable[[float], float]] = {"identity": float, "exp": _exp}


@dataclass(frozen=True)
class Metric:
    """The number in which results are reported; candidates are always compared by loss.

    Attributes:
        name: e.g. "perplexity", "accuracy", "mean squared error".
        unit: e.g. "nats", "%"; empty for none.
        from_loss: a key of `FROM_LOSS`; None if the task's `evaluate` computes the metric itself.
        maximize: whether a larger value is better.

    Raises:
        ValueError: `from_loss` is not a key of `FROM_LOSS`.
    """

    name: str = "loss"
    unit: str = "nats"
    from_loss: str | None = "identity"
    maximize: bool = False

    def __post_init__(self) -> None:
        if self.from_loss is not None and self.from_loss not in FROM_LOSS:
            raise ValueError(
                f"from_loss must be None or one of {', '.join(FROM_LOSS)}, got {self.from_loss!r}. "
                "Use None and return (loss, metric) from evaluate."
            )

    def value(self, loss: float, computed: float | None = None) -> float:
        """The metric of a loss; if it does not follow from the loss, the one that `evaluate` computed."""
        if self.from_loss is not None:
            return FROM_LOSS[self.from_loss](loss)
        return math.nan if computed is None else computed

    def better(self, value: float, other: float) -> bool:
        """Whether a value is better than another one."""
        return value > other if self.maximize else value < other


@dataclass(frozen=True)
class EpochRecord:
    """The state of a network after an epoch (epoch 0: before training).

    Attributes:
        epoch: epochs trained.
        train_loss, valid_loss: nats; train_loss is None at epoch 0, else it includes the penalties on activations.
        active: active prunable weights (all of them in the dense network).
        density: active fraction of each prunable tensor, one number for each gate.
        churn: weights dropped in this epoch, divided by the active ones.
        ever_active: fraction of the prunable weights that have been active so far (ITOP's R_s); 1 when dense.
        seconds: wall-clock time of the epoch; not part of the ledger.
        spectrum: Lyapunov exponents, nats per step; -inf is None (JSON has no infinity); empty if not computed.
        valid_metric: the task's metric on the validation split; None if it follows from the loss.
        averaged_loss: valid_loss of the exponential average of the weights; None if it is not kept.
        averaged_spectrum: as `spectrum`, of the averaged weights.
        multiply_adds: of one time step with the active weights; None unless it is an objective of the search.
    """

    epoch: int
    train_loss: float | None
    valid_loss: float
    active: int
    density: dict[str, list[float]]
    churn: float
    ever_active: float = 1.0
    seconds: float = 0.0
    spectrum: tuple[float | None, ...] = ()
    valid_metric: float | None = None
    averaged_loss: float | None = None
    averaged_spectrum: tuple[float | None, ...] = ()
    multiply_adds: int | None = None

    @cached_property
    def exponents(self) -> list[float]:
        """The spectrum, with -inf where JSON has None."""
        return [-math.inf if value is None else value for value in self.spectrum]

    @cached_property
    def averaged_exponents(self) -> list[float]:
        """The spectrum of the averaged weights, with -inf where JSON has None."""
        return [-math.inf if value is None else value for value in self.averaged_spectrum]

    def to_json(self) -> dict[str, Any]:
        """The record in JSON types; values that were not taken are left out."""
        values = asdict(self)
        for name in ("valid_metric", "averaged_loss", "averaged_spectrum", "multiply_adds"):
            if values[name] in (None, ()):
                del values[name]
        return values


def record_from_json(values: Mapping[str, Any]) -> EpochRecord:
    """The record that `EpochRecord.to_json` wrote.

    Raises:
        TypeError: a field is missing, unknown or of another type.
    """
    spectra = {name: tuple(values.get(name, ())) for name in ("spectrum", "averaged_spectrum")}
    record = EpochRecord(**{**values, **spectra})
    check_types(record)
    return record
