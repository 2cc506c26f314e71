"""Samplers of ours pass the suite of a sampler, and one that breaks a promise fails it."""

import pytest
from optuna.samplers import BaseSampler, RandomSampler

from hyperpruning.search.samplers import SAMPLERS
from hyperpruning.search.space import FloatRange, SearchSpace
from hyperpruning.testing import check_sampler

SPACES = [
    None,
    SearchSpace({"drop_fraction": FloatRange(0.2, 0.4, 0.1)}),
    SearchSpace({"grow": ("random", "none"), "drop_fraction": FloatRange(0.0, 0.4, 0.1)}),  # half of it is invalid
    SearchSpace({"stop": FloatRange(0.5, 1.0, 0.0001), "drop_fraction": FloatRange(0.1, 0.9, 0.001)}),
]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_ours(name, space):
    check_sampler(SAMPLERS[name], space)


class Plain(BaseSampler):
    """Draws each value alone, by `choose`."""

    def __init__(self, seed, choose):
        self.random, self.choose = RandomSampler(seed=seed), choose

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, name, distribution):
        return self.choose(self.random.sample_independent(study, trial, name, distribution), study, distribution)


def constant(value, study, distribution):
    return getattr(distribution, "low", None) or distribution.choices[0]


def off_the_grid(value, study, distribution):
    return value + 0.05 if isinstance(value, float) else value


def strict(value, study, distribution):
    assert all(trial.value is not None for trial in study.trials if trial.state.is_finished())
    return value


@pytest.mark.parametrize(
    ("sampler", "says"),
    [
        (lambda seed, n_startup: RandomSampler(), "must give the same answer to the same question"),
        (lambda seed, n_startup: Plain(seed, constant), "must find 6 new configs while the space has them, got 1"),
        (lambda seed, n_startup: Plain(seed, off_the_grid), "Configs must be valid methods of the space"),
        (lambda seed, n_startup: Plain(seed, strict), "of which some are inf, got AssertionError"),
        (lambda seed: RandomSampler(seed=seed), "must suggest configs after 0 observations, .*TypeError"),
    ],
)
def test_a_faulty_sampler_fails(sampler, says):
    with pytest.raises(AssertionError, match=says):
        check_sampler(sampler)


def test_a_space_without_methods_is_refused():
    with pytest.raises(ValueError, match="space must have a valid config"):
        check_sampler(SAMPLERS["random"], SearchSpace({"drop": ("none",)}))
