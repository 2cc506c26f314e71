"""Each setting is declared once: as a field of a frozen dataclass with its default, bounds and documentation.

`setting` declares it and `check_settings` checks its value. The TOML file, the comments of `hyperprune init`,
docs/settings.md and docstrings are generated from the field.
"""

from __future__ import annotations

import builtins
import collections.abc
import dataclasses
import difflib
import functools
import math
import operator
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
# plain types in words: one value, several values
_PLAIN: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "values that are true or false"),
    str: ("a string", "strings"),
}
_COMPARISONS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "ge": (operator.ge, "at least"),
    "gt": (operator.gt, "above"),
    "le": (operator.le, "at most"),
    "lt": (operator.lt, "below"),
}


def setting(
    default: Any,
    doc: str,
    *,
    section: str = "",
    choices: Collection[str] = (),
    check: Callable[[Any], object] | None = None,
    **bounds: float,
) -> Any:
    """Declare a setting.

    Args:
        default: its default.
        doc: one sentence, without a full stop.
        section: section of the TOML file; a setting without a section is not in the file.
        choices: the allowed names, for one name or for each name in a list; a dict is kept, so that it can grow.
        check: a function of one value or of each value in a list, which raises ValueError where it is invalid.
        bounds: "ge", "gt", "le", "lt": limits for one number or for each number in a list or table.
    """
    metadata = {"doc": doc, "section": section, "choices": choices, "check": check, "bounds": bounds}
    return dataclasses.field(default=default, metadata=metadata)


def described(doc: str, default: Any = dataclasses.MISSING, *, shown: bool = True) -> Any:
    """Declare a documented field whose value is an object that checks itself; `shown`: also in its text."""
    metadata = {"doc": doc, "section": "", "choices": (), "bounds": {}}
    return dataclasses.field(default=default, repr=shown, metadata=metadata)


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
            check_type(field.name, value, hints[field.name])
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
        if check := metadata.get("check"):
            check(one)


def check_type(name: str, value: Any, hint: Any) -> None:
    """Check a value of a plain type, or of a list or table of it; other types are checked where they are used.

    Args:
        name: of the setting.
        value: its value.
        hint: its declared type.

    Raises:
        ValueError: the value has another type.
    """
    if (rule := _type_rule(hint)) and not _has_type(value, hint):
        raise ValueError(f"{name} must be {rule}, got {value!r}.")


def _type_rule(hint: Any) -> str:
    """The rule of a type in words; "" if it is not checked here."""
    parts = typing.get_args(hint)
    match typing.get_origin(hint):
        case typing.Union | types.UnionType:
            rules = [_type_rule(part) for part in parts if part is not types.NoneType]
            return " or ".join(rules) if all(rules) else ""
        case builtins.tuple if parts[0] in _PLAIN:
            return f"a list of {_PLAIN[parts[0]][1]}"
        case collections.abc.Mapping if parts[1] in _PLAIN:
            return f"a table of {_PLAIN[parts[1]][1]}"
        case _:
            return _PLAIN[hint][0] if hint in _PLAIN else ""


def _has_type(value: Any, hint: Any) -> bool:
    parts = typing.get_args(hint)
    match typing.get_origin(hint):
        case typing.Union | types.UnionType:
            return any(_has_type(value, part) for part in parts)
        case builtins.tuple:
            return isinstance(value, list | tuple) and all(_has_type(one, parts[0]) for one in value)
        case collections.abc.Mapping:
            return isinstance(value, Mapping) and all(_has_type(one, parts[1]) for one in value.values())
        case _ if hint is float:
            return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        case _:
            return isinstance(value, hint) if hint in (str, types.NoneType) else type(value) is hint


def check_types(values: object) -> None:
    """Check the types of all fields of a dataclass that was read from a file.

    Args:
        values: an instance of a dataclass whose fields are strings, numbers, lists, tuples and mappings.

    Raises:
        TypeError: a field has another type than it declares, or a number is not finite.
    """
    for name, hint in type_hints(type(values)).items():
        value = getattr(values, name)
        if not _fits(value, hint):
            kind = hint.__name__ if isinstance(hint, type) else str(hint).rpartition("typing.")[2]
            raise TypeError(f"{name} must be {kind.removeprefix('collections.abc.')}, got {str(value)[:40]!r}")


@functools.cache
def _origin_and_parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(hint), typing.get_args(hint)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has a type; numbers must be finite."""
    if hint is str:
        return isinstance(value, str)
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    origin, parts = _origin_and_parts(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin in (list, tuple):
        part = parts[0]  # of tuple[int, ...], too
        return isinstance(value, origin) and (_are_floats(value, part) or all(_fits(one, part) for one in value))
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
    return hint is Any or (type(value) is hint if hint in (int, bool) else isinstance(value, hint))


def _are_floats(values: Collection[Any], hint: Any) -> bool:
    """A fast answer for the long lists: whether all values are finite floats, or None where the type allows it."""
    allowed: set[type] = {float} if hint is float else {float, types.NoneType} if hint == float | None else set()
    return allowed.issuperset(map(type, values)) and math.isfinite(sum(filter(None, values)))


type_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)
"""The types of a dataclass's fields."""


def did_you_mean(name: object, names: Collection[str]) -> str:
    """The end of an error about an unknown name: " Did you mean ...?", or "" if no known name is similar."""
    near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _fields(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)
