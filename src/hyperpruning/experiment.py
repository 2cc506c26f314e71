"""The experiment: the settings of a search as a TOML file; only this module converts names to objects.

Every setting is a field of a dataclass (`settings.setting`) with its section of the file, default, bounds and
documentation. The sections are generated from these fields, except three: [task] has the kind of the task, on which the
settings in other sections depend; [dense] has the dropout of the dense reference, and [space] has one setting for each
component of a method.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import tomlkit
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from hyperpruning.files import checked_size
from hyperpruning.lyapunov.config import SpectrumConfig
from hyperpruning.search.dimensions import Dimension, FloatRange, from_json, to_json
from hyperpruning.search.plan import Plan
from hyperpruning.search.space import MORE, SearchSpace, space_from_identity
from hyperpruning.search.validation import check_rounds
from hyperpruning.settings import check_type, check_value, did_you_mean, is_setting, type_hints
from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.serialization import COMPONENTS, DEFAULT_CHOICES
from hyperpruning.tasks.classification import SequenceClassification
from hyperpruning.tasks.forecasting import Forecasting
from hyperpruning.tasks.language_modelling import LanguageModelling
from hyperpruning.training.config import RECIPE, TrainConfig
from hyperpruning.training.optimizers import OPTIMIZERS

EXPERIMENT = "experiment.toml"
MAX_SIZE = 2**16  # bytes of a TOML file
MAX_DOTS = 200  # in a line of it: each part of a dotted key costs memory for all parts before it
MAX_ERRORS = 20  # that are said at once
PRESETS = Path(__file__).parent / "presets"
# the tasks of an experiment, by their kind
KINDS: dict[str, type[Any]] = {
    "language_modelling": LanguageModelling,
    "classification": SequenceClassification,
    "forecasting": Forecasting,
}
DEFAULT_KIND = "language_modelling"
SECTIONS = {  # sections of the file, in order, with their descriptions
    "task": "What is learnt; the settings of some sections depend on it.",
    "data": "The text, or the file with the data.",
    "model": "The network.",
    "dense": "The dense reference: it may need another dropout than the sparse candidates.",
    "training": "How every network is trained; left out, the optimizer and its numbers are those that suit the task.",
    "pruning": "How much is pruned, and when.",
    "space": "The search space: the choices of each component of a method, or whole methods by name.",
    "search": "Candidates, rungs and selection criteria.",
    "spectrum": "How Lyapunov spectra are computed and compared.",
}
# The choices in the default search space; every other component has the default of `Method`.
SEARCHED: dict[str, tuple[str, ...]] = {
    "allocation": ("uniform", "er"),
    "drop_scope": ("tensor", "sign", "global"),
    "grow": ("random", "gradient"),
    "redistribute": ("none", "nonzeros", "magnitude"),
    "weight_init": ("fan_in",),  # candidates are trained from scratch
}


class ExperimentError(ValueError):
    """An invalid experiment; the message has one line for each error."""


class Section(BaseModel):
    """A section of settings: frozen; unknown settings are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _checked(name: str, metadata: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A validator of a setting's bounds and choices."""

    def check(value: Any) -> Any:
        check_value(name, value, metadata)
        return value

    return check


def _entry(name: str, hint: Any, default: Any, metadata: Mapping[str, Any]) -> tuple[Any, Any]:
    """A setting as a field of a pydantic model."""

    def has_type(value: Any) -> Any:
        check_type(name, value, hint)
        return value

    return (
        Annotated[hint, AfterValidator(_checked(name, metadata)), BeforeValidator(has_type)],
        Field(default, description=metadata["doc"], validate_default=False),
    )


def owners(kind: str) -> tuple[type[Any], ...]:
    """The dataclasses whose fields are the settings of an experiment of this kind."""
    return (Plan, TrainConfig, KINDS[kind], SpectrumConfig)


def _settings(section: str, kind: str) -> dict[str, tuple[Any, Any]]:
    """The settings of a section, from the fields that name it; a task may have other defaults for them."""
    defaults = getattr(KINDS[kind], "defaults", {})
    return {
        field.name: _entry(
            field.name, type_hints(owner)[field.name], defaults.get(field.name, field.default), field.metadata
        )
        for owner in owners(kind)
        for field in dataclasses.fields(owner)
        if is_setting(field) and field.metadata["section"] == section
    }


def _task(kind: str) -> dict[str, tuple[Any, Any]]:
    about = {"doc": f"of {', '.join(KINDS)}", "choices": tuple(KINDS), "bounds": {}}
    return {"kind": _entry("kind", str, kind, about)}


def _dense(kind: str) -> dict[str, tuple[Any, Any]]:
    owner = KINDS[kind]
    (field,) = (field for field in dataclasses.fields(owner) if field.name == "dropout")
    default = getattr(owner, "dense_dropout", field.default)
    about = "a trained dense network (a model file or a state_dict): the reference, and no other dense one is trained"
    return {
        "dropout": _entry("dropout", type_hints(owner)["dropout"], default, field.metadata),
        "file": _entry("file", Path | None, None, {"doc": about, "choices": (), "bounds": {}}),
    }


def _space(kind: str) -> dict[str, tuple[Any, Any]]:
    found = {
        part: _entry(
            part,
            tuple[str, ...],
            SEARCHED.get(part, (DEFAULT_CHOICES[part],)),
            {"doc": f"of {', '.join(choices)}", "choices": tuple(choices), "bounds": {}},
        )
        for part, choices in COMPONENTS.items()
    }
    fraction = {"doc": "fraction of the active weights that an update replaces", "choices": (), "bounds": {}}
    more: dict[str, tuple[str, Any]] = {
        "sparsity": ("sparsities, which share the dense network, e.g. [0.67, 0.8, 0.9]; none: that of [pruning]", ()),
        "numbers": ("numbers of the method, e.g. { gate_density_3 = { low = 0.5, high = 2.0 } }", {}),
        "training": ("settings of [training], e.g. { lr = { low = 0.1, high = 10.0, log = true } }", {}),
        "task": ("settings of [model] and [data], e.g. { dropout = [0.0, 0.2] }", {}),
        "conditions": (
            'when a setting is searched, e.g. { "training.momentum" = { "training.optimizer" = ["sgd"] } }',
            {},
        ),
        "priors": ('what is believed, e.g. { "training.lr" = { centre = 1.0, confidence = 0.5 } }', {}),
        "fixed": ("configs that are candidates before any is suggested", ()),
    }
    as_tuple = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)  # a file has lists
    hints: dict[str, Any] = {"sparsity": Annotated[Any, as_tuple], "fixed": tuple[Mapping[str, Any], ...]}
    named = {"doc": "if any, candidates are these named methods (docs/methods.md) and the components above are unused"}
    return found | {
        "drop_fraction": _entry("drop_fraction", FloatRange, FloatRange(0.3, 0.8, 0.1), fraction),
        "method": _entry("method", tuple[str, ...], (), {**named, "choices": tuple(METHODS), "bounds": {}}),
        **{
            name: _entry(name, hints.get(name, Mapping[str, Any]), default, {"doc": doc, "choices": (), "bounds": {}})
            for name, (doc, default) in more.items()
        },
    }


