"""How far apart two spectra are, each distance a function `(a, b) -> scalar` of exponents (K,) in state order.

Exponents are compared at the same position (Wasserstein and leading: at the same rank). A dead unit has the exponent
-inf. What is squared or summed therefore stops at `FLOOR`: no exponent counts as lower, so that one -inf costs the
finite price of falling from where it was to the floor. Bounded distances take -inf as their limit and say so.
No distance returns NaN; each can be differentiated, also where two spectra agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyperpruning.lyapunov.spectrum import Spectrum

FLOOR = -23 * math.log(2)
"""ln 2^-23 = -15.94: what shrinks faster is below float32's resolution after a single step."""


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
    """Return the mean of |a - b| / (|a| + |b|), between 0 and 1; -inf beside a finite exponent is 1, the limit.

    >>> float(relative(torch.tensor([-1.0, -math.inf, -math.inf]), torch.tensor([-3.0, -2.0, -math.inf])))
    0.5
    """
    beyond = torch.isneginf(a) != torch.isneginf(b)
    alike = a == b  # both -inf, or both zero
    apart = ~(beyond | alike)
    one, two = torch.where(apart, a, 1.0), torch.where(apart, b, 2.0)  # no 0/0 even in the gradient
    ratio = (one - two).abs() / (one.abs() + two.abs())
    return torch.where(apart, ratio, beyond.to(a.dtype)).mean()


def leading(a: Tensor, b: Tensor, k: int | None = None) -> Tensor:
    """Return the l2 distance of the k largest exponents by rank, half of them by default; -inf counts as FLOOR."""
    k = max(1, len(a) // 2) if k is None else k
    if not 1 <= k <= len(a):
        raise ValueError(f"k is between 1 and the {len(a)} exponents, but is {k}")
    return l2(a.sort(descending=True).values[:k], b.sort(descending=True).values[:k])


def exp_mapped(a: Tensor, b: Tensor) -> Tensor:
    """Return sqrt(sum (e^a - e^b)^2), the growth factors' distance: the deep tail fades out, -inf is a factor of 0."""
    return _norm(a.exp() - b.exp())


def wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of |a - b| by rank, the earth mover's distance of the two densities; -inf counts as FLOOR."""
    return (a.clamp(min=FLOOR).sort().values - b.clamp(min=FLOOR).sort().values).abs().mean()


def clipped(a: Tensor, b: Tensor, floor: float = -5.0) -> Tensor:
    """Return the l2 distance of exponents cut off at `floor`, so that the deep tail and -inf count alike.

    floor: nats per step; at -5 a difference has shrunk to less than a hundredth after one step.
    """
    return _norm(a.clamp(min=floor) - b.clamp(min=floor))


def _norm(x: Tensor, ord: float = 2) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, ord=ord)  # its gradient at zero is zero, unlike that of sqrt
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
    """Return how far two spectra are apart, a float64 scalar: finite, never negative, zero where they agree.

    a, b: a `Spectrum` each, or exponents (K,) as a tensor, array or list, in nats per step and state order.
    kind: a name in DISTANCES; its function says what it does with -inf. The default, "l2", takes it as FLOOR.
    Raises: ValueError for spectra that cannot be compared, or that hold NaN or +inf.

    >>> float(spectrum_distance([-1.0, -2.0], [-1.0, -2.5]))
    0.5
    """
    if kind not in DISTANCES:
        raise ValueError(f"a distance is one of {', '.join(DISTANCES)}, but kind is {kind!r}")
    if isinstance(a, Spectrum) and isinstance(b, Spectrum):
        for what in ("state", "convention", "sizes"):
            one, two = getattr(a, what), getattr(b, what)
            if one != two:
                raise ValueError(f"compared spectra share their {what}, but have {one} and {two}: compute both alike")
    one, two = _exponents(a), _exponents(b)
    if one.shape != two.shape:
        raise ValueError(f"compared spectra have as many exponents, but these have {len(one)} and {len(two)}")
    return DISTANCES[kind](one, two.to(one.device))


def _exponents(spectrum: Any) -> Tensor:
    values = spectrum.exponents if isinstance(spectrum, Spectrum) else torch.as_tensor(spectrum)
    if values.dim() != 1 or not len(values):
        raise ValueError(f"a spectrum is a vector of exponents (K,), but this one has the shape {tuple(values.shape)}")
    if not bool((values < torch.inf).all()):  # NaN compares false, -inf true
        raise ValueError("exponents are finite or -inf, but these hold NaN or +inf: the network has diverged")
    return values.double()
