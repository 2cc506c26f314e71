"""The dimensions of a search space: choices, ranges of numbers, and what is believed about them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

MAX_VALUES = 10_000  # of a range with a step
DIGITS = 3  # significant digits of a value from a continuous range: configs can be read, and near duplicates are equal


def _check_ends(low: float, high: float, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"low and high must be finite, got {low} and {high}.")
    if high < low:
        raise ValueError(f"low must be at most high, got {low} and {high}. Swap them.")
    if log and low <= 0:
        raise ValueError(f"low must be above 0 in a logarithmic range, got {low}. Raise it, or set log = false.")


@dataclass(frozen=True)
class FloatRange:
    """A numeric dimension: a grid low, low + step, ..., high, or all numbers from low to high.

    Attributes:
        low, high: the ends, both included.
        step: of the grid; None (default): continuous, with three significant digits.
        log: whether numbers are drawn uniformly in their logarithm; only without a step.

    Raises:
        ValueError: high is below low, step is not positive, high - low is no multiple of step, there are more than
            10,000 values, or log is set with a step or a low that is not positive.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        _check_ends(self.low, self.high, self.log)
        if self.step is None:
            return
        if not (math.isfinite(self.step) and self.step > 0):
            raise ValueError(f"step must be finite and above 0, got {self.step}.")
        if self.log:
            raise ValueError(f"log must be false in a range with a step, got step={self.step}. Leave one of them out.")
        steps = (self.high - self.low) / self.step
        if steps + 1 > MAX_VALUES:
            raise ValueError(f"A range must have at most {MAX_VALUES:,} values, got step={self.step}. Raise step.")
        if abs(steps - round(steps)) > 1e-6:
            raise ValueError(
                f"high - low must be a multiple of step, got low={self.low}, high={self.high} and step={self.step}. "
                "Change step or high."
            )

    def __len__(self) -> int:
        """The number of values of the grid."""
        if self.step is None:
            raise TypeError(f"A range must have a step to be counted, got {self}.")
        return math.floor((self.high - self.low) / self.step + 1e-6) + 1

    @property
    def values(self) -> list[float] | None:
        """The grid; None if the range is continuous."""
        if self.step is None:
            return None
        return [round(self.low + index * self.step, 10) for index in range(len(self))]

    def draw(self, fraction: float) -> float:
        """The value at a fraction of the range, from 0 to 1."""
        if self.values is not None:
            return self.values[min(int(fraction * len(self)), len(self) - 1)]
        if self.log:
            return self.rounded(math.exp(math.log(self.low) + fraction * (math.log(self.high) - math.log(self.low))))
        return self.rounded(self.low + fraction * (self.high - self.low))

    def rounded(self, value: float) -> float:
        """A value of the range: rounded to the grid's ten decimals, or to three significant digits."""
        if self.step is not None:
            return round(value, 10)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class IntRange:
    """A dimension of whole numbers: low, low + step, ..., high.

    Attributes:
        low, high: the ends, both included.
        step: of the grid.
        log: whether numbers are drawn uniformly in their logarithm; only with step 1.

    Raises:
        ValueError: as for `FloatRange`.
    """

    low: int
    high: int
    step: int = 1
    log: bool = False

    def __post_init__(self) -> None:
        if any(type(value) is not int for value in (self.low, self.high, self.step)):
            raise ValueError(f"low, high and step must be whole numbers, got {self.low}, {self.high} and {self.step}.")
        _check_ends(self.low, self.high, self.log)
        if self.step < 1 or (self.high - self.low) % self.step:
            raise ValueError(
                f"high - low must be a multiple of step, got low={self.low}, high={self.high} and step={self.step}. "
                "Change step or high."
            )
        if self.log and self.step != 1:
            raise ValueError(f"step must be 1 in a logarithmic range, got {self.step}. Leave one of them out.")
        if len(self.values) > MAX_VALUES:
            raise ValueError(f"A range must have at most {MAX_VALUES:,} values, got {len(self.values)}. Raise step.")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def values(self) -> range:
        """The grid."""
        return range(self.low, self.high + 1, self.step)

    def draw(self, fraction: float) -> int:
        """The value at a fraction of the range, from 0 to 1."""
        if self.log:
            return self.rounded(math.exp(math.log(self.low) + fraction * (math.log(self.high) - math.log(self.low))))
        return self.values[min(int(fraction * len(self)), len(self) - 1)]

    def rounded(self, value: float) -> int:
        """A value of the range."""
        return min(max(self.low + self.step * round((value - self.low) / self.step), self.low), self.high)


Choices = tuple[str | float, ...]
Dimension = Choices | FloatRange | IntRange
Range = (FloatRange, IntRange)


@dataclass(frozen=True)
class Prior:
    """What is believed about a dimension before the search; it shapes the first batch of suggestions.

    Attributes:
        centre: the most likely value.
        confidence: from 0 (no belief) to 1: the fraction of the first batch that is drawn near the centre. A range is
            drawn from a normal distribution whose deviation is a tenth of the range (of its logarithm with `log`).

    Raises:
        ValueError: the confidence is not between 0 and 1.
    """

    centre: str | float
    confidence: float

    def __post_init__(self) -> None:
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"confidence must be between 0 and 1, got {self.confidence}. Change it.")


def check_choices(name: str, dimension: object) -> None:
    """Check that the choices of a setting are a dimension."""
    if not isinstance(dimension, (tuple, *Range)):
        instead = f"{tuple(dimension)}" if isinstance(dimension, list) else f"({dimension!r},) for a single choice"
        raise ValueError(
            f"The choices of {name} must be a tuple, a FloatRange or an IntRange, got {dimension!r}. Write {instead}."
        )
    if dimension == ():
        raise ValueError(f"The choices of {name} must have at least one value, got none. Give some.")


def values_of(dimension: Dimension) -> list[str | float]:
    """The values of a dimension; empty if it is continuous."""
    values = dimension.values if isinstance(dimension, Range) else dict.fromkeys(dimension)
    return [] if values is None else list(values)


def drawn(dimension: Dimension, fraction: float) -> str | float:
    """The value at a fraction of a dimension, from 0 to 1 (1 excluded)."""
    if isinstance(dimension, Range):
        return dimension.draw(fraction)
    return values_of(dimension)[int(fraction * len(values_of(dimension)))]


def to_json(dimension: Dimension) -> Any:
    """A dimension in JSON types; `from_json` is the inverse."""
    if not isinstance(dimension, Range):
        return list(dimension)
    values = {name: value for name, value in asdict(dimension).items() if value is not None and value is not False}
    return values | ({"integer": True} if isinstance(dimension, IntRange) else {})


def from_json(choices: Any) -> Dimension:
    """The dimension that `to_json` wrote.

    Raises:
        TypeError, ValueError: it is from another version.
    """
    if not isinstance(choices, Mapping):
        return tuple(choices)
    kind = IntRange if choices.get("integer") else FloatRange
    return kind(**{name: value for name, value in choices.items() if name != "integer"})
