"""A method as names and numbers: what stands in an experiment.toml, in the ledger and in the search space."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from hyperpruning.sparsity.allocations import ALLOCATIONS
from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.mask_inits import MASK_INITS
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.parameter import GRANULARITIES
from hyperpruning.sparsity.published import PUBLISHED
from hyperpruning.sparsity.redistributions import REDISTRIBUTIONS
from hyperpruning.sparsity.regrowth_inits import REGROWTH_INITS
from hyperpruning.sparsity.schedules import DECAYS, DENSITIES
from hyperpruning.sparsity.scopes import DROP_SCOPES, GROW_SCOPES, MASK_INIT_SCOPES
from hyperpruning.sparsity.scores import DROPS, GROWTHS

# Each part of a method that is not a number, with its choices by name: the search space is made from this table.
COMPONENTS: dict[str, Mapping[str, Any]] = {
    "allocation": ALLOCATIONS,
    "mask_init": MASK_INITS,
    "mask_init_scope": MASK_INIT_SCOPES,
    "granularity": GRANULARITIES,
    "density": DENSITIES,
    "drop": {"none": None} | DROPS,
    "drop_scope": DROP_SCOPES,
    "decay": DECAYS,
    "redistribute": REDISTRIBUTIONS,
    "grow": {"none": None} | GROWTHS,
    "grow_scope": GROW_SCOPES,
    "regrowth_init": REGROWTH_INITS,
    "update": {"exact": None} | PUBLISHED,
}


def to_config(method: Method) -> dict[str, str | int | float | None]:
    """Write a method as names and numbers, fit for JSON; `composed` reads them back.

    Raises:
        ValueError: a function has no line in its dictionary of COMPONENTS.

    >>> to_config(METHODS["rigl"])["grow"]
    'gradient'
    """
    spelling = {field.name: getattr(method, field.name) for field in dataclasses.fields(Method)}
    for part, choices in COMPONENTS.items():
        value = spelling[part]
        spelling[part] = next((name for name, choice in choices.items() if choice == value), None)
        if spelling[part] is None:
            raise ValueError(f"only functions with a name can be spelled, and {value} has none; add it as a {part}")
    return spelling


def from_config(spelling: Mapping[str, object]) -> Method:
    """Build a method from names and numbers; what is left out has the default of `Method`.

    Args:
        spelling: as from `spelled`, e.g. {"drop": "magnitude", "grow": "gradient", "drop_fraction": 0.3}. A "method"
            among them is a name of METHODS, from which what is left out is taken instead.

    Raises:
        ValueError: a name is unknown (the nearest one is given), or `Method` refuses the combination.

    >>> from_config(to_config(METHODS["rigl"])) == METHODS["rigl"]
    True
    >>> from_config({"method": "rigl", "drop_fraction": 0.5}).stop
    0.75
    """
    values: dict[str, Any] = {name: value for name, value in spelling.items() if name != "method"}
    parts = [field.name for field in dataclasses.fields(Method)]
    for part, value in values.items():
        if part not in parts:
            raise ValueError(_unknown("part of a method", part, [*parts, "method"]))
        if part in COMPONENTS:
            values[part] = _named(part, value, COMPONENTS[part])
    if "method" in spelling:
        named: Method = _named("method", spelling["method"], METHODS)
        return dataclasses.replace(named, **values)
    return Method(**values)


def _named(part: str, name: object, choices: Mapping[str, Any]) -> Any:
    if not isinstance(name, str) or name not in choices:
        raise ValueError(_unknown(part, name, choices))
    return choices[name]


def _unknown(kind: str, name: object, choices: Iterable[str]) -> str:
    """Word the error for a name that is not among the choices."""
    nearest = difflib.get_close_matches(str(name).lower(), choices, n=1, cutoff=0.0)
    return f"unknown {kind} {name!r}; did you mean {nearest[0]!r}? There are: {', '.join(choices)}"
