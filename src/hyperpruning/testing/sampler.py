"""The contract suite of a sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hyperpruning.search.dimensions import Dimension, FloatRange, Range
from hyperpruning.search.samplers import Observation, Sampler, suggest
from hyperpruning.search.space import Config, SearchSpace
from hyperpruning.testing.comparison import require

SPACE = SearchSpace(
    {
        "allocation": ("uniform", "er"),
        "drop_scope": ("tensor", "sign", "global"),
        "grow": ("random", "gradient"),
        "drop_fraction": FloatRange(0.3, 0.8, 0.1),
    }
)
TINY = SearchSpace({"drop_scope": ("tensor", "global"), "drop_fraction": FloatRange(0.3, 0.4, 0.1)})
SAMPLED = 1000  # configs of a space that are looked at
BATCHES, COUNT = 4, 6  # asked of the sampler

Observations = list[Observation]


def check_sampler(sampler: Sampler, space: SearchSpace | None = None, *, n_objectives: int = 1) -> None:
    """Check a sampler, as the search asks it: batch by batch, with the scores of all earlier configs.

    The same question gets the same answer; configs are new, distinct, of the space and valid; scores of inf (failed
    candidates) are accepted; a space of four configs is exhausted, after which no config is given.

    Args:
        sampler: ``(seed, n_startup, space) -> optuna sampler``, see `hyperpruning.search.samplers.SAMPLERS`.
        space: to ask for; with at least one valid config; default one of 72.
        n_objectives: values of each observation; 2 for a search with objectives = ["loss", "active"].

    Raises:
        AssertionError: a promise is broken; the message says which, and what to do.
        ValueError: the space has no valid config.

    >>> from optuna.samplers import RandomSampler
    >>> check_sampler(lambda seed, n_startup, space: RandomSampler(seed=seed))
    """
    space = SPACE if space is None else space
    valid = [config for config in space.configs(SAMPLED) if space.is_valid(config)]
    if not valid:
        raise ValueError(f"space must have a valid config, got {space}. Widen it.")
    observations: Observations = []
    for batch in range(BATCHES):
        count = min(COUNT, len(valid) - len(observations)) if space.size() <= SAMPLED else COUNT
        if count < 1:
            break
        fresh = _ask(sampler, space, observations, seed=batch, count=count, n_objectives=n_objectives)
        _check_new(fresh, observations, space, count)
        observations += [
            (config, _score(len(observations) + place, n_objectives)) for place, config in enumerate(fresh)
        ]
    failed = [(config, _several(math.inf, n_objectives)) for config, _ in observations[: len(valid) - 1]]
    if space.size() > len(failed):
        _check_new(_ask(sampler, space, failed, seed=0, count=1, n_objectives=n_objectives), failed, space, 1)
    _check_exhaustion(sampler)


def _score(number: int, n_objectives: int) -> float | tuple[float, ...]:
    """Some failed, some equal, some good."""
    return _several(math.inf if number % 3 == 1 else float(number % 5), n_objectives)


def _several(score: float, n_objectives: int) -> float | tuple[float, ...]:
    """A score alone, or with values that are better where it is worse."""
    if n_objectives == 1:
        return score
    return (score, *(score if math.isinf(score) else place - score for place in range(1, n_objectives)))


def _ask(
    sampler: Sampler, space: SearchSpace, observations: Observations, *, seed: int, count: int, n_objectives: int = 1
) -> list[Config]:
    """The configs that a search would get, which must be the same when it asks again."""
    answers = []
    for _ in range(2):
        try:
            found = suggest(
                space, list(observations), sampler=sampler, seed=seed, count=count, n_objectives=n_objectives
            )
            answers.append(found)
        except Exception as error:
            raise AssertionError(
                f"A sampler must suggest configs after {len(observations)} observations, of which some are inf, got "
                f"{type(error).__name__}: {error}. Return an optuna sampler that reads pruned trials."
            ) from error
    require(
        answers[0] == answers[1],
        f"A sampler must give the same answer to the same question, got {answers[0]} and {answers[1]}. Make a new "
        "optuna sampler in each call, and give it the seed.",
    )
    return answers[0]


def _check_new(fresh: Sequence[Config], observations: Observations, space: SearchSpace, count: int) -> None:
    known = [config for config, _ in observations]
    for place, config in enumerate(fresh):
        inside = set(config) <= set(space.dimensions) and all(
            _contains(space.dimensions[name], value) for name, value in config.items()
        )
        require(
            inside and space.active(config) == config and space.is_valid(config),
            f"Configs must be valid methods of the space, got {config}. Draw every value from its distribution.",
        )
        require(
            config not in known and config not in fresh[:place],
            f"Configs must be new, got {config} again. Draw another one.",
        )
    require(
        len(fresh) == count,
        f"A sampler must find {count} new configs while the space has them, got {len(fresh)} after {len(known)} "
        "others. Let it suggest other values when it is asked again.",
    )


def _contains(choices: Dimension, value: object) -> bool:
    if not isinstance(choices, Range):
        return value in choices
    return isinstance(value, int | float) and value in (choices.values or [choices.rounded(value)])


def _check_exhaustion(sampler: Sampler) -> None:
    size = int(TINY.size())
    fresh = _ask(sampler, TINY, [], seed=0, count=2 * size + 1)
    _check_new(fresh, [], TINY, size)
    rest = _ask(sampler, TINY, [(config, 1.0) for config in fresh], seed=1, count=2)
    require(not rest, f"An exhausted space must give no config, got {rest}. Leave the choice of new ones to suggest.")
