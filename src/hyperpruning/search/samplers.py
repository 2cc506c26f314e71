"""Optuna's samplers as a function of the observations.

Each call creates a study in memory, so that equal arguments give equal configs, also after a restart.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from hyperpruning.search.space import Config, FloatRange, SearchSpace, is_valid

ASKS_PER_CONFIG = 50  # suggestions for one new config before the space counts as exhausted


def _tpe(seed: int, n_startup: int) -> BaseSampler:
    return TPESampler(n_startup_trials=n_startup, multivariate=True, group=True, constant_liar=True, seed=seed)


def _random(seed: int, n_startup: int) -> BaseSampler:
    return RandomSampler(seed=seed)


# (seed, number of random configs to begin with) -> sampler
SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {"tpe": _tpe, "random": _random}


def suggest(
    space: SearchSpace,
    observations: Sequence[tuple[Config, float]],
    *,
    sampler: Callable[[int, int], BaseSampler],
    seed: int,
    count: int,
) -> list[Config]:
    """Ask for new configs.

    Args:
        space: the search space.
        observations: the configs so far with their scores, smaller is better; inf for one that failed.
        sampler: see `SAMPLERS`.
        seed: seed of the sampler.
        count: number of configs to ask for.

    Returns:
        distinct valid configs that are not among the observations; fewer than `count` if the space has no more.
    """
    distributions = _distributions(space)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(sampler=sampler(seed, count))
        for config, score in observations:
            study.add_trial(_trial(config, score, distributions))
        known = [config for config, _ in observations]
        fresh: list[Config] = []
        for _ in range(ASKS_PER_CONFIG * count):
            if len(fresh) == count or len(known) >= space.size():
                break
            config = _rounded(study.ask(distributions).params)
            if config not in known and is_valid(config):
                fresh.append(config)
                known.append(config)
        return fresh
    finally:
        optuna.logging.set_verbosity(verbosity)


def _distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The space as Optuna distributions."""
    return {
        name: FloatDistribution(choices.low, choices.high, step=choices.step)
        if isinstance(choices, FloatRange)
        else CategoricalDistribution(choices)
        for name, choices in space.dimensions.items()
    }


def _trial(config: Config, score: float, distributions: dict[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
    if math.isfinite(score):
        return create_trial(params=dict(config), distributions=distributions, value=score)
    # TPE ignores failed trials; a pruned trial with a NaN counts as the worst
    return create_trial(
        params=dict(config), distributions=distributions, state=TrialState.PRUNED, intermediate_values={0: math.nan}
    )


def _rounded(params: Mapping[str, Any]) -> Config:
    return {name: round(value, 10) if isinstance(value, float) else value for name, value in params.items()}
