"""The search space: what a candidate's config may be."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from hyperpruning.sparsity.serialization import from_config

Config = dict[str, str | float]


@dataclass(frozen=True)
class FloatRange:
    """A numeric dimension: low, low + step, ..., high.

    Attributes:
        low, high: the ends, both included.
        step: of the grid.

    Raises:
        ValueError: the ends are in the wrong order, or the range is no whole number of steps.
    """

    low: float
    high: float
    step: float

    def __post_init__(self) -> None:
        if self.high < self.low:
            raise ValueError(f"low must be at most high, got {self.low} and {self.high}. Exchange them.")
        if self.step <= 0:
            raise ValueError(f"step must be above 0, got {self.step}.")
        steps = (self.high - self.low) / self.step
        if abs(steps - round(steps)) > 1e-6:
            raise ValueError(
                f"A range must be a whole number of steps wide, got {self.low} to {self.high} in steps of {self.step}. "
                "Change step or high."
            )

    @property
    def values(self) -> list[float]:
        """The grid."""
        count = math.floor((self.high - self.low) / self.step + 1e-6) + 1
        return [round(self.low + index * self.step, 10) for index in range(count)]


Choices = tuple[str | float, ...]


@dataclass(frozen=True)
class SearchSpace:
    """What a candidate may be: for each field of `Method` that is searched, its choices.

    Attributes:
        dimensions: field name -> the choices by name, or a `FloatRange`.
    """

    dimensions: Mapping[str, Choices | FloatRange]

    def size(self) -> int:
        """How many configs there are, also those that are no valid method."""
        return math.prod(len(_values(dimension)) for dimension in self.dimensions.values())

    def configs(self, limit: int) -> list[Config]:
        """All configs, also those that are no valid method; of a space larger than `limit`, so many drawn at random."""
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
