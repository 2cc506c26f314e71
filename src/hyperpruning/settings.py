"""Each setting is declared once: as a field of a frozen dataclass with its default, bounds and documentation.

`setting` declares it and `check_settings` checks its value. The TOML file, the comments of `hyperprune init`,
docs/settings.md and docstrings are generated from the field.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
_PLAIN: tuple[Any, ...] = (int, float, bool, str)
_COMPARISONS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "ge": (operator.ge, "at least"),
    "gt": (operator.gt, "above"),
    "le": (operator.le, "at most"),
    "lt": (operator.lt, "below"),
}


def setting(default: Any, doc: str, *, section: str = "", choices: Collection[str] = (), **bounds: float) -> Any:
    """Declare a setting.

    Args:
        default: its default.
        doc: one sentence, without a full stop.
        section: section of the TOML file; a setting without a section is not in the file.
        choices: the allowed names, for one name or for each name in a list; a dict is kept, so that it can grow.
        bounds: "ge", "gt", "le", "lt": limits for one number or for each number in a list or table.
    """
    return dataclasses.field(
        default=default, metadata={"doc": doc, "section": section, "choices": choices, "bounds": bounds}
    )


def described(doc: str, default: Any = dataclasses.MISSING) -> Any:
    """Declare a documented field whose value is an object that checks itself."""
    return dataclasses.field(default=default, metadata={"doc": doc, "section": "", "choices": (), "bounds": {}})


def is_setting(field: dataclasses.Field[Any]) -> bool:
    """Whether a field of a dataclass was declared by `setting`."""
    return "doc" in field.metadata


def documented(cls: type[T]) -> type[T]:
    """Add the documentation of the settings to the docstring of a dataclass, as attributes."""
    lines = [f"        {field.name}: {field.metadata['doc']}." for field in _fields(cls) if is_setting(field)]
    head, mark, rest = (cls.__doc__ or "").partition("    Raises:")
    cls.__doc__ = (
        f"{head.rstrip()}\n\n    Attributes:\n" + "\n".join(lines) + (f"\n\n{mark}{rest}" if mark else "\n    ")
    )
    return cls


def check_settings(values: object) -> None:
    """Check the types, bounds and choices of all settings.

    Args:
        values: an instance of a dataclass.

    Raises:
        ValueError: a value is invalid; the message states the rule.
    """
    hints = type_hints(type(values))
    for field in _fields(type(values)):
        if is_setting(field):
            value = getattr(values, field.name)
            _check_type(field.name, value, hints[field.name])
            check_value(field.name, value, field.metadata)


def check_value(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    """Check the bounds or choices of one value.

    Raises:
        ValueError: the value is invalid; the message has the rule, the value and, if there is one, the nearest name.
    """
    several = isinstance(value, Mapping | list | tuple)
    each: Iterable[Any] = value.values() if isinstance(value, Mapping) else value if several else (value,)
    bounds, choices = metadata["bounds"], metadata["choices"]
    for one in each:
        if one is None:
            continue
        number = isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one)
        if bounds and not (number and all(_COMPARISONS[bound][0](one, limit) for bound, limit in bounds.items())):
            rule = " and ".join(f"{_COMPARISONS[bound][1]} {limit}" for bound, limit in bounds.items())
            raise ValueError(f"{name} must be {rule}, got {value!r}.")
        if choices and one not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {one!r}.{did_you_mean(one, choices)}")


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Check plain types, also those that may be None; other types are checked where they are used."""
    if value is None and types.NoneType in typing.get_args(hint):
        return
    hint = next((one for one in _PLAIN if hint == one | None), hint)
    rules: dict[Any, tuple[str, bool]] = {
        int: ("a whole number", type(value) is int),
        float: ("a number", type(value) in (int, float) and math.isfinite(value)),
        bool: ("true or false", type(value) is bool),
        str: ("a string", isinstance(value, str)),
    }
    if hint in rules and not rules[hint][1]:
        raise ValueError(f"{name} must be {rules[hint][0]}, got {value!r}.")


def type_hints(cls: Any) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    return typing.get_type_hints(cls)


def did_you_mean(name: object, names: Collection[str]) -> str:
    """The end of an error about an unknown name: " Did you mean ...?", or "" if no known name is similar."""
    near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _fields(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)
