"""What the package promises: the names, sorted, documented, and nothing else."""

import ast
import inspect
import types

import pytest

import hyperpruning as hp

NAMES = [
    "METHODS",
    "SNTASGD",
    "Decoder",
    "Direction",
    "DrivenStep",
    "Experiment",
    "FloatRange",
    "Forecasting",
    "IntRange",
    "LanguageModelling",
    "Method",
    "Metric",
    "OwnLoop",
    "Plan",
    "Prior",
    "SearchSpace",
    "SequenceClassification",
    "Sparsifier",
    "Spectrum",
    "SpectrumConfig",
    "SupervisedTask",
    "Table",
    "Task",
    "TrainConfig",
    "check_driven_layer",
    "costs",
    "dask_executor",
    "export",
    "fake_int8",
    "hyperprune",
    "load",
    "load_table",
    "lyapunov_spectrum",
    "process_pool",
    "ray_executor",
    "replay",
    "save_table",
    "spectrum_distance",
    "table_of",
    "transfer_executor",
]


def test_the_public_names_are_these():
    assert hp.__all__ == NAMES
    leaked = {name for name, value in vars(hp).items() if not name.startswith("_")} - set(NAMES)
    assert all(isinstance(getattr(hp, name), types.ModuleType) for name in leaked)
    assert set(dir(hp)) == set(NAMES)


def test_a_name_comes_from_its_module_at_its_first_use():
    everything: dict[str, object] = {}
    exec("from hyperpruning import *", everything)
    assert set(NAMES) <= set(everything)
    for name in NAMES:
        del vars(hp)[name]
        assert getattr(hp, name) is everything[name]
        assert name in vars(hp)


def test_an_unknown_name_is_said():
    with pytest.raises(AttributeError, match="module 'hyperpruning' has no attribute 'Prune'"):
        hp.Prune  # noqa: B018


def test_type_checkers_see_the_same_names():
    tree = ast.parse(inspect.getsource(hp))
    (seen,) = [node.body for node in tree.body if isinstance(node, ast.If)]
    found = {alias.name: node.module for node in seen for alias in node.names}
    assert found == {name: f"hyperpruning.{module}" for name, module in hp._MODULES.items()}
    assert list(hp._MODULES) == NAMES


def test_every_public_name_is_documented():
    for name in set(NAMES) - {"METHODS"}:
        assert inspect.getdoc(getattr(hp, name)), name
