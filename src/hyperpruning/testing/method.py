"""The contract suite of a pruning method."""

from __future__ import annotations

import math
from typing import Any

import torch

from hyperpruning.sparsity.method import Method
from hyperpruning.testing.comparison import require
from hyperpruning.testing.pruned_run import Convolutional, Recurrent, Run, check_updates

SPARSITIES = (0.8, 0.5, 0.3)  # the first that the method accepts; large units need the lower ones


def check_method(method: Method, *, steps: int = 200, seed: int = 0) -> None:
    """Check a pruning method on a small LSTM (float32) and a small convolutional network (float64), on the CPU.

    After every one of many updates the number of active weights is exact, and the weights, the optimizer state and the
    averages outside the masks are zero. The same seed gives the same training, also where it is saved in the middle
    and continued by a new process.

    Args:
        method: to be checked. A network that it does not fit (see `Sparsifier`) is left out.
        steps: updates of the masks on each network; at least 1, default 200.
        seed: of masks and growth; default 0.

    Raises:
        AssertionError: a promise is broken; the message says which, and what to do.
        ValueError: steps is below 1, or the method fits neither of the two networks.

    >>> import hyperpruning as hp
    >>> check_method(hp.Method(drop=lambda parameter: parameter.weight.abs(), drop_fraction=0.3), steps=20)
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}. Leave it out for 200.")
    averaged = "momentum" if method.soft_shrinkage else "snt_asgd"  # averaging starts after soft shrinkage
    options: list[dict[str, Any]] = [
        {"network": Recurrent, "dtype": torch.float32, "optimizer": "momentum"},
        {"network": Convolutional, "dtype": torch.float64, "optimizer": averaged},
    ]
    total, refusals = math.ceil(steps / method.stop) + 2, []
    fitting: list[dict[str, Any]] = []
    for option in options:
        try:
            sparsity = _accepted_sparsity(method, option["network"])
        except ValueError as error:
            refusals.append(error)
            continue
        fitting.append({"network": option["network"], "sparsity": sparsity})
        check_updates(Run(method, **option, sparsity=sparsity, seed=seed, steps=total, interval=1), steps)
    if not fitting:
        raise refusals[0]
    check_repeatable(method, seed=seed, **fitting[0])


def check_repeatable(method: Method, *, seed: int = 0, **options: Any) -> None:
    """Check that the same seed gives the same training, also where it is cut in two.

    Args:
        method: to be checked.
        seed: of masks and growth.
        options: of `Run`.
    """
    settings: dict[str, Any] = {"optimizer": "adam", "steps": 16} | options
    whole, again = Run(method, seed=seed, **settings), Run(method, seed=seed, **settings)
    list(whole.train(range(12)))
    saved: dict[int, bytes] = {}
    for step, _ in enumerate(again.train(range(12)), start=1):
        if step in (4, 5):  # after an update, and between two
            saved[step] = again.saved()
    expected = whole.bits()
    require(
        again.bits() == expected,
        "The same seed must give the same masks and weights, got others in a second training. Draw random numbers from "
        "the generator of the parameter alone.",
    )
    for cut, state in saved.items():
        continued = Run(method, seed=seed + 99, **settings).load(state)
        list(continued.train(range(cut, 12)))
        require(
            continued.bits() == expected,
            f"A training that is saved after step {cut} and continued must be bit for bit the same, got another. Keep "
            "no state in the functions of the method.",
        )


def _accepted_sparsity(method: Method, network: type[Recurrent] | type[Convolutional]) -> float:
    """The first of `SPARSITIES` with which the method fits a network."""
    refusals = []
    for sparsity in SPARSITIES:
        try:
            return Run(method, network=network, sparsity=sparsity).sparsity
        except ValueError as error:
            refusals.append(error)
    raise refusals[0]
