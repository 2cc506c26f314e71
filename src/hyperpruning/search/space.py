"""The search space, and Optuna as a function that suggests points of it.

Optuna keeps nothing for us: for every generation a study is rebuilt in memory from what the ledger knows, and its
sampler is seeded by the search's seed and the generation. An interrupted search therefore asks the same questions
again and gets the same answers.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import from_config

Point = dict[str, str | float]
ASKS_PER_POINT = 50  # suggestions asked for one new point before the space counts as exhausted


@dataclass(frozen=True)
class Candidate:
    """A point of the search space, with a name.

    Attributes:
        name: "c01", "c02", ... in the order of suggestion.
        generation: which of the batches asked of the sampler it came in.
        point: the spelling of its method.
    """

    name: str
    generation: int
    point: Point

    @property
    def method(self) -> Method:
        """The method that the point spells."""
        return from_config(self.point)


@dataclass(frozen=True)
class FloatRange:
    """A numeric dimension: low, low + step, ..., high.

    Attributes:
        low, high: the ends, both included.
        step: the grid.
    """

    low: float
    high: float
    step: float


@dataclass(frozen=True)
class SearchSpace:
    """What a candidate may be: for each field of `Method` that is searched, its choices.

    Attributes:
        dimensions: field name -> the choices by name, or a `FloatRange`.
    """

    dimensions: Mapping[str, tuple[str | float, ...] | FloatRange]

    def distributions(self) -> dict[str, BaseDistribution]:
        """The space as Optuna sees it."""
        return {
            name: FloatDistribution(choices.low, choices.high, step=choices.step)
            if isinstance(choices, FloatRange)
            else CategoricalDistribution(choices)
            for name, choices in self.dimensions.items()
        }

    def size(self) -> int:
        """How many points there are."""
        return math.prod(len(_choices(dimension)) for dimension in self.dimensions.values())

    def points(self, most: int) -> list[Point]:
        """All points, also those that are no method; of a larger space than `most`, so many drawn at random."""
        choices = {name: _choices(dimension) for name, dimension in self.dimensions.items()}
        size = self.size()
        found: list[Point] = []
        for number in range(size) if size <= most else random.Random(0).sample(range(size), most):
            point: Point = {}
            for name, several in choices.items():
                number, index = divmod(number, len(several))
                point[name] = several[index]
            found.append(point)
        return found


def _choices(dimension: tuple[str | float, ...] | FloatRange) -> list[str | float]:
    if not isinstance(dimension, FloatRange):
        return list(dict.fromkeys(dimension))
    count = math.floor((dimension.high - dimension.low) / dimension.step + 1e-6) + 1
    return [round(dimension.low + index * dimension.step, 10) for index in range(count)]


def _tpe(seed: int, startup: int) -> BaseSampler:
    return TPESampler(n_startup_trials=startup, multivariate=True, group=True, constant_liar=True, seed=seed)


def _random(seed: int, startup: int) -> BaseSampler:
    return RandomSampler(seed=seed)


# (seed, number of random points to begin with) -> sampler; a search also takes any other function of this form
SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {"tpe": _tpe, "random": _random}


def suggest(
    space: SearchSpace,
    told: Sequence[tuple[Point, float]],
    *,
    sampler: Callable[[int, int], BaseSampler],
    seed: int,
    count: int,
) -> list[Point]:
    """Ask for new points of the space.

    Args:
        space: what a point may be.
        told: the points so far with their scores, smaller is better; inf for one that diverged.
        sampler: see `SAMPLERS`.
        seed: of this question.
        count: how many points to ask for.

    Returns:
        distinct points that are not among those told; fewer than `count` when the space holds no more.
    """
    distributions = space.distributions()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(sampler=sampler(seed, count))
        for point, score in told:
            study.add_trial(_trial(point, score, distributions))
        known = [point for point, _ in told]
        fresh: list[Point] = []
        for _ in range(ASKS_PER_POINT * count):
            if len(fresh) == count or len(known) >= space.size():
                break
            point = _rounded(study.ask(distributions).params)
            if point not in known and _is_valid(point):
                fresh.append(point)
                known.append(point)
        return fresh
    finally:
        optuna.logging.set_verbosity(verbosity)


def _trial(point: Point, score: float, distributions: dict[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
    if math.isfinite(score):
        return create_trial(params=dict(point), distributions=distributions, value=score)
    # a failed trial would be invisible to TPE; one pruned with a NaN counts as the worst
    return create_trial(
        params=dict(point), distributions=distributions, state=TrialState.PRUNED, intermediate_values={0: math.nan}
    )


def _rounded(params: Mapping[str, Any]) -> Point:
    return {name: round(value, 10) if isinstance(value, float) else value for name, value in params.items()}


def _is_valid(point: Point) -> bool:
    try:
        from_config(point)
    except ValueError:
        return False
    return True
