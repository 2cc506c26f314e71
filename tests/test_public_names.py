"""What the package promises: the names, sorted, documented, and nothing else."""

import inspect
import types

import hyperpruning as hp

NAMES = [
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


def test_the_public_names_are_these():
    assert hp.__all__ == NAMES
    leaked = {name for name, value in vars(hp).items() if not name.startswith("_")} - set(NAMES)
    assert all(isinstance(getattr(hp, name), types.ModuleType) for name in leaked)


def test_every_public_name_is_documented():
    for name in set(NAMES) - {"METHODS"}:
        assert inspect.getdoc(getattr(hp, name)), name
