"""A pruning method as data: one composition of functions and numbers, and the rules that a composition must keep."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from hyperpruning.sparsity.mask_inits import MaskInit
from hyperpruning.sparsity.parameter import SINGLE, WHOLE, Granularity
from hyperpruning.sparsity.redistributions import Redistribute
from hyperpruning.sparsity.regrowth_inits import RegrowthInit
from hyperpruning.sparsity.schedules import Decay, Density
from hyperpruning.sparsity.scopes import Scope
from hyperpruning.sparsity.scores import Score


@dataclass(frozen=True)
class Method:
    """A pruning method: functions and numbers; `Sparsifier` carries it out.

    The masks begin as `mask_init` chooses. An update drops down to the density of the moment and `drop_fraction` of the
    active weights further, shares these out among the tensors, and grows as many. Times are fractions of the training.

    Attributes:
        allocation: weights of each tensor at the start, and while the density falls.
        mask_init, mask_init_scope: which weights begin, and whether tensors compete for them.
        granularity: what is pruned together.
        density, density_start, density_from, density_until: the schedule from the density at the start, in (0, 1] but
            never below the asked one, to the asked one, and the times between which it falls. A constant schedule has
            the asked one throughout.
        drop, drop_scope: what an update keeps, among which weights; None for a mask that never changes.
        drop_fraction: of the active weights, exchanged at step 0; in (0, 1), and 0 for a method that grows nothing.
        decay: factor on drop_fraction, running from step 0 to the last update.
        redistribute: the tensors' shares of what is grown.
        floor, ceiling: density limits of a tensor under redistribution, and at a global start; 0 <= floor < ceiling
            <= 1. A tensor that starts beyond one may stay there.
        grow, grow_scope: where new weights appear, among which; None for a method that only takes away.
        regrowth_init: what a new weight begins with.
        interval: optimizer steps between updates.
        stop: time after which the mask stays; in (0, 1].
        rewind: optimizer step whose weights are restored after each update (iterative pruning); None never.
        fade: factor on pruned weights in each step until `stop`, instead of zero (iterative soft shrinkage); in [0, 1).
        update: replaces the exact update (see `published.py`); None for the exact one.

    Raises:
        ValueError: a number out of range, or a combination that means nothing, with the reason.
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
    fade: float = 0.0
    update: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        for rules in (_numbers, _stages, _schedule, _units):
            for broken in rules(self):
                raise ValueError(broken)

    @property
    def scheduled(self) -> bool:
        """Whether the density changes during training."""
        return self.density is not schedules.fixed

    @property
    def settles(self) -> float:
        """The fraction of the training after which the density is the one asked for."""
        return self.density_until if self.scheduled else self.stop if self.fade else 0.0

    @property
    def exchanges_tensors(self) -> bool:
        """Whether weights can move from one tensor to another."""
        scopes_used = (self.mask_init_scope, self.drop_scope, self.grow_scope)
        return scopes.global_ in scopes_used or self.redistribute is not redistributions.none


