"""Distances between spectra, each a function `(a, b) -> scalar` of exponents (K,) in state order.

Exponents are compared at the same position (`wasserstein` and `leading`: at the same rank). A dead unit has the
exponent -inf. Unbounded distances clamp the exponents at `FLOOR`, so that -inf counts as FLOOR and the distance is
finite; bounded distances use the limit for -inf. No distance returns NaN, and all are differentiable, also where two
spectra are equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperpruning.lyapunov.spectrum import Spectrum

FLOOR = -23 * math.log(2)
"""ln 2^-23 = -15.94: a difference that shrinks faster is below float32's resolution after a single step."""


def l2(a: Tensor, b: Tensor) -> Tensor:
    """Return sqrt(sum (a - b)^2), the published distance; -inf counts as FLOOR.

    >>> float(l2(torch.tensor([-1.0, -2.0]), torch.tensor([-4.0, -6.0])))
    5.0
    """
    return clipped(a, b, floor=FLOOR)


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Return sum |a - b|; -inf counts as FLOOR."""
    return _norm(a.clamp(min=FLOOR) - b.clamp(min=FLOOR), ord=1)


def relative(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of |a - b| / (|a| + |b|), between 0 and 1; -inf and a finite exponent give 1, the limit.

    >>> float(relative(torch.tensor([-1.0, -math.inf, -math.inf]), torch.tensor([-3.0, -2.0, -math.inf])))
    0.5
    """
    one_infinite = torch.isneginf(a) != torch.isneginf(b)
    equal = a == b  # includes both -inf and both zero
    regular = ~(one_infinite | equal)
    one, two = torch.where(regular, a, 1.0), torch.where(regular, b, 2.0)  # avoids 0/0, also in the gradient
    ratio = (one - two).abs() / (one.abs() + two.abs())
    return torch.where(regular, ratio, one_infinite.to(a.dtype)).mean()


def leading(a: Tensor, b: Tensor, k: int | None = None) -> Tensor:
    """Return the l2 distance of the k largest exponents by rank, default half of them; -inf counts as FLOOR."""
    k = max(1, len(a) // 2) if k is None else k
    if not 1 <= k <= len(a):
        raise ValueError(f"k must be between 1 and the {len(a)} exponents, got {k}.")
    return l2(a.sort(descending=True).values[:k], b.sort(descending=True).values[:k])


def exp_mapped(a: Tensor, b: Tensor) -> Tensor:
    """Return sqrt(sum (e^a - e^b)^2), the distance of the growth factors; very negative exponents count little."""
    return _norm(a.exp() - b.exp())


def wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of |a - b| by rank, the Wasserstein-1 distance of the two densities; -inf counts as FLOOR."""
    return (a.clamp(min=FLOOR).sort().values - b.clamp(min=FLOOR).sort().values).abs().mean()


def clipped(a: Tensor, b: Tensor, floor: float = -5.0) -> Tensor:
    """Return the l2 distance of exponents clamped at `floor`; all lower exponents, and -inf, count as `floor`.

    floor: nats per step; at -5 a difference shrinks to less than a hundredth in one step.
    """
    return _norm(a.clamp(min=floor) - b.clamp(min=floor))


def _norm(x: Tensor, ord: float = 2) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, ord=ord)  # unlike sqrt, it has gradient zero at zero
    return norm


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": l2,
    "l1": l1,
    "relative": relative,
    "leading": leading,
    "exp": exp_mapped,
    "wasserstein": wasserstein,
    "clipped": clipped,
}


def spectrum_distance(a: Any, b: Any, *, kind: str = "l2") -> Tensor:
    """Return the distance of two spectra, a float64 scalar: finite, non-negative, zero for equal spectra.

    a, b: each a `Spectrum`, or exponents (K,) as a tensor, array or list, in nats per step and state order.
    kind: a key of DISTANCES; the docstring of its function says how -inf counts. Default "l2": as FLOOR.
    Raises: ValueError for spectra that cannot be compared or that contain NaN or +inf.

    >>> float(spectrum_distance([-1.0, -2.0], [-1.0, -2.5]))
    0.5
    """
    if kind not in DISTANCES:
        raise ValueError(f"kind must be one of {', '.join(DISTANCES)}, got {kind!r}. Choose one of these.")
    if isinstance(a, Spectrum) and isinstance(b, Spectrum):
        for what in ("state", "convention", "sizes"):
            one, two = getattr(a, what), getattr(b, what)
            if one != two:
                raise ValueError(
                    f"Compared spectra must have the same {what}, got {one} and {two}. "
                    "Compute both with the same options."
                )
    one, two = _exponents(a), _exponents(b)
    if one.shape != two.shape:
        raise ValueError(
            f"Compared spectra must have the same number of exponents, got {len(one)} and {len(two)}. Compute both "
            "with the same options."
        )
    return DISTANCES[kind](one, two.to(one.device))


def _exponents(spectrum: Any) -> Tensor:
    if isinstance(spectrum, list) and torch.get_default_dtype() == torch.float32:  # numpy reads lists faster
        array = np.asarray(spectrum, dtype=np.float32)
        values, valid = torch.from_numpy(array), bool((array < np.inf).all())
    else:
        values = spectrum.exponents if isinstance(spectrum, Spectrum) else torch.as_tensor(spectrum)
        valid = bool((values < torch.inf).all())
    if values.dim() != 1 or not len(values):
        raise ValueError(f"Exponents must have the shape (K,), got {tuple(values.shape)}. Flatten them.")
    if not valid:  # false for NaN, true for -inf
        raise ValueError("Exponents must be finite or -inf, got NaN or +inf. Use a network that has not diverged.")
    return values.double()
