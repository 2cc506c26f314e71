"""The search space: the configs that a candidate can have.

A config has a value for each setting that is searched: the fields of a pruning method by their names
("drop_fraction"), settings of the training as "training.lr", settings of the task as "task.dropout".
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from hyperpruning.search.dimensions import (
    Choices,
    Dimension,
    Prior,
    Range,
    check_choices,
    drawn,
    from_json,
    to_json,
    values_of,
)
from hyperpruning.settings import did_you_mean
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import check_choice, from_config, to_config

Config = dict[str, str | float]
OTHER = ("training", "task")  # what settings outside the method belong to
MORE = ("conditions", "priors", "fixed", "constraints")  # what a space has beside its dimensions


@dataclass(frozen=True)
class SearchSpace:
    """The settings that are searched, with their choices.

    Attributes:
        dimensions: setting -> its choices as a tuple, a `FloatRange` or an `IntRange`. A setting is a field of `Method`
            ("drop_fraction"), of the training ("training.lr") or of the task ("task.dropout").
        conditions: setting -> {another setting: the values with which the first one is searched at all}; otherwise it
            has the plan's value.
        priors: setting -> what is believed about it.
        fixed: configs that are candidates before any is suggested.
        constraints: functions ``(config) -> bool`` by name; a config is valid only if all are true.

    Raises:
        ValueError: choices are no tuple or empty, a setting is unknown, or a condition, prior or fixed config does not
            fit the dimensions.
    """

    dimensions: Mapping[str, Dimension]
    conditions: Mapping[str, Mapping[str, Choices]] = field(default_factory=dict)
    priors: Mapping[str, Prior] = field(default_factory=dict)
    fixed: tuple[Config, ...] = ()
    constraints: Mapping[str, Callable[[Config], bool]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, dimension in self.dimensions.items():
            _check_name(name)
            check_choices(name, dimension)
        for name, condition in self.conditions.items():
            for other in (name, *condition):
                self._check_known("condition", other)
            for other, values in condition.items():
                for value in values if isinstance(values, tuple) else (values,):
                    self._check_member("condition", other, value)
        for name, prior in self.priors.items():
            self._check_known("prior", name)
            self._check_member("prior", name, prior.centre)
        for config in self.fixed:
            for name in config:
                _check_name(name)

    def _check_known(self, kind: str, name: str) -> None:
        if name not in self.dimensions:
            raise ValueError(
                f"A {kind} must be of a dimension of the space, got {name!r}.{did_you_mean(name, self.dimensions)}"
            )

    def _check_member(self, kind: str, name: str, value: Any) -> None:
        dimension = self.dimensions[name]
        inside = (
            isinstance(value, int | float) and dimension.low <= value <= dimension.high
            if isinstance(dimension, Range)
            else value in dimension
        )
        if not inside:
            raise ValueError(f"A {kind} of {name} must lie in its dimension {dimension}, got {value!r}. Change it.")

    def check_names(self) -> None:
        """Check that every choice of a part of the method exists.

        Raises:
            ValueError: one does not; the message has the nearest name.
        """
        for name, dimension in self.dimensions.items():
            if is_method_setting(name) and not isinstance(dimension, Range):
                for value in dimension:
                    check_choice(name, value)

    def size(self) -> float:
        """Number of configs, including invalid and inactive ones; infinite if a dimension is continuous."""
        return math.prod(len(values) if (values := values_of(one)) else math.inf for one in self.dimensions.values())

    def active(self, values: Mapping[str, str | float]) -> Config:
        """The config of a value for each dimension: without those whose conditions are not met."""
        config: Config = dict(values)
        while drop := [
            name
            for name, condition in self.conditions.items()
            if name in config and any(config.get(other) not in values for other, values in condition.items())
        ]:
            for name in drop:
                del config[name]
        return config

    def is_valid(self, config: Config) -> bool:
        """Whether a config describes a valid method and meets all constraints."""
        return is_valid(config) and all(constraint(config) for constraint in self.constraints.values())

    def configs(self, limit: int) -> list[Config]:
        """All configs, including those that are invalid; at most `limit`, then drawn at random."""
        size, draw = self.size(), random.Random(0)
        found: list[Config] = []
        if math.isinf(size):
            found = [{name: drawn(one, draw.random()) for name, one in self.dimensions.items()} for _ in range(limit)]
        else:
            for number in range(int(size)) if size <= limit else draw.sample(range(int(size)), limit):
                config: Config = {}
                for name, dimension in self.dimensions.items():
                    values = values_of(dimension)
                    number, index = divmod(number, len(values))
                    config[name] = values[index]
                found.append(config)
        if not self.conditions:
            return found
        return [dict(pairs) for pairs in dict.fromkeys(tuple(self.active(config).items()) for config in found)]

    def identity(self) -> dict[str, Any]:
        """The space in JSON types; `space_from_identity` is the inverse, but for constraints, which have only names."""
        more: dict[str, Any] = {
            "conditions": {name: {key: list(v) for key, v in one.items()} for name, one in self.conditions.items()},
            "priors": {name: asdict(prior) for name, prior in self.priors.items()},
            "fixed": [dict(config) for config in self.fixed],
            "constraints": sorted(self.constraints),
        }
        dimensions = {name: to_json(choices) for name, choices in self.dimensions.items()}
        return dimensions | {name: value for name, value in more.items() if value}


def space_from_identity(values: Mapping[str, Any]) -> SearchSpace:
    """The space that `SearchSpace.identity` described, without constraints.

    Raises:
        AttributeError, TypeError, ValueError: it is from another version.
    """
    return SearchSpace(
        {name: from_json(choices) for name, choices in values.items() if name not in MORE},
        {name: {key: tuple(v) for key, v in one.items()} for name, one in values.get("conditions", {}).items()},
        {name: Prior(**prior) for name, prior in values.get("priors", {}).items()},
        tuple(values.get("fixed", ())),
    )


def _check_name(name: str) -> None:
    """Check that a setting is of a method, the training or the task; the last two are checked with their owners."""
    owner, dot, _ = name.partition(".")
    known = [*(one.name for one in fields(Method)), "method", *(f"{owner}.NAME" for owner in OTHER)]
    if owner not in OTHER if dot else name not in known:
        raise ValueError(
            f"A dimension must be a setting of a method, training.NAME or task.NAME, got {name!r}."
            f"{did_you_mean(name, known)}"
        )


def is_method_setting(name: str) -> bool:
    """Whether a setting belongs to the pruning method.

    >>> is_method_setting("drop_fraction"), is_method_setting("training.lr")
    (True, False)
    """
    return "." not in name


def method_config(config: Mapping[str, str | float]) -> Config:
    """The settings of a config that describe its pruning method."""
    return {name: value for name, value in config.items() if is_method_setting(name)}


def settings_of(config: Mapping[str, str | float], owner: str) -> dict[str, str | float]:
    """The settings of a config outside its method, by their names.

    >>> settings_of({"drop_fraction": 0.5, "training.lr": 2.0}, "training")
    {'lr': 2.0}
    """
    start = f"{owner}."
    return {name.removeprefix(start): value for name, value in config.items() if name.startswith(start)}


def is_valid(config: Config) -> bool:
    """Whether a config describes a valid method."""
    try:
        from_config(method_config(config))
    except ValueError:
        return False
    return True


def canonical(config: Config) -> str:
    """A text that is equal for configs that train the same network.

    Components that have no effect are left out: in a static mask, how weights are compared.

    >>> static = {"drop": "none", "grow": "none", "drop_fraction": 0.0}
    >>> canonical({**static, "drop_scope": "sign"}) == canonical(static)
    True
    """
    method = from_config(method_config(config))
    values: dict[str, Any] = dict(to_config(method))
    static = not (method.drop_fraction or method.scheduled or method.soft_shrinkage or method.update)
    if static:
        unused = ("drop_scope", "decay", "redistribute", "grow", "grow_scope", "regrowth_init")
        values = {name: value for name, value in values.items() if name not in unused}
    others = {name: value for name, value in config.items() if not is_method_setting(name)}
    return json.dumps(values | others, sort_keys=True)
