"""Optuna's samplers as a function of the observations.

Each call creates a study in memory, so that equal arguments give equal configs, also after a restart.
"""

from __future__ import annotations

import copy
import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, GridSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from hyperpruning.search.dimensions import Dimension, FloatRange, IntRange, Range, values_of
from hyperpruning.search.space import Config, SearchSpace, canonical
from hyperpruning.settings import did_you_mean

ASKS_PER_CONFIG = 50  # suggestions for one new config before the space counts as exhausted
MAX_GRID = 10_000  # configs that the grid sampler lists
REPEATS = 10  # suggestions in a row that are not new, after which the rest of a batch is drawn at random


def _tpe(seed: int, n_startup: int, space: SearchSpace) -> BaseSampler:
    return TPESampler(n_startup_trials=n_startup, multivariate=True, group=True, constant_liar=True, seed=seed)


def _random(seed: int, n_startup: int, space: SearchSpace) -> BaseSampler:
    return RandomSampler(seed=seed)


def _gp(seed: int, n_startup: int, space: SearchSpace) -> BaseSampler:
    return GPSampler(n_startup_trials=n_startup, seed=seed, independent_sampler=RandomSampler(seed=seed))


def _qmc(seed: int, n_startup: int, space: SearchSpace) -> BaseSampler:
    """Each batch is a scrambled sequence of its own: with ask_batch = n_candidates there is one."""
    return QMCSampler(scramble=True, seed=seed, independent_sampler=RandomSampler(seed=seed))


def _grid(seed: int, n_startup: int, space: SearchSpace) -> BaseSampler:
    for name, dimension in space.dimensions.items():
        if not values_of(dimension):
            raise ValueError(
                f"Every dimension must have a step with the grid sampler, got a continuous range for {name}. Give it "
                "a step, or choose another sampler."
            )
    if space.size() > MAX_GRID:
        raise ValueError(
            f"A space must have at most {MAX_GRID:,} configs with the grid sampler, got {space.size():,}. Give larger "
            "steps, or choose another sampler."
        )
    return GridSampler({name: values_of(dimension) for name, dimension in space.dimensions.items()}, seed=seed)


def _nsga2(seed: int, n_startup: int, space: SearchSpace) -> BaseSampler:
    return NSGAIISampler(population_size=max(2, n_startup), seed=seed)


Sampler = Callable[[int, int, SearchSpace], BaseSampler]
# (seed, number of random configs to begin with, space) -> sampler
SAMPLERS: dict[str, Sampler] = {
    "tpe": _tpe,
    "random": _random,
    "gp": _gp,
    "qmc": _qmc,
    "grid": _grid,
    "nsga2": _nsga2,
}


# a config with its score, smaller is better; with several objectives their values; inf for a candidate that failed
Observation = tuple[Config, float | tuple[float, ...]]


@dataclass(frozen=True)
class NamedSampler:
    """A sampler object of which only the name is known: in a plan that was read from a ledger."""

    name: str


def check_sampler_name(sampler: object) -> None:
    """Check the name of a sampler; objects are not checked.

    Raises:
        ValueError: it is no key of `SAMPLERS`.
    """
    known = callable(sampler) or isinstance(sampler, BaseSampler | NamedSampler)
    if not known and sampler not in SAMPLERS:
        raise ValueError(
            f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}.{did_you_mean(str(sampler), SAMPLERS)}"
        )


def name_of_sampler(sampler: object) -> str:
    """The name under which a ledger knows a sampler: two objects of one class are not told apart."""
    if isinstance(sampler, str | NamedSampler):
        return sampler if isinstance(sampler, str) else sampler.name
    named = sampler if hasattr(sampler, "__qualname__") else type(sampler)
    return f"{named.__module__}.{named.__qualname__}"


def sampler_of(sampler: str | BaseSampler | Sampler) -> Sampler:
    """The sampler that a name, an Optuna sampler or a function stands for.

    Args:
        sampler: a key of `SAMPLERS`; any Optuna sampler object, which is copied for each batch, so that suggestions
            repeat after a restart; or a function ``(seed, n_startup, space) -> Optuna sampler``.
    """
    if isinstance(sampler, BaseSampler):
        return lambda seed, n_startup, space: copy.deepcopy(sampler)
    return SAMPLERS[sampler] if isinstance(sampler, str) else sampler


def suggest(
    space: SearchSpace,
    observations: Sequence[Observation],
    *,
    sampler: Sampler,
    seed: int,
    count: int,
    n_objectives: int = 1,
) -> list[Config]:
    """Ask for new configs.

    Args:
        space: the search space.
        observations: the configs so far with their scores, smaller is better; inf for one that failed. With several
            objectives a tuple of as many values stands for the score.
        sampler: see `SAMPLERS`.
        seed: seed of the sampler.
        count: number of configs to ask for.
        n_objectives: values of an observation, all to be minimised.

    Raises:
        ValueError: the sampler takes one objective alone.

    Returns:
        distinct valid configs that are not among the observations; fewer than `count` if the space has no more. The
        space's fixed configs come first; without observations its priors shape the others.
    """
    distributions = {name: distribution_of(dimension) for name, dimension in space.dimensions.items()}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            made = sampler(seed, count, space)
            study = optuna.create_study(sampler=made, directions=["minimize"] * n_objectives)
            for config, score in observations:
                study.add_trial(_trial(config, score, distributions, _generation_key(made)))
            return _new_configs(space, study, distributions, [config for config, _ in observations], seed, count)
    finally:
        optuna.logging.set_verbosity(verbosity)