def _section(name: str, kind: str) -> type[Section]:
    special: dict[str, Callable[[str], dict[str, Any]]] = {"task": _task, "dense": _dense, "space": _space}
    entries: dict[str, Any] = special[name](kind) if name in special else _settings(name, kind)
    model: type[Section] = create_model(name.capitalize(), __base__=Section, __doc__=SECTIONS[name], **entries)
    return model


class Experiment(Section):
    """The settings of a search. The defaults are those of a small language model of characters.

    Args:
        sections: values by section, e.g. ``training={"epochs": 4}``; see docs/settings.md. The kind of the task,
            ``task={"kind": "classification"}``, decides which settings there are.

    Raises:
        ExperimentError: values are invalid; the message has a line for each of the first 20.
    """

    if TYPE_CHECKING:
        task: Any
        data: Any
        model: Any
        dense: Any
        training: Any
        pruning: Any
        space: Any
        search: Any
        spectrum: Any

    def __new__(cls, /, **sections: Any) -> Self:
        """An experiment of the kind that the section "task" names: a subclass with its settings."""
        experiment: Self = super().__new__(_of_kind(_kind(sections)) if cls is Experiment else cls)
        return experiment

    def __init__(self, /, **sections: Any) -> None:
        recipe = getattr(KINDS[_kind(sections)], "recipe", {})
        try:
            super().__init__(**sections | {"training": _with_recipe(sections.get("training", {}), recipe)})
        except ValidationError as error:
            found = error.errors(include_url=False)
            lines = [_sentence(problem, type(self)) for problem in found[:MAX_ERRORS]]
            more = [f"There are {len(found) - MAX_ERRORS} more errors."] if len(found) > MAX_ERRORS else []
            raise ExperimentError("\n".join(lines + more)) from None

    def __reduce__(self) -> Any:
        """Pickle the values: the sections' classes are generated, and pickle finds no generated class."""
        return partial(Experiment, **{name: values_of(section) for name, section in values_of(self).items()}), ()

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        """Check settings that depend on each other; the error has all faults."""
        faults: list[str] = []
        parts = (self._check_model, lambda: self._create(TrainConfig), self._check_rounds, self._search_space)
        for check in parts:
            try:
                check()
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _check_model(self) -> None:
        task = self._create(KINDS[self.task.kind])
        for dropout in (task.dropout, self.dense.dropout):
            dataclasses.replace(task, dropout=dropout).check_model()

    def _check_rounds(self) -> None:
        search = self.search
        check_rounds(
            n_candidates=search.n_candidates, rungs=search.rungs, keep=search.keep, epochs=self.training.epochs
        )

    def _create(self, owner: type[Any], **others: Any) -> Any:
        """Create an object of a dataclass with settings from the sections that its fields name."""
        values = {
            field.name: getattr(getattr(self, field.metadata["section"]), field.name)
            for field in dataclasses.fields(owner)
            if is_setting(field) and field.metadata["section"]
        }
        return owner(**values, **others)

    def plan(self) -> Plan:
        """The plan of the search, ready to run."""
        task: Any = self._create(KINDS[self.task.kind])
        plan: Plan = self._create(
            Plan,
            task=task,
            dense_task=dataclasses.replace(task, dropout=self.dense.dropout),
            dense=self.dense.file,
            train=self._create(TrainConfig),
            space=self._search_space(),
            spectrum=self._create(SpectrumConfig),
        )
        return plan

    def _search_space(self) -> SearchSpace:
        """The search space; a component whose only choice is the default is not a dimension."""
        space = self.space
        chosen = {part: getattr(space, part) for part in COMPONENTS}
        searched: dict[str, Any] = {
            part: choices for part, choices in chosen.items() if choices != (DEFAULT_CHOICES[part],)
        }
        searched["drop_fraction"] = space.drop_fraction
        if space.method:
            searched = {"method": space.method}
        searched |= {name: _dimension(name, one) for name, one in space.numbers.items()}
        of_task = {field.name for field in dataclasses.fields(KINDS[self.task.kind])}
        for name, one in {**space.training, **space.task}.items():  # batch is in [training], and a setting of the task
            searched[f"{'task' if name in of_task else 'training'}.{name}"] = _dimension(name, one)
        if space.sparsity != ():
            searched["sparsity"] = _dimension("sparsity", space.sparsity)
        more = {name: one for name in MORE if (one := getattr(space, name, None))}
        return space_from_identity({name: to_json(one) for name, one in searched.items()} | more)

    def to_toml(self) -> str:
        """The experiment as a commented TOML file."""
        document = tomlkit.document()
        document.add(tomlkit.comment("An experiment of hyperprune: every setting with its default or chosen value."))
        for name, about in SECTIONS.items():
            document.add(tomlkit.nl())
            document.add(tomlkit.comment(about))
            document.add(name, _table(getattr(self, name)))
        return tomlkit.dumps(document)


