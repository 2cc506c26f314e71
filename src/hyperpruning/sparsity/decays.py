"""How the drop fraction shrinks during training.

A decay is a function `(step, total_steps) -> factor` in [0, 1], 1 at step 0; total_steps is the step after which no
update comes. To add one, write the function and its line in DECAYS.
"""

import math
from collections.abc import Callable

Decay = Callable[[int, float], float]


def constant(step: int, total_steps: float) -> float:
    """Never shrink."""
    return 1.0


def cosine(step: int, total_steps: float) -> float:
    """Shrink along half a cosine: (1 + cos(pi t / T)) / 2. Source: SNFS, Dettmers & Zettlemoyer 2019.

    >>> [round(cosine(step, 100), 3) for step in (0, 25, 50, 100)]
    [1.0, 0.854, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * min(1.0, step / total_steps))) / 2


def linear(step: int, total_steps: float) -> float:
    """Shrink in proportion: 1 - t / T."""
    return max(0.0, 1 - step / total_steps)


DECAYS: dict[str, Decay] = {"constant": constant, "cosine": cosine, "linear": linear}