def _new_configs(
    space: SearchSpace,
    study: optuna.Study,
    distributions: dict[str, BaseDistribution],
    observed: Sequence[Config],
    seed: int,
    count: int,
) -> list[Config]:
    known = {canonical(config) for config in observed}
    draw, first = random.Random(seed), not observed
    fresh: list[Config] = []
    waiting, repeats = [dict(config) for config in space.fixed], 0
    for _ in range(ASKS_PER_CONFIG * (count + len(known)) + len(waiting)):
        if len(fresh) == count or len(observed) + len(fresh) >= space.size() + len(space.fixed):
            break
        if waiting:
            config = waiting.pop(0)
        else:
            asked = _rounded(space, _asked(study, distributions))
            config = space.active(_with_priors(space, asked, draw) if first else asked)
        repeats += 1
        if space.is_valid(config) and (key := canonical(config)) not in known:
            fresh.append(config)
            known.add(key)
            repeats = 0
        elif repeats == REPEATS:
            study.sampler = RandomSampler(seed=seed)
    return fresh


def distribution_of(dimension: Dimension) -> BaseDistribution:
    """The distribution of Optuna that stands for a dimension."""
    if isinstance(dimension, FloatRange):
        return FloatDistribution(dimension.low, dimension.high, step=dimension.step, log=dimension.log)
    if isinstance(dimension, IntRange):
        return IntDistribution(dimension.low, dimension.high, step=dimension.step, log=dimension.log)
    return CategoricalDistribution(dimension)


def _generation_key(sampler: BaseSampler) -> str:
    """Under which a genetic algorithm reads the generation of a trial; "" for other samplers.

    Optuna sets it when it runs a trial itself. A trial that is added without it is never a parent.
    """
    key = getattr(sampler, "_get_generation_key", None)
    return "" if key is None else str(key())


def _asked(study: optuna.Study, distributions: dict[str, BaseDistribution]) -> dict[str, Any]:
    """The values that the sampler suggests next."""
    try:
        return study.ask(distributions).params
    except ValueError as error:
        if len(study.directions) == 1:
            raise
        raise ValueError(
            f"The sampler must take several objectives, got {type(study.sampler).__name__} ({error}). Choose nsga2, "
            'or leave objectives at ["loss"].'
        ) from None


def _trial(
    config: Config, score: float | tuple[float, ...], distributions: dict[str, BaseDistribution], generation_key: str
) -> optuna.trial.FrozenTrial:
    """A finished trial of the dimensions that the config has: a fixed config may have other settings too."""
    params = {name: value for name, value in config.items() if contains(distributions, name, value)}
    active = {name: distributions[name] for name in params}
    values = list(score) if isinstance(score, tuple) else [score]
    if generation_key:  # all observations are of one generation, whose best are the parents of the next
        attributes = {generation_key: 0}
        return create_trial(params=params, distributions=active, values=values, system_attrs=attributes)
    if all(map(math.isfinite, values)):
        return create_trial(params=params, distributions=active, values=values)
    # TPE ignores failed trials; a pruned trial with a NaN counts as the worst
    return create_trial(params=params, distributions=active, state=TrialState.PRUNED, intermediate_values={0: math.nan})


def contains(distributions: dict[str, BaseDistribution], name: str, value: Any) -> bool:
    """Whether a value is one that a dimension may have."""
    distribution = distributions.get(name)
    if distribution is None:
        return False
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return isinstance(value, int | float) and distribution._contains(value)


def _rounded(space: SearchSpace, params: Mapping[str, Any]) -> Config:
    config: Config = {}
    for name, value in params.items():
        dimension = space.dimensions[name]
        config[name] = dimension.rounded(value) if isinstance(dimension, Range) else value
    return config


def _with_priors(space: SearchSpace, config: Config, draw: random.Random) -> Config:
    """The config with some values drawn near the centres of priors; see `Prior`."""
    changed = dict(config)
    for name, prior in space.priors.items():
        chance, normal, dimension = draw.random(), draw.gauss(0.0, 0.1), space.dimensions[name]
        if chance >= prior.confidence:
            continue
        if not isinstance(dimension, Range):
            changed[name] = prior.centre
        elif dimension.log:
            changed[name] = dimension.rounded(float(prior.centre) * (dimension.high / dimension.low) ** normal)
        else:
            value = float(prior.centre) + normal * (dimension.high - dimension.low)
            changed[name] = dimension.rounded(min(max(value, dimension.low), dimension.high))
    return changed