def _numbers(method: Method) -> Iterator[str]:
    """Every number lies in its range."""
    whole = {"interval": method.interval, "rewind": 0 if method.rewind is None else method.rewind}
    real = ("drop_fraction", "stop", "floor", "ceiling", "density_start", "density_from", "density_until", "fade")
    for name, value in whole.items():
        if isinstance(value, bool) or not isinstance(value, int):
            yield f"{name} must be a whole number, not {value!r}"
    for name in real:
        value = getattr(method, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            yield f"{name} must be a number, not {value!r}"
    if method.interval < 1:
        yield f"interval must be at least 1 step, not {method.interval}; 100 is usual"
    if whole["rewind"] < 0:
        yield f"rewind must be an optimizer step from 0 on, not {method.rewind}; leave it out for no rewinding"
    if not 0 < method.stop <= 1:
        yield f"stop must lie in (0, 1], not {method.stop}; 1 updates to the end"
    if not 0 <= method.fade < 1:
        yield f"fade must lie in [0, 1), not {method.fade}; 0 sets pruned weights to zero at once"
    if not 0 < method.density_start <= 1:
        yield f"density_start must lie in (0, 1], not {method.density_start}; 1 begins dense"
    if not 0 <= method.floor < method.ceiling <= 1:
        yield (
            "floor and ceiling must be densities with 0 <= floor < ceiling <= 1, "
            f"not {method.floor} and {method.ceiling}; 0 and 1 switch them off"
        )


def _stages(method: Method) -> Iterator[str]:
    """The stages of an update go together."""
    fraction, shared = method.drop_fraction, method.redistribute is not redistributions.none
    if method.drop is None and method.grow is not None:
        yield "growth needs a drop, or the budget could not hold; give a drop, or grow None too"
    if method.grow is None and fraction != 0:
        yield f"a method that grows nothing exchanges nothing; give drop_fraction 0, not {fraction}, or a growth"
    if method.grow is None and shared:
        yield "a method that grows nothing has nothing to redistribute; give redistribute 'none'"
    if method.grow is None and method.grow_scope is not scopes.tensor:
        yield "a method that grows nothing needs no grow_scope; leave it at 'tensor'"
    if method.drop is None and (method.scheduled or method.fade):
        yield "a falling density or fading weights need a drop; give one, 'magnitude' is usual"
    if method.drop is not None and method.grow is None and not (method.scheduled or method.fade):
        yield "a drop without growth needs a falling density; give a density schedule, a growth, or drop None"
    if method.grow is not None and not 0 < fraction < 1:
        yield f"drop_fraction must lie strictly between 0 and 1, not {fraction}; 0.3 is usual"
    if shared and method.grow_scope is scopes.global_:
        yield "a global growth settles the tensors' shares itself; give redistribute 'none' or a grow_scope of tensors"
    if method.grow is not None and method.fade:
        yield f"fading weights return by themselves; give grow None with fade {method.fade}, or fade 0"
    if method.grow is not None and method.rewind is not None:
        yield f"rewinding belongs to pruning without growth; give grow None with rewind {method.rewind}"
    if method.rewind is not None and not method.scheduled:
        yield f"rewinding needs a density that falls in rounds; give density 'geometric' with rewind {method.rewind}"
    if method.rewind is not None and method.fade:
        yield f"rewound weights do not fade; give fade 0 with rewind {method.rewind}"


def _schedule(method: Method) -> Iterator[str]:
    """A falling density ends before the updates do, and what it makes idle is not chosen."""
    if not method.scheduled:
        if method.mask_init_scope is scopes.global_ and method.allocation is not allocations.uniform:
            yield "a global mask_init_scope settles the tensors' shares itself; give allocation 'uniform'"
        return
    if not 0 <= method.density_from < method.density_until <= method.stop:
        yield (
            "a density falls between two times before the last update, 0 <= density_from < density_until <= stop, "
            f"not {method.density_from}, {method.density_until} and {method.stop}; change one of them"
        )
    if method.density_start == 1:
        if method.mask_init is not mask_inits.random or method.mask_init_scope is not scopes.tensor:
            yield "a dense start leaves a mask_init nothing to choose; give mask_init 'random' or a lower density_start"
        if method.drop_scope is scopes.global_ and method.allocation is not allocations.uniform:
            yield "after a dense start a global drop settles the tensors' shares; give allocation 'uniform'"
    if method.granularity.of:
        yield f"{method.granularity.keep}:{method.granularity.of} has one density; give a constant density"


def _units(method: Method) -> Iterator[str]:
    """Units that are pruned together fit the scopes."""
    unit = method.granularity
    if not (unit.rows >= 0 and unit.columns >= 0 and 0 <= unit.keep <= unit.of and (unit.of == 0 or unit.keep > 0)):
        yield f"a granularity needs sizes from 0 (all) on and 0 < keep <= of, and {unit} has others; change them"
    if unit.of and (unit.rows, unit.columns) != (1, 1):
        yield f"{unit.keep}:{unit.of} is a rule for single weights; give rows and columns 1"
    chosen = (method.mask_init_scope, method.drop_scope, method.grow_scope)
    if unit.of and (set(chosen) != {scopes.tensor} or method.redistribute is not redistributions.none):
        yield f"{unit.keep}:{unit.of} holds in every group; give the scope 'tensor' throughout and redistribute 'none'"
    if unit.of and method.allocation is not allocations.uniform:
        yield f"{unit.keep}:{unit.of} gives every tensor one density; give allocation 'uniform'"
    if unit.rows == WHOLE and scopes.gate in chosen:
        yield "a whole column runs through all gates; give it the scope 'tensor', or another granularity"
    if method.update is not None and (unit != SINGLE or method.scheduled or method.fade or method.grow is None):
        yield "a published update exchanges single weights at one density; leave granularity, density and fade alone"
    if (unit.rows, unit.columns) != (1, 1) and method.drop_scope is scopes.sign:
        yield "a unit of several weights has no sign; give the drop_scope 'tensor', or the granularity 'weight'"
