"""The search space: the configs that a candidate can have."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from hyperpruning.sparsity.serialization import check_choice, from_config

Config = dict[str, str | float]
MAX_VALUES = 10_000  # of a FloatRange


@dataclass(frozen=True)
class FloatRange:
    """A numeric dimension: low, low + step, ..., high.

    Attributes:
        low, high: the ends, both included.
        step: of the grid.

    Raises:
        ValueError: high is below low, step is not positive, high - low is no multiple of step, or there are more than
            10,000 values.
    """

    low: float
    high: float
    step: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.low, self.high, self.step))):
            raise ValueError(f"low, high and step must be finite, got {self.low}, {self.high} and {self.step}.")
        if self.high < self.low:
            raise ValueError(f"low must be at most high, got {self.low} and {self.high}. Swap them.")
        if self.step <= 0:
            raise ValueError(f"step must be above 0, got {self.step}.")
        steps = (self.high - self.low) / self.step
        if steps + 1 > MAX_VALUES:
            raise ValueError(f"A range must have at most {MAX_VALUES:,} values, got step={self.step}. Raise step.")
        if abs(steps - round(steps)) > 1e-6:
            raise ValueError(
                f"high - low must be a multiple of step, got low={self.low}, high={self.high} and step={self.step}. "
                "Change step or high."
            )

    def __len__(self) -> int:
        return math.floor((self.high - self.low) / self.step + 1e-6) + 1

    @property
    def values(self) -> list[float]:
        """The grid."""
        return [round(self.low + index * self.step, 10) for index in range(len(self))]


Choices = tuple[str | float, ...]


@dataclass(frozen=True)
class SearchSpace:
    """The choices of each field of `Method` that is searched.

    Attributes:
        dimensions: field name -> the choices by name, or a `FloatRange`. The name "method" has the names of whole
            methods (`METHODS`) as its choices.

    Raises:
        ValueError: the choices of a field are neither a tuple nor a `FloatRange`.
    """

    dimensions: Mapping[str, Choices | FloatRange]

    def __post_init__(self) -> None:
        dimensions: Mapping[str, object] = self.dimensions
        for name, dimension in dimensions.items():
            if not isinstance(dimension, FloatRange | tuple | list):
                one = dimension if isinstance(dimension, str | int | float) else "rigl" if name == "method" else "..."
                raise ValueError(
                    f"The choices of {name!r} must be a tuple of names or a FloatRange, got {dimension!r}. "
                    f"Write ({one!r},)."
                )

    def check_names(self) -> None:
        """Check that every field and every choice exists.

        Raises:
            ValueError: one does not; the message has the nearest name.
        """
        for name, dimension in self.dimensions.items():
            for value in [dimension.low] if isinstance(dimension, FloatRange) else dimension:
                check_choice(name, value)

    def size(self) -> int:
        """Number of configs, including those that are no valid method."""
        return math.prod(
            len(dimension) if isinstance(dimension, FloatRange) else len(set(dimension))
            for dimension in self.dimensions.values()
        )

    def configs(self, limit: int) -> list[Config]:
        """All configs, including those that are no valid method; at most `limit`, then drawn at random."""
        choices = {name: _values(dimension) for name, dimension in self.dimensions.items()}
        size = self.size()
        found: list[Config] = []
        for number in range(size) if size <= limit else random.Random(0).sample(range(size), limit):
            config: Config = {}
            for name, several in choices.items():
                number, index = divmod(number, len(several))
                config[name] = several[index]
            found.append(config)
        return found


def _values(dimension: Choices | FloatRange) -> list[str | float]:
    return [*dimension.values] if isinstance(dimension, FloatRange) else list(dict.fromkeys(dimension))


def is_valid(config: Config) -> bool:
    """Whether a config describes a valid method."""
    try:
        from_config(config)
    except ValueError:
        return False
    return True
