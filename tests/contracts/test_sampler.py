"""Samplers of ours pass the suite of a sampler, and one that breaks a promise fails it."""

import pytest
from optuna.samplers import BaseSampler, RandomSampler

from hyperpruning.search.dimensions import FloatRange
from hyperpruning.search.samplers import SAMPLERS
from hyperpruning.search.space import SearchSpace
from hyperpruning.testing import check_sampler

SPACES = [
    None,
    SearchSpace({"drop_fraction": FloatRange(0.2, 0.4, 0.1)}),
    SearchSpace({"grow": ("random", "none"), "drop_fraction": FloatRange(0.0, 0.4, 0.1)}),  # half of it is invalid
    SearchSpace({"stop": FloatRange(0.5, 1.0, 0.0001), "drop_fraction": FloatRange(0.1, 0.9, 0.001)}),
]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("gp", "grid")])
def test_ours(name, space):
    check_sampler(SAMPLERS[name], space)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "gp"])
def test_ours_with_two_objectives(name):
    check_sampler(SAMPLERS[name], n_objectives=2)


@pytest.mark.slow  # a Gaussian process is fitted for each suggestion
def test_the_gaussian_process():
    for n_objectives in (1, 2):
        check_sampler(SAMPLERS["gp"], n_objectives=n_objectives)


def test_the_grid():
    check_sampler(SAMPLERS["grid"])
    with pytest.raises(AssertionError, match="at most 10,000 configs with the grid sampler"):
        check_sampler(SAMPLERS["grid"], SPACES[-1])


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


def off_the_grid(value, study, distribution):
    return value + 0.05 if isinstance(value, float) else value


def strict(value, study, distribution):
    assert all(trial.value is not None for trial in study.trials if trial.state.is_finished())
    return value


@pytest.mark.parametrize(
    ("sampler", "says"),
    [
        (lambda seed, n_startup, space: RandomSampler(), "must give the same answer to the same question"),
        (lambda seed, n_startup, space: Plain(seed, off_the_grid), "Configs must be valid methods of the space"),
        (lambda seed, n_startup, space: Plain(seed, strict), "of which some are inf, got AssertionError"),
        (lambda seed: RandomSampler(seed=seed), "must suggest configs after 0 observations, .*TypeError"),
    ],
)
def test_a_faulty_sampler_fails(sampler, says):
    with pytest.raises(AssertionError, match=says):
        check_sampler(sampler)


def test_a_space_without_methods_is_refused():
    with pytest.raises(ValueError, match="space must have a valid config"):
        check_sampler(SAMPLERS["random"], SearchSpace({"drop": ("none",)}))