@cache
def _of_kind(kind: str) -> Any:
    """The class of the experiments of a kind, with their sections."""
    sections = {name: _section(name, kind) for name in SECTIONS}
    entries: dict[str, Any] = {name: (model, Field(default_factory=model)) for name, model in sections.items()}
    return create_model("Experiment", __base__=Experiment, __doc__=Experiment.__doc__, **entries)


def _kind(sections: Mapping[str, Any]) -> str:
    """The kind of the task that the sections name.

    Raises:
        ExperimentError: it is unknown.
    """
    task = sections.get("task", {})
    kind = task.get("kind", DEFAULT_KIND) if isinstance(task, Mapping) else DEFAULT_KIND
    if not isinstance(kind, str) or kind not in KINDS:
        raise ExperimentError(f"task.kind must be one of {', '.join(KINDS)}, got {kind!r}.{did_you_mean(kind, KINDS)}")
    return str(kind)


def _with_recipe(training: Any, recipe: Mapping[str, Any]) -> Any:
    """The section with the real numbers that the task or the optimizer gives to settings that are left out."""
    if not isinstance(training, Mapping) or training.get("optimizer") not in (None, *OPTIMIZERS):
        return training  # refused by its validation
    full = TrainConfig(optimizer=training.get("optimizer")).with_recipe(recipe)
    return {name: getattr(full, name) for name in RECIPE} | dict(training)


