"""The table of benchmarks/engine.py; as a script, one trial of Syne Tune, which starts a process for each."""

from __future__ import annotations

import argparse
import math

EPOCHS, RUNGS = 27, (1, 3, 9)
CHOICES: dict[str, tuple[str, ...]] = {
    "allocation": ("uniform", "er", "erk"),
    "drop_scope": ("tensor", "sign", "global"),
}
LOW, HIGH, STEP = 0.1, 0.9, 0.01


def loss_of(allocation: int, scope: int, drop_fraction: float, epoch: int) -> float:
    """The table: a loss that falls with the epochs, more slowly where its end is lower."""
    end = 1 + 0.1 * allocation + 0.05 * scope + (drop_fraction - 0.55) ** 2
    return end + 3 * math.exp(-epoch * (1 + 0.2 * allocation) / 4)


def main() -> None:
    """Report the losses of a config to Syne Tune, epoch by epoch."""
    from syne_tune import Reporter

    parser = argparse.ArgumentParser(description=__doc__)
    for name, choices in CHOICES.items():
        parser.add_argument(f"--{name}", choices=choices)
    parser.add_argument("--drop_fraction", type=float)
    options, _ = parser.parse_known_args()
    chosen = [choices.index(getattr(options, name)) for name, choices in CHOICES.items()]
    report = Reporter()
    for epoch in range(1, EPOCHS + 1):
        report(epoch=epoch, loss=loss_of(chosen[0], chosen[1], options.drop_fraction, epoch))


if __name__ == "__main__":
    main()
