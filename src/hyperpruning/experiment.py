"""The experiment: the validated configuration of a search <-> TOML; names become objects here and only here."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from hyperpruning.search.plan import Plan
from hyperpruning.search.schedulers import check_rounds
from hyperpruning.search.worker import SpectrumConfig
from hyperpruning.settings import (
    OF_THE_TASK,
    Data,
    Model,
    Pruning,
    Search,
    Section,
    SpaceSection,
    Spectrum,
    Training,
    nearest,
    values_of,
)
from hyperpruning.tasks.language_modelling import LanguageModelling
from hyperpruning.training.config import TrainConfig

EXPERIMENT = "experiment.toml"
PRESETS = Path(__file__).parent / "presets"


class ExperimentError(ValueError):
    """An experiment that cannot be run; the message lists everything that is wrong with it, a line each."""


class Experiment(Section):
    """A search, as a person writes it down. The defaults are those of `hyperprune demo`."""

    data: Data = Data()
    model: Model = Field(default_factory=Model)  # not at import: it builds a network without weights
    training: Training = Training()
    pruning: Pruning = Pruning()
    space: SpaceSection = SpaceSection()
    search: Search = Search()
    spectrum: Spectrum = Spectrum()

    def __init__(self, /, **sections: Any) -> None:
        try:
            super().__init__(**sections)
        except ValidationError as error:
            raise ExperimentError(_explained(error)) from None

    @model_validator(mode="after")
    def _rounds(self) -> Self:
        check_rounds(pool=self.search.pool, rungs=self.search.rungs, keep=self.search.keep, epochs=self.training.epochs)
        return self

    def plan(self) -> Plan:
        """The search with its objects, ready to run."""
        model, training, pruning, spectrum = self.model, self.training, self.pruning, self.spectrum
        task = LanguageModelling(
            **values_of(self.data),
            **model.sizes,
            **{name: getattr(training, name) for name in OF_THE_TASK},
            probe_steps=spectrum.warmup + spectrum.steps,
            probe_batch=spectrum.sequences,
        )
        train = {name: value for name, value in values_of(training).items() if name not in OF_THE_TASK}
        shared = {name: value for name, value in values_of(pruning).items() if name != "sparsity"}
        return Plan(
            task=task,
            dense_task=replace(task, dropout=model.dense_dropout),
            train=TrainConfig(**train, **shared),
            sparsity=pruning.sparsity,
            space=self.space.space(),
            spectrum=SpectrumConfig(spectrum.state, spectrum.warmup),
            distance=spectrum.distance,
            **values_of(self.search),
        )

    def to_toml(self) -> str:
        """The experiment as a commented TOML file."""
        return "\n".join(_lines(self))


def words(folder: Path, **sections: dict[str, Any]) -> Experiment:
    """An experiment on a folder of words, with sizes and rates that suit them.

    Args:
        folder: with the three splits.
        sections: values that replace defaults, by section.
    """
    defaults: dict[str, dict[str, Any]] = {
        "data": {"folder": folder, "unit": "word"},
        "model": {"embedding": 200, "hidden": 200, "embedding_std": 0.06, "dropout": 0.2, "dense_dropout": 0.2},
        "training": {"lr": 20.0},
    }
    return Experiment(**{name: defaults.get(name, {}) | sections.get(name, {}) for name in {*defaults, *sections}})


def demo_experiment() -> Experiment:
    """The search of `hyperprune demo`: the defaults, and everybody trained to the end to see what was missed."""
    return Experiment(search={"exhaustive": True})


def replaced(experiment: Experiment, **sections: dict[str, Any]) -> Experiment:
    """The same experiment with some values changed, by section."""
    values = {name: values_of(section) | sections.get(name, {}) for name, section in values_of(experiment).items()}
    return Experiment(**values)


def read_experiment(path: Path) -> Experiment:
    """Read an experiment.toml; a relative data folder is taken from where the file stands.

    Raises:
        ExperimentError: no such file, no TOML, or values that cannot be used (all of them at once).
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExperimentError(
            f"An experiment is a TOML file, and {path} does not exist: write one with `hyperprune init`."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"An experiment is a TOML file, and {path} is not: {error}.") from None
    return located(path.parent, Experiment(**content))


def presets() -> list[str]:
    """The names of the documented experiments that come with the package: the published networks, and small ones."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def preset(name: str, data: Path | None) -> str:
    """The TOML of a documented experiment.

    Args:
        name: one of `presets`.
        data: the folder of its text.

    Raises:
        ExperimentError: no preset of that name, or no folder.
    """
    if name not in presets():
        raise ExperimentError(
            f"A preset is one of {', '.join(presets())}, and {name!r} is not{nearest(name, presets())}"
        )
    if data is None:
        raise ExperimentError(
            f"A preset is of a published text, and {name!r} was given no folder with it: give --data DIR, after "
            "`hyperprune fetch` if it is not here yet."
        )
    text = (PRESETS / f"{name}.toml").read_text(encoding="utf-8")
    return text.replace("[data]\n", f"[data]\nfolder = {_toml(data.resolve())}\n", 1)


def read_preset(name: str, data: Path | None) -> Experiment:
    """The experiment that `preset` writes down."""
    return Experiment(**tomllib.loads(preset(name, data)))


def located(place: Path, experiment: Experiment) -> Experiment:
    """The same with an absolute data folder; a relative one is taken from `place`."""
    folder = experiment.data.folder
    if folder is None:
        return experiment
    data = experiment.data.model_copy(update={"folder": (place / folder).resolve()})
    return experiment.model_copy(update={"data": data})


def _lines(experiment: Experiment) -> Iterator[str]:
    yield "# An experiment of hyperprune: every setting with its default or chosen value."
    for name, section in values_of(experiment).items():
        yield f"\n# {type(section).__doc__}\n[{name}]"
        for key, field in type(section).model_fields.items():
            value = getattr(section, key)
            line = f"{key} = {_toml(value)}" if value is not None else f'# {key} = "..."'
            yield f"{line:<42}  # {field.description}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, BaseModel | dict):
        items = value if isinstance(value, dict) else values_of(value)
        return "{ " + ", ".join(f"{name} = {_toml(item)}" for name, item in items.items()) + " }"
    if isinstance(value, str | Path):
        return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def _explained(error: ValidationError) -> str:
    """All that pydantic found, one sentence a line."""
    return "\n".join(_sentence(problem) for problem in error.errors())


def _sentence(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"] if not isinstance(part, int))
    if problem["type"] == "extra_forbidden":
        *path, key = [part for part in problem["loc"] if not isinstance(part, int)]
        section: Any = Experiment
        for part in path:
            section = section.model_fields[part].annotation
        return f"{place} is not a setting{nearest(key, section.model_fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    if place and problem["type"] != "value_error":
        return f"{place} = {problem['input']!r} cannot be used: {message[0].lower() + message[1:]}"
    return f"{place} {message}" if place else message