def _dimension(name: str, choices: Any) -> Dimension:
    """A dimension as a TOML file has it: a list, or a table with low, high and, if you like, step, log and integer."""
    if not isinstance(choices, list | tuple | Mapping):
        raise ValueError(f"The choices of {name} must be a list or a range, got {choices!r}. Write [{choices!r}].")
    try:
        return from_json(choices)
    except TypeError as error:
        raise ValueError(
            f"The range of {name} must have low and high, and may have step, log and integer, got {dict(choices)}. "
            f"Correct it ({error})."
        ) from None


def _table(section: Section) -> Any:
    table = tomlkit.table()
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if value is None:
            line = f"{key} ="
            table.add(tomlkit.comment(f"{line:<39} # {field.description}"))
            continue
        item = _item(value)
        item.comment(str(field.description))
        item.trivia.comment_ws = " " * max(2, 41 - len(f"{key} = {item.as_string()}"))
        table.add(key, item)
    return table


def _item(value: Any) -> Any:
    """A value as a TOML item on one line."""
    if isinstance(value, FloatRange | Mapping):
        inline = tomlkit.inline_table()
        inline.update(to_json(value) if isinstance(value, FloatRange) else dict(value))
        return inline
    return tomlkit.item([*value] if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value)


def settings_page() -> str:
    """The content of docs/settings.md, from the fields that declare the settings."""
    lines = ["# Settings", "", "Every setting of an `experiment.toml`, generated from the code; all are optional.", ""]
    experiments = {kind: Experiment(task={"kind": kind}) for kind in KINDS}
    for name, about in SECTIONS.items():
        rows = {kind: list(_rows(getattr(experiment, name))) for kind, experiment in experiments.items()}
        if name == "task":
            rows = {DEFAULT_KIND: rows[DEFAULT_KIND]}
        common = [row for row in rows[DEFAULT_KIND] if all(row in others for others in rows.values())]
        lines += [f"## [{name}]", "", about, "", *_rows_table(common)]
        for kind, own in rows.items():
            if further := [row for row in own if row not in common]:
                lines += [f'With `kind = "{kind}"`:', "", *_rows_table(further)]
    return "\n".join(lines)


def _rows(section: Section) -> Iterator[str]:
    """The rows of a section in the table of its settings."""
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        default = "" if value is None else f"`{_item(value).as_string()}`"
        yield f"| `{key}` | {default} | {str(field.description).replace('|', chr(92) + '|')} |"


def _rows_table(rows: list[str]) -> list[str]:
    return ["| setting | default | meaning |", "|---|---|---|", *rows, ""] if rows else []


def word_experiment(folder: Path, **sections: dict[str, Any]) -> Experiment:
    """An experiment on a text of words, with suitable sizes and learning rate.

    Args:
        folder: the folder with the three splits.
        sections: values that replace defaults, by section.
    """
    defaults: dict[str, dict[str, Any]] = {
        "data": {"folder": folder, "unit": "word"},
        "model": {"embedding": 200, "hidden": 200, "embedding_std": 0.06, "dropout": 0.2},
        "dense": {"dropout": 0.2},
        "training": {"lr": 20.0},
    }
    return Experiment(**{name: defaults.get(name, {}) | sections.get(name, {}) for name in {*defaults, *sections}})


def demo_experiment() -> Experiment:
    """The experiment of `hyperprune demo`: a search that looks first after a 24th of the training.

    A tenth of the text, in small batches, so that the candidates have learnt something after one epoch, and differ.
    Each criterion keeps one finalist, so that its search trains 62 of 576 epochs. Then all candidates are trained to
    the end, and the finalists with three seeds, to see what was missed and what is chance.
    """
    return Experiment(
        data={"fraction": 0.1},
        model={"dropout": 0.1},
        training={"epochs": 24, "batch": 10, "bptt": 20, "optimizer": "adamw", "lr": 0.02, "schedule": "cosine"},
        pruning={"updates_per_epoch": 1},
        search={
            "n_candidates": 24,
            "ask_batch": 8,
            "rungs": (1, 2, 4),
            "keep": (10, 4, 1),
            "finalist_seeds": 3,
            "train_all": True,
        },
    )


def replaced(experiment: Experiment, **sections: dict[str, Any]) -> Experiment:
    """The same experiment with some values changed, by section."""
    values = {name: values_of(section) | sections.get(name, {}) for name, section in values_of(experiment).items()}
    return Experiment(**values)


def values_of(section: BaseModel) -> dict[str, Any]:
    """The settings of a section, or the sections of an experiment, by name."""
    return {name: getattr(section, name) for name in type(section).model_fields}


