"""Schedules: how the drop fraction decays, and how the density falls, during training.

A decay is a function `(step, total_steps) -> factor` in [0, 1], with 1 at step 0; no update follows `total_steps`. A
density schedule is a function `(progress, start, end) -> density`; progress goes from 0 to 1 between `density_from` and
`density_until`, start and end are the densities there.

To add one, write the function and add a line to DECAYS or DENSITIES.
"""

import math
from collections.abc import Callable

Decay = Callable[[int, float], float]
Density = Callable[[float, float, float], float]


def constant(step: int, total_steps: float) -> float:
    """Do not decay."""
    return 1.0


def cosine(step: int, total_steps: float) -> float:
    """Decay along half a cosine: (1 + cos(pi t / T)) / 2. Source: SNFS, Dettmers & Zettlemoyer 2019,
    whose code ends at a drop fraction of 0.005 instead of 0.

    >>> [round(cosine(step, 100), 3) for step in (0, 25, 50, 100)]
    [1.0, 0.854, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * min(1.0, step / total_steps))) / 2


def linear(step: int, total_steps: float) -> float:
    """Decay linearly: 1 - t / T."""
    return max(0.0, 1 - step / total_steps)


def fixed(progress: float, start: float, end: float) -> float:
    """Keep the final density from the first step ("constant")."""
    return end


def cubic(progress: float, start: float, end: float) -> float:
    """Fall fast at first, then slowly: end + (start - end) (1 - progress)^3. Source: Zhu & Gupta 2017 (GMP).

    >>> [round(cubic(progress, 1.0, 0.2), 3) for progress in (0, 0.25, 0.5, 1)]
    [1.0, 0.538, 0.3, 0.2]
    """
    return end + (start - end) * (1 - progress) ** 3


def geometric(progress: float, start: float, end: float) -> float:
    """Prune the same fraction of the active weights in equal times: start (end / start)^progress.

    Source: Frankle & Carbin 2019 (IMP).

    >>> [round(geometric(progress, 1.0, 0.25), 3) for progress in (0, 0.5, 1)]
    [1.0, 0.5, 0.25]
    """
    return float(start * (end / start) ** progress)


def one_shot(progress: float, start: float, end: float) -> float:
    """Fall once, at `density_until`."""
    return end if progress >= 1 else start


DECAYS: dict[str, Decay] = {"constant": constant, "cosine": cosine, "linear": linear}
DENSITIES: dict[str, Density] = {"constant": fixed, "cubic": cubic, "geometric": geometric, "one_shot": one_shot}
