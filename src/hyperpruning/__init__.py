"""Finds the best way to prune a recurrent network, by its Lyapunov spectrum, without training every candidate.

A public name is imported from its module when it is first used (PEP 562): a search needs torch, numpy and optuna, and
only what goes beyond it (`Experiment`, `hyperprune`, `load`) the other packages.
"""

import importlib
import typing

if typing.TYPE_CHECKING:  # for editors and type checkers, which do not follow __getattr__
    from hyperpruning.api import hyperprune
    from hyperpruning.deploy.decoder import Decoder
    from hyperpruning.deploy.fake_int8 import fake_int8
    from hyperpruning.deploy.model_folder import load
    from hyperpruning.experiment import Experiment
    from hyperpruning.exports import export
    from hyperpruning.lyapunov.config import SpectrumConfig
    from hyperpruning.lyapunov.distances import spectrum_distance
    from hyperpruning.lyapunov.modules import Direction
    from hyperpruning.lyapunov.spectrum import Spectrum, lyapunov_spectrum
    from hyperpruning.lyapunov.steps import DrivenStep
    from hyperpruning.network_costs import costs
    from hyperpruning.search.dimensions import FloatRange, IntRange, Prior
    from hyperpruning.search.executors import dask_executor, process_pool, ray_executor, transfer_executor
    from hyperpruning.search.plan import Plan
    from hyperpruning.search.replay import replay
    from hyperpruning.search.space import SearchSpace
    from hyperpruning.search.tables import Table, load_table, save_table, table_of
    from hyperpruning.sparsity.catalogue import METHODS
    from hyperpruning.sparsity.method import Method
    from hyperpruning.sparsity.sparsifier import Sparsifier
    from hyperpruning.tasks.classification import SequenceClassification
    from hyperpruning.tasks.forecasting import Forecasting
    from hyperpruning.tasks.language_modelling import LanguageModelling
    from hyperpruning.tasks.supervised import SupervisedTask
    from hyperpruning.testing.driven_layer import check_driven_layer
    from hyperpruning.training.config import TrainConfig
    from hyperpruning.training.own_loop import OwnLoop
    from hyperpruning.training.record import Metric
    from hyperpruning.training.snt_asgd import SNTASGD
    from hyperpruning.training.task import Task

__all__ = [
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

_MODULES = {
    "METHODS": "sparsity.catalogue",
    "SNTASGD": "training.snt_asgd",
    "Decoder": "deploy.decoder",
    "Direction": "lyapunov.modules",
    "DrivenStep": "lyapunov.steps",
    "Experiment": "experiment",
    "FloatRange": "search.dimensions",
    "Forecasting": "tasks.forecasting",
    "IntRange": "search.dimensions",
    "LanguageModelling": "tasks.language_modelling",
    "Method": "sparsity.method",
    "Metric": "training.record",
    "OwnLoop": "training.own_loop",
    "Plan": "search.plan",
    "Prior": "search.dimensions",
    "SearchSpace": "search.space",
    "SequenceClassification": "tasks.classification",
    "Sparsifier": "sparsity.sparsifier",
    "Spectrum": "lyapunov.spectrum",
    "SpectrumConfig": "lyapunov.config",
    "SupervisedTask": "tasks.supervised",
    "Table": "search.tables",
    "Task": "training.task",
    "TrainConfig": "training.config",
    "check_driven_layer": "testing.driven_layer",
    "costs": "network_costs",
    "dask_executor": "search.executors",
    "export": "exports",
    "fake_int8": "deploy.fake_int8",
    "hyperprune": "api",
    "load": "deploy.model_folder",
    "load_table": "search.tables",
    "lyapunov_spectrum": "lyapunov.spectrum",
    "process_pool": "search.executors",
    "ray_executor": "search.executors",
    "replay": "search.replay",
    "save_table": "search.tables",
    "spectrum_distance": "lyapunov.distances",
    "table_of": "search.tables",
    "transfer_executor": "search.executors",
}


def __getattr__(name: str) -> typing.Any:
    """Import a public name at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return __all__
