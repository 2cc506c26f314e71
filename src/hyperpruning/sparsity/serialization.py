"""Methods as configs: names and numbers, as in an experiment.toml, in the ledger and in the search space."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from hyperpruning.sparsity.allocations import ALLOCATIONS, table
from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.dense_parts import DENSE_PARTS
from hyperpruning.sparsity.mask_inits import MASK_INITS
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.parameter import GRANULARITIES
from hyperpruning.sparsity.published_updates import PUBLISHED_UPDATES
from hyperpruning.sparsity.redistributions import REDISTRIBUTIONS
from hyperpruning.sparsity.regrowth_inits import REGROWTH_INITS
from hyperpruning.sparsity.schedules import DECAYS, DENSITIES
from hyperpruning.sparsity.scopes import DROP_SCOPES, GROW_SCOPES, MASK_INIT_SCOPES
from hyperpruning.sparsity.scores import DROPS, GROWTHS
from hyperpruning.sparsity.weight_inits import WEIGHT_INITS

# The parts of a method that are not numbers, with their choices by name. The search space is made from this table.
COMPONENTS: dict[str, Mapping[str, Any]] = {
    "allocation": ALLOCATIONS,
    "mask_init": MASK_INITS,
    "mask_init_scope": MASK_INIT_SCOPES,
    "granularity": GRANULARITIES,
    "density": DENSITIES,
    "drop": {"none": None} | DROPS,
    "drop_scope": DROP_SCOPES,
    "replace_scope": {"same": None} | DROP_SCOPES,
    "decay": DECAYS,
    "redistribute": REDISTRIBUTIONS,
    "grow": {"none": None} | GROWTHS,
    "grow_scope": GROW_SCOPES,
    "regrowth_init": REGROWTH_INITS,
    "update": {"exact": None} | PUBLISHED_UPDATES,
    "dense_part": {"none": None} | DENSE_PARTS,
    "weight_init": {"unchanged": None} | WEIGHT_INITS,
}
DEFAULT_CHOICES: dict[str, str] = {
    part: next(name for name, choice in choices.items() if choice == getattr(Method(), part))
    for part, choices in COMPONENTS.items()
}
# The parts that a config leaves out at their defaults, so that ledgers and checkpoints from before they existed fit.
LEFT_OUT = ("dense_part", "weight_init", *(f"gate_density_{number}" for number in range(1, 5)))


def to_config(method: Method) -> dict[str, Any]:
    """Return a method as names and numbers, ready for JSON; `from_config` is the inverse.

    The parts in `LEFT_OUT` are missing where they have their defaults. An allocation `partial(table, counts=...)` is
    its counts.

    Raises:
        ValueError: a function of the method is not in COMPONENTS.

    >>> to_config(METHODS["rigl"])["grow"]
    'gradient'
    """
    config = {field.name: getattr(method, field.name) for field in dataclasses.fields(Method)}
    for part, choices in COMPONENTS.items():
        value = config[part]
        if isinstance(value, partial) and value.func is table and part == "allocation":
            config[part] = dict(value.keywords["counts"])
            continue
        config[part] = next((name for name, choice in choices.items() if _equal(choice, value)), None)
        if config[part] is None:
            raise ValueError(f"{part} must be a registered function, got {value}. Add it to COMPONENTS[{part!r}].")
    defaults = {field.name: field.default for field in dataclasses.fields(Method)}
    usual = {part for part in LEFT_OUT if getattr(method, part) == defaults[part]}
    return {part: value for part, value in config.items() if part not in usual}


def _equal(one: Any, other: Any) -> bool:
    """Whether two parts of methods are equal; a `partial` that was pickled is equal to what it was made from."""
    if isinstance(one, partial) and isinstance(other, partial):
        return (one.func, one.args, one.keywords) == (other.func, other.args, other.keywords)
    return bool(one == other)


def from_config(config: Mapping[str, object]) -> Method:
    """Return the method that a config describes; parts that are left out have the defaults of `Method`.

    Args:
        config: names and numbers, e.g. {"drop": "magnitude", "grow": "gradient", "drop_fraction": 0.3}. With the key
            "method", a name in METHODS, parts that are left out are those of that method.

    Raises:
        ValueError: a name is unknown (the error suggests the nearest one), or `Method` refuses the combination.

    >>> from_config(to_config(METHODS["rigl"])) == METHODS["rigl"]
    True
    >>> from_config({"method": "rigl", "drop_fraction": 0.5}).stop
    0.75
    """
    values: dict[str, Any] = {part: check_choice(part, value) for part, value in config.items() if part != "method"}
    if "method" in config:
        base: Method = check_choice("method", config["method"])
        return dataclasses.replace(base, **values)
    return Method(**values)


def check_choice(part: str, value: object) -> Any:
    """Return what a name stands for as a part of a method; numbers as they are.

    Args:
        part: a field of `Method`, or "method".
        value: its name, or a number; of the allocation also the number of weights of each tensor.

    Raises:
        ValueError: the field or the name is unknown; the error suggests the nearest one.
    """
    parts = [*(field.name for field in dataclasses.fields(Method)), "method"]
    if part not in parts:
        raise ValueError(_unknown("A component of a method", part, parts))
    if part == "method":
        return _lookup(part, value, METHODS)
    if part == "allocation" and isinstance(value, Mapping):
        if not all(isinstance(name, str) and type(count) is int for name, count in value.items()):
            raise ValueError(f"An allocation must have the number of weights of each tensor, got {dict(value)}.")
        return partial(table, counts=dict(value))
    return _lookup(part, value, COMPONENTS[part]) if part in COMPONENTS else value


def _lookup(part: str, name: object, choices: Mapping[str, Any]) -> Any:
    if not isinstance(name, str) or name not in choices:
        raise ValueError(_unknown(part, name, choices))
    return choices[name]


def _unknown(kind: str, name: object, choices: Iterable[str]) -> str:
    """Return the error for a name that is not among the choices."""
    nearest = difflib.get_close_matches(str(name).lower(), choices, n=1, cutoff=0.0)
    return f"{kind} must be one of {', '.join(choices)}, got {name!r}. Did you mean {nearest[0]!r}?"