def read_experiment(path: Path) -> Experiment:
    """Read an experiment.toml; relative paths in it are relative to the file.

    Raises:
        ExperimentError: the file does not exist or is no TOML, or values are invalid (the message has all of them).
    """
    try:
        checked_size(path, most=MAX_SIZE)
        text = _text_of(path)
        if any(line.count(".") > MAX_DOTS for line in text.splitlines()):
            raise ValueError(f"a line has more than {MAX_DOTS} dots")
        content = tomllib.loads(text)
    except FileNotFoundError:
        raise ExperimentError(
            f"An experiment must be a TOML file, got {path}, which does not exist. Write one with `hyperprune init`."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ExperimentError(f"An experiment must be a TOML file, got {path}, which is not valid: {error}.") from None
    if not content:
        raise ExperimentError(
            f"An experiment must have at least one setting, got {path} without any. Write one with `hyperprune init`."
        )
    return with_absolute_paths(path.parent, Experiment(**content))


def _text_of(path: Path) -> str:
    content = path.read_bytes()
    try:
        text = "" if b"\0" in content else content.decode("utf-8")  # a model file has zeros, which TOML forbids
    except UnicodeDecodeError:
        text = ""
    if content and not text:
        raise ExperimentError(
            f"An experiment must be a TOML file, got {path}, which is no text. Write one with `hyperprune init`; a "
            "trained dense network is its setting [dense] file."
        )
    return text


def presets() -> list[str]:
    """The names of the presets: documented experiments in the package with published and smaller networks."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def preset(name: str, data: Path | None) -> str:
    """The TOML of a preset.

    Args:
        name: one of `presets`.
        data: the folder with its text.

    Raises:
        ExperimentError: the name is unknown, or no folder is given.
    """
    if name not in presets():
        raise ExperimentError(
            f"A preset must be one of {', '.join(presets())}, got {name!r}.{did_you_mean(name, presets())}"
        )
    if data is None:
        raise ExperimentError(
            f"Preset {name!r} must have the folder of its published text, got none. Give --data DIR; `hyperprune "
            "fetch` downloads it."
        )
    text = (PRESETS / f"{name}.toml").read_text(encoding="utf-8")
    return text.replace("[data]\n", f"[data]\nfolder = {_item(data.resolve()).as_string()}\n", 1)


def read_preset(name: str, data: Path | None) -> Experiment:
    """The experiment of a preset."""
    return Experiment(**tomllib.loads(preset(name, data)))


def data_setting(experiment: Experiment) -> str:
    """The setting of the section "data" that says where the data are: "folder" or "file"."""
    return "folder" if hasattr(experiment.data, "folder") else "file"


def with_absolute_paths(place: Path, experiment: Experiment) -> Experiment:
    """The same experiment with absolute paths to data and dense network; relative ones are relative to `place`."""
    changed = {}
    for section, name in (("data", data_setting(experiment)), ("dense", "file")):
        path = getattr(getattr(experiment, section), name)
        if path is not None:
            update = {name: (place / path).resolve()}
            changed[section] = getattr(experiment, section).model_copy(update=update)
    return experiment.model_copy(update=changed)


def _sentence(problem: Any, experiment: type[Experiment]) -> str:
    """An error of pydantic as a sentence."""
    names = set(_setting_names(experiment))
    path = [str(part) for part in problem["loc"] if isinstance(part, str) and part in names]
    place = ".".join(path)
    if problem["type"] == "extra_forbidden":
        *parents, key = [part for part in problem["loc"] if not isinstance(part, int)]
        known = list(_known_settings(experiment, parents))
        return f"{'.'.join([*parents, key])} is not a setting.{did_you_mean(key, known)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{'.'.join(path[:-1])}.{message}" if path[1:] and message.startswith(path[-1]) else message
    rule = "a path" if problem["type"] == "path_type" else message.removeprefix("Input should be ").partition(", ")[0]
    return f"{place} must be {rule}, got {problem['input']!r}."


def _setting_names(experiment: type[Experiment]) -> Iterator[str]:
    """All names of sections and settings."""
    for name, field in experiment.model_fields.items():
        yield name
        yield from getattr(field.annotation, "model_fields", ())
    yield from (field.name for field in dataclasses.fields(FloatRange))


def _known_settings(experiment: type[Experiment], parents: list[str]) -> Iterator[str]:
    section: Any = experiment
    for part in parents:
        section = section.model_fields[part].annotation if part in section.model_fields else FloatRange
    yield from getattr(section, "model_fields", ()) or (field.name for field in dataclasses.fields(section))
