"""A pruning method as data, and the published ones.

One update of the mask is: drop -> redistribute -> grow -> zero what is new. A `Method` says which function does each
part, and the numbers; the `Sparsifier` carries it out.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hyperpruning.sparsity import allocations, decays, drops, growths, redistributions
from hyperpruning.sparsity.allocations import Allocation
from hyperpruning.sparsity.decays import Decay
from hyperpruning.sparsity.drops import Drop
from hyperpruning.sparsity.growths import Grow
from hyperpruning.sparsity.redistributions import Redistribute


@dataclass(frozen=True)
class Method:
    """A pruning method: functions and numbers.

    A weight that is new in an update starts at zero with a fresh optimizer state, also where it was dropped in the same
    update (RigL and the published recurrent codes let that one keep its value).

    Attributes:
        allocation: weights of each tensor at the start.
        drop, grow: what an update takes away and where it adds as many; both None for a mask that never changes.
        redistribute: the tensors' shares of what is added.
        drop_fraction: of the active weights, at step 0; in (0, 1), and 0 for a static method.
        decay: factor on drop_fraction, running from step 0 to the last update.
        interval: optimizer steps between updates.
        stop: fraction of the training after which the mask stays; in (0, 1].
        floor, ceiling: density limits of a tensor under redistribution; 0 <= floor < ceiling <= 1. A tensor that
            starts beyond one may stay there.

    Raises:
        ValueError: a number out of range, or a combination that means nothing, with the reason.
    """

    allocation: Allocation = allocations.uniform
    drop: Drop | None = drops.magnitude
    grow: Grow | None = growths.random
    redistribute: Redistribute = redistributions.none
    drop_fraction: float = 0.5
    decay: Decay = decays.cosine
    interval: int = 100
    stop: float = 1.0
    floor: float = 0.02
    ceiling: float = 0.98

    def __post_init__(self) -> None:
        for name in ("drop_fraction", "interval", "stop", "floor", "ceiling"):
            value, kind = getattr(self, name), int if name == "interval" else int | float
            if isinstance(value, bool) or not isinstance(value, kind):
                raise ValueError(f"{name} must be {'a whole' if kind is int else 'a'} number, not {value!r}")
        static, fraction = self.drop is None, self.drop_fraction
        if static != (self.grow is None):
            raise ValueError("drop and grow go together, or the budget could not hold; give both, or None for both")
        if static and self.redistribute is not redistributions.none:
            raise ValueError("a static method has nothing to redistribute; give redistribute 'none'")
        if static and fraction != 0:
            raise ValueError(f"a static method drops nothing; give drop_fraction 0, not {fraction}")
        if not static and not 0 < fraction < 1:
            raise ValueError(f"drop_fraction must lie strictly between 0 and 1, not {fraction}; 0.3 is usual")
        if self.interval < 1:
            raise ValueError(f"interval must be at least 1 step, not {self.interval}; 100 is usual")
        if not 0 < self.stop <= 1:
            raise ValueError(f"stop must lie in (0, 1], not {self.stop}; 1 updates to the end")
        if not 0 <= self.floor < self.ceiling <= 1:
            raise ValueError(
                "floor and ceiling must be densities with 0 <= floor < ceiling <= 1, "
                f"not {self.floor} and {self.ceiling}; 0 and 1 switch them off"
            )


METHODS: dict[str, Method] = {
    # A random mask from start to end: the baseline of every dynamic method.
    "static": Method(drop=None, grow=None, drop_fraction=0.0),
    # Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse connectivity".
    "set": Method(allocation=allocations.er, drop=drops.signed_magnitude, drop_fraction=0.3, decay=decays.constant),
    # Dettmers & Zettlemoyer 2019, "Sparse networks from scratch". The original grows and redistributes by a momentum;
    # the recurrent recipes use plain SGD, which has none, so here the last gradient and the weights stand in for it.
    "snfs": Method(grow=growths.gradient, redistribute=redistributions.magnitude),
    # Mostafa & Wang 2019, "Parameter efficient training of deep CNNs by dynamic sparse reparameterization". The
    # original steers a threshold towards a fixed number of dropped weights; here exactly that number is dropped.
    "dsr": Method(
        drop=drops.global_magnitude,
        redistribute=redistributions.nonzeros,
        drop_fraction=0.1,
        decay=decays.constant,
    ),
    # Evci et al. 2020, "Rigging the lottery". The original skips the optimizer's step in an update; here it is taken.
    "rigl": Method(allocation=allocations.er, grow=growths.gradient, drop_fraction=0.3, interval=100, stop=0.75),
    # Liu et al. 2021, "Selfish sparse RNN training". Drop and growth range over the whole stacked gate tensor, so the
    # gates compete for its weights. The original updates once per epoch: give the Sparsifier that interval.
    "selfish-rnn": Method(),
}

COMPONENTS: dict[str, Mapping[str, Callable[..., Any]]] = {
    "allocation": allocations.ALLOCATIONS,
    "drop": drops.DROPS,
    "grow": growths.GROWTHS,
    "redistribute": redistributions.REDISTRIBUTIONS,
    "decay": decays.DECAYS,
}


def spelled(method: Method) -> dict[str, str | int | float | None]:
    """Write a method as names and numbers, fit for JSON; `composed` reads them back.

    Raises:
        ValueError: a function has no line in its dictionary of COMPONENTS.

    >>> spelled(METHODS["rigl"])["grow"]
    'gradient'
    """
    spelling = {field.name: getattr(method, field.name) for field in dataclasses.fields(Method)}
    for part, choices in COMPONENTS.items():
        function = spelling[part]
        if function is None:
            continue
        spelling[part] = next((name for name, choice in choices.items() if choice is function), None)
        if spelling[part] is None:
            raise ValueError(f"only functions with a name can be spelled, and {function} has none; add it as a {part}")
    return spelling


def composed(spelling: Mapping[str, object]) -> Method:
    """Build a method from names and numbers; what is left out has the default of `Method`.

    Args:
        spelling: as from `spelled`, e.g. {"drop": "magnitude", "grow": "gradient", "drop_fraction": 0.3}.

    Raises:
        ValueError: a name is unknown (the nearest one is given), or `Method` refuses the combination.

    >>> composed(spelled(METHODS["rigl"])) == METHODS["rigl"]
    True
    """
    values: dict[str, Any] = dict(spelling)
    parts = [field.name for field in dataclasses.fields(Method)]
    for part, value in spelling.items():
        if part not in parts:
            raise ValueError(_unknown("part of a method", part, parts))
        if part in COMPONENTS and not (value is None and part in ("drop", "grow")):
            function = COMPONENTS[part].get(value) if isinstance(value, str) else None
            if function is None:
                raise ValueError(_unknown(part, value, COMPONENTS[part]))
            values[part] = function
    return Method(**values)


def _unknown(kind: str, name: object, choices: Iterable[str]) -> str:
    """Word the error for a name that is not among the choices."""
    nearest = difflib.get_close_matches(str(name).lower(), choices, n=1, cutoff=0.0)
    return f"unknown {kind} {name!r}; did you mean {nearest[0]!r}? There are: {', '.join(choices)}"
