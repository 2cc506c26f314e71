"""Finds the best way to prune a recurrent network, by its Lyapunov spectrum, without training every candidate."""

from hyperpruning.api import hyperprune
from hyperpruning.experiment import Experiment
from hyperpruning.export import load_model
from hyperpruning.lyapunov.contract import check_driven_layer
from hyperpruning.lyapunov.distances import spectrum_distance
from hyperpruning.lyapunov.spectrum import Spectrum, lyapunov_spectrum
from hyperpruning.search.plan import Plan
from hyperpruning.search.slices import SpectrumConfig
from hyperpruning.search.space import Between, Space
from hyperpruning.sparsity.composition import Method
from hyperpruning.sparsity.methods import METHODS
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.snt_asgd import SNTASGD
from hyperpruning.training.task import LanguageModelling, Task

__all__ = [
    "METHODS",
    "SNTASGD",
    "Between",
    "Experiment",
    "LanguageModelling",
    "Method",
    "Plan",
    "Space",
    "Sparsifier",
    "Spectrum",
    "SpectrumConfig",
    "Task",
    "TrainConfig",
    "check_driven_layer",
    "hyperprune",
    "load_model",
    "lyapunov_spectrum",
    "spectrum_distance",
]
