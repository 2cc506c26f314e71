"""How the spectra of a search are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hyperpruning.settings import check_settings, documented, setting


@documented
@dataclass(frozen=True)
class SpectrumConfig:
    """How the spectra of a search are taken.

    Raises:
        ValueError: a value out of its range.
    """

    state: Literal["h", "full"] = setting(
        "h", 'what is measured: "h", or "full" for the (h, c) of an LSTM', section="spectrum", choices=("h", "full")
    )
    warmup: int = setting(20, "first steps of the probe, which are not measured", section="spectrum", ge=0)
    averaged: bool = setting(
        False, "also take the spectrum of the exponential average of the weights (half_life)", section="spectrum"
    )
    epochs: tuple[int, ...] = setting(
        (), "epochs after which spectra are taken, e.g. [0, 1, 2, 5, 10]; none: all", section="spectrum", ge=0
    )

    def __post_init__(self) -> None:
        check_settings(self)
