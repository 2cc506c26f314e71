"""A pruning method as data: functions and numbers, and the rules that a valid method keeps."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from hyperpruning.sparsity import (
    allocations,
    mask_inits,
    redistributions,
    regrowth_inits,
    schedules,
    scopes,
    scores,
)
from hyperpruning.sparsity.allocations import Allocation
from hyperpruning.sparsity.dense_parts import DensePart
from hyperpruning.sparsity.mask_inits import MaskInit
from hyperpruning.sparsity.parameter import SINGLE, WHOLE, Granularity
from hyperpruning.sparsity.redistributions import Redistribute
from hyperpruning.sparsity.regrowth_inits import RegrowthInit
from hyperpruning.sparsity.schedules import Decay, Density
from hyperpruning.sparsity.scopes import Scope
from hyperpruning.sparsity.scores import Score
from hyperpruning.sparsity.weight_inits import WeightInit


class MethodError(ValueError):
    """A method that does not fit the network, the sparsity or the training."""


@dataclass(frozen=True)
class Method:
    """A pruning method: a composition of functions and numbers. `Sparsifier` carries it out.

    `mask_init` chooses the first masks. Each update of the masks drops weights until the scheduled density is reached,
    drops the fraction `drop_fraction` of the active weights in addition, and grows as many new weights. Times are
    fractions of the training: 0 is its first optimizer step, 1 its last.

    Attributes:
        allocation: how many weights each tensor gets at the start, and while the density falls.
        mask_init: which weights are active at the start.
        mask_init_scope: which weights are ranked against each other by `mask_init`: those of one tensor, or all.
        granularity: which weights are pruned together (single weights, rows, columns, blocks, or N:M).
        density: the density schedule, from `density_start` to the final density that the Sparsifier is given;
            "constant" is the final density from the first step.
        density_start: the density at the start of the schedule, in (0, 1]; never below the final density.
        density_from: the time at which the density starts to fall.
        density_until: the time at which the density reaches its final value.
        drop: the score by which an update keeps weights (the largest stay); None keeps the first masks unchanged.
        drop_scope: which weights are ranked against each other when weights are dropped.
        replace_scope: which weights are ranked against each other when the fraction `drop_fraction` is dropped, after
            `drop_scope` has lowered the density; None for one ranking of both by `drop_scope`.
        drop_fraction: the fraction of the active weights that an update at step 0 drops and grows again, in (0, 1);
            0 if `grow` is None. Unless `regrowth_init` is "keep", at most as many weights as there are inactive ones.
        decay: the factor on `drop_fraction`, as a schedule from step 0 to the last update.
        redistribute: how many of the new weights each tensor gets.
        floor: the lowest density to which a redistribution or a global scope may bring a tensor, 0 <= floor < ceiling.
            A tensor that is already below it may stay there, and floors that a falling budget cannot pay for are
            lowered in proportion. 0 for no limit: an update that empties a tensor is then an error. The named methods
            have 0, as published.
        ceiling: the highest density to which they may bring a tensor, floor < ceiling <= 1. 1 for no limit. The named
            methods have 1, as published.
        grow: the score by which an update adds weights (the largest are added); None never adds any.
        grow_scope: which weights are ranked against each other when weights are grown.
        regrowth_init: the value with which a new weight starts.
        interval: optimizer steps between two updates.
        stop: the time after which the masks do not change, in (0, 1].
        rewind: the optimizer step to whose weights each update returns (iterative magnitude pruning); None for never.
        soft_shrinkage: the soft-shrinkage factor, by which each step until `stop` multiplies the pruned weights instead
            of setting them to zero, in [0, 1).
        update: a function that replaces the exact update (see `published_updates.py`); None for the exact update.
        dense_part: weights that are never pruned (see `dense_parts.py`), e.g. the recurrent diagonal; None for none.
        weight_init: factors on the initial weights that the first mask leaves, for a network that is trained from
            scratch (see `weight_inits.py`); None leaves them unchanged.
        gate_density_1: the relative density of the first gate of every matrix that has gates, above 0. The weights of
            a tensor are divided between its gates in proportion to these four numbers; no gate gets more than it has.
            Equal numbers do not divide them: the gates are then ranked together. Gates are in the order of the rows: i,
            f, g, o of an LSTM; r, z, n of a GRU; h, t, c of an RHN. Gates after the fourth have 1.
        gate_density_2: likewise of the second gate.
        gate_density_3: likewise of the third gate.
        gate_density_4: likewise of the fourth gate.

    Raises:
        ValueError: a number is out of its range, or parts of the method contradict each other.
    """

    allocation: Allocation = allocations.uniform
    mask_init: MaskInit = mask_inits.random
    mask_init_scope: Scope = scopes.tensor
    granularity: Granularity = SINGLE
    density: Density = schedules.fixed
    density_start: float = 1.0
    density_from: float = 0.0
    density_until: float = 0.5
    drop: Score | None = scores.magnitude
    drop_scope: Scope = scopes.tensor
    replace_scope: Scope | None = None
    drop_fraction: float = 0.5
    decay: Decay = schedules.cosine
    redistribute: Redistribute = redistributions.none
    floor: float = 0.02
    ceiling: float = 0.98
    grow: Score | None = scores.random
    grow_scope: Scope = scopes.tensor
    regrowth_init: RegrowthInit = regrowth_inits.zero
    interval: int = 100
    stop: float = 1.0
    rewind: int | None = None
    soft_shrinkage: float = 0.0
    update: Callable[..., Any] | None = None
    dense_part: DensePart | None = None
    weight_init: WeightInit | None = None
    gate_density_1: float = 1.0
    gate_density_2: float = 1.0
    gate_density_3: float = 1.0
    gate_density_4: float = 1.0

    def __post_init__(self) -> None:
        for rules in _RULES:
            for error in rules(self):
                raise ValueError(error)

    @property
    def scheduled(self) -> bool:
        """Whether the density changes during training."""
        return self.density is not schedules.fixed

    @property
    def gate_densities(self) -> tuple[float, ...]:
        """The relative densities of the gates; none if they are equal."""
        found = self.gate_density_1, self.gate_density_2, self.gate_density_3, self.gate_density_4
        return found if len(set(found)) > 1 else ()

    @property
    def final_density_at(self) -> float:
        """The time (a fraction of the training) from which the network has its final density."""
        return self.density_until if self.scheduled else self.stop if self.soft_shrinkage else 0.0

    @property
    def moves_weights_between_tensors(self) -> bool:
        """Whether the number of active weights of a tensor can change while the total does not."""
        scopes_used = (self.mask_init_scope, self.drop_scope, self.replace_scope, self.grow_scope)
        return scopes.global_ in scopes_used or self.redistribute is not redistributions.none


# the modules with the functions of a method
_MODULES = {
    "allocation": "allocations",
    "mask_init": "mask_inits",
    "mask_init_scope": "scopes",
    "density": "schedules",
    "drop": "scores",
    "drop_scope": "scopes",
    "replace_scope": "scopes",
    "decay": "schedules",
    "redistribute": "redistributions",
    "grow": "scores",
    "grow_scope": "scopes",
    "regrowth_init": "regrowth_inits",
    "update": "published_updates",
    "dense_part": "dense_parts",
    "weight_init": "weight_inits",
}
_OPTIONAL = ("drop", "replace_scope", "grow", "update", "dense_part", "weight_init")
_GATES = tuple(f"gate_density_{number}" for number in range(1, 5))


def _function_errors(method: Method) -> Iterator[str]:
    """Every part that is not a number must be a function, not the name of one."""
    for part, module in _MODULES.items():
        value = getattr(method, part)
        if not (callable(value) or (value is None and part in _OPTIONAL)):
            none = " or None" if part in _OPTIONAL else ""
            yield f"{part} must be a function{none}, got {value!r}. Take one from hyperpruning.sparsity.{module}."
    granularity: object = method.granularity
    if not isinstance(granularity, Granularity):
        yield (
            f"granularity must be a Granularity, got {granularity!r}. Take one from "
            "hyperpruning.sparsity.parameter.GRANULARITIES."
        )


def _number_errors(method: Method) -> Iterator[str]:
    """Every number must be in its range."""
    integers = {"interval": method.interval, "rewind": 0 if method.rewind is None else method.rewind}
    reals = ("drop_fraction", "stop", "floor", "ceiling", "density_start", "density_from", "density_until")
    for name, value in integers.items():
        if isinstance(value, bool) or not isinstance(value, int):
            yield f"{name} must be an integer, got {value!r}."
    for name in (*reals, "soft_shrinkage", *_GATES):
        value = getattr(method, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            yield f"{name} must be a number, got {value!r}."
    if method.interval < 1:
        yield f"interval must be at least 1 optimizer step, got {method.interval}. 100 is common."
    if integers["rewind"] < 0:
        yield f"rewind must be an optimizer step >= 0 or None, got {method.rewind}. Leave it out to never rewind."
    if not 0 < method.stop <= 1:
        yield f"stop must be above 0 and at most 1, got {method.stop}. 1 updates until the end of the training."
    if not 0 <= method.soft_shrinkage < 1:
        yield (
            f"soft_shrinkage must be at least 0 and below 1, got {method.soft_shrinkage}. "
            "0 sets pruned weights to zero at once."
        )
    if not 0 < method.density_start <= 1:
        yield f"density_start must be above 0 and at most 1, got {method.density_start}. 1 starts dense."
    if not 0 <= method.floor < method.ceiling <= 1:
        yield (
            f"floor and ceiling must satisfy 0 <= floor < ceiling <= 1, got {method.floor} and {method.ceiling}. "
            "0 and 1 switch the limits off."
        )


def _stage_errors(method: Method) -> Iterator[str]:
    """Drop, redistribution and growth must fit each other."""
    name, fraction = partial(_name, method), method.drop_fraction
    redistributes, falls = method.redistribute is not redistributions.none, method.scheduled or method.soft_shrinkage
    if method.drop is None and method.grow is not None:
        yield f"grow must be None when drop is None, got {name('grow')}. Set drop, for example to 'magnitude'."
    if method.grow is None and fraction != 0:
        yield f"drop_fraction must be 0 when grow is None, got {fraction}."
    if method.grow is None and redistributes:
        yield f"redistribute must be 'none' when grow is None, got {name('redistribute')}."
    if method.grow is None and method.grow_scope is not scopes.tensor:
        yield f"grow_scope must be 'tensor' when grow is None, got {name('grow_scope')}."
    if method.drop is None and falls:
        yield (
            "drop must be a score when the density falls or soft_shrinkage is above 0, got None. 'magnitude' is common."
        )
    if method.drop is not None and method.grow is None and not falls:
        yield (
            f"drop must be None when grow is None and the density is constant, got {name('drop')}. "
            "Set a density schedule, grow, or drop None."
        )
    if method.grow is not None and not 0 < fraction < 1:
        yield f"drop_fraction must be above 0 and below 1 when grow is set, got {fraction}. 0.3 is common."
    if redistributes and method.grow_scope is scopes.global_:
        yield f"redistribute must be 'none' when grow_scope is 'global', got {name('redistribute')}."
    if method.grow is not None and method.soft_shrinkage:
        yield f"grow must be None when soft_shrinkage is above 0, got {name('grow')}. Pruned weights grow back anyway."
    if method.grow is not None and method.rewind is not None:
        yield f"grow must be None when rewind is set, got {name('grow')}. Set grow or rewind to None."
    if method.replace_scope is not None and (method.grow is None or not method.scheduled):
        yield (
            f"replace_scope must be None when grow is None or the density is constant, got {name('replace_scope')}. "
            "Use drop_scope."
        )
    if method.rewind is not None and not method.scheduled:
        yield "density must be a falling schedule when rewind is set, got 'constant'. 'geometric' is common."
    if method.weight_init is not None and method.soft_shrinkage:
        yield (
            f"weight_init must be 'unchanged' when soft_shrinkage is above 0, got {name('weight_init')}. Such a "
            "network is dense at the start."
        )
    if method.rewind is not None and method.soft_shrinkage:
        yield f"soft_shrinkage must be 0 when rewind is set, got {method.soft_shrinkage}."


def _schedule_errors(method: Method) -> Iterator[str]:
    """A falling density must end before the last update, and no setting may be without effect."""
    name, uniform = partial(_name, method), method.allocation is allocations.uniform
    if not method.scheduled:
        if method.mask_init_scope is scopes.global_ and not uniform:
            yield f"allocation must be 'uniform' when mask_init_scope is 'global', got {name('allocation')}."
        return
    if not 0 <= method.density_from < method.density_until <= method.stop:
        yield (
            "density_from, density_until and stop must satisfy 0 <= density_from < density_until <= stop, "
            f"got {method.density_from}, {method.density_until} and {method.stop}."
        )
    if method.density_start == 1:
        advice = "The network starts dense. Lower density_start to choose a mask at the start."
        if method.mask_init is not mask_inits.random:
            yield f"mask_init must be 'random' when density_start is 1, got {name('mask_init')}. {advice}"
        if method.mask_init_scope is not scopes.tensor:
            yield f"mask_init_scope must be 'tensor' when density_start is 1, got {name('mask_init_scope')}. {advice}"
        if method.drop_scope is scopes.global_ and not uniform:
            yield (
                "allocation must be 'uniform' when drop_scope is 'global' and density_start is 1, "
                f"got {name('allocation')}."
            )
    if method.granularity.of:
        yield f"density must be 'constant' with {_n_of_m(method)} granularity, got {name('density')}."


def _granularity_errors(method: Method) -> Iterator[str]:
    """The granularity must fit the scopes and the other parts."""
    block, name = method.granularity, partial(_name, method)
    pattern, single = _n_of_m(method), (block.rows, block.columns) == (1, 1)
    if not (block.rows >= 0 and block.columns >= 0 and 0 <= block.keep <= block.of and (block.of == 0 or block.keep)):
        yield f"granularity must have rows >= 0, columns >= 0 and 0 < keep <= of (or keep = of = 0), got {block}."
    if block.of and not single:
        yield f"rows and columns must be 1 with {pattern} granularity, got {block.rows} and {block.columns}."
    used = {part: getattr(method, part) for part in ("mask_init_scope", "drop_scope", "replace_scope", "grow_scope")}
    for part, scope in used.items():
        if block.of and scope not in (scopes.tensor, None):
            yield f"{part} must be 'tensor' with {pattern} granularity, got {name(part)}."
    if block.of and method.redistribute is not redistributions.none:
        yield f"redistribute must be 'none' with {pattern} granularity, got {name('redistribute')}."
    if block.of and method.allocation is not allocations.uniform:
        yield f"allocation must be 'uniform' with {pattern} granularity, got {name('allocation')}."
    for part, scope in used.items():
        if block.rows == WHOLE and scope is scopes.gate:
            yield f"{part} must not rank by gate when whole columns are pruned, got {name(part)}. Use 'tensor'."
    if method.update is not None and block != SINGLE:
        yield f"granularity must be 'weight' when update is not 'exact', got {block}."
    if method.update is not None and method.scheduled:
        yield f"density must be 'constant' when update is not 'exact', got {name('density')}."
    if method.update is not None and method.soft_shrinkage:
        yield f"soft_shrinkage must be 0 when update is not 'exact', got {method.soft_shrinkage}."
    if method.update is not None and method.grow is None:
        yield "grow must be a score when update is not 'exact', got None."
    for part, scope in used.items():
        if not single and scope is scopes.sign:
            yield f"{part} must not be 'sign' when several weights are pruned together, got {block}. Use 'tensor'."


def _gate_errors(method: Method) -> Iterator[str]:
    """Densities of gates and dense parts need an exact number of weights in every tensor and a ranking within it."""
    for name in _GATES:
        if not 0 < getattr(method, name) < math.inf:
            yield f"{name} must be finite and above 0, got {getattr(method, name)}. 1 is usual."
    used = {part: getattr(method, part) for part in ("mask_init_scope", "drop_scope", "replace_scope", "grow_scope")}
    given = "gate_density_1 to gate_density_4 differ" if method.gate_densities else "dense_part is set"
    allowed = (scopes.tensor, None) if method.gate_densities else (scopes.tensor, scopes.gate, scopes.sign, None)
    if not method.gate_densities and method.dense_part is None:
        return
    for part, scope in used.items():
        if scope not in allowed:
            yield f"{part} must be 'tensor' when {given}, got {_name(method, part)}."
    if method.dense_part is not None and method.redistribute is not redistributions.none:
        yield f"redistribute must be 'none' when {given}, got {_name(method, 'redistribute')}."
    if method.granularity.of or method.granularity.rows == WHOLE:
        yield f"granularity must not be N:M or whole columns when {given}, got {method.granularity}. Use 'weight'."
    if method.update is not None:
        yield f"update must be 'exact' when {given}, got another. Leave update out."


_RULES = (_function_errors, _number_errors, _stage_errors, _schedule_errors, _granularity_errors, _gate_errors)


def _n_of_m(method: Method) -> str:
    return f"{method.granularity.keep}:{method.granularity.of}"


def _name(method: Method, part: str) -> str:
    """Name a part of a method in an error: by its function."""
    value = getattr(method, part)
    return "'global'" if value is scopes.global_ else repr(getattr(value, "__name__", value))
