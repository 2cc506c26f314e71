"""Small regressions on the settings of candidates: what they explain, and what they foretell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hyperpruning.search.ranking import Vector


def terms_of(configs: Sequence[Mapping[str, str | float]]) -> list[Vector]:
    """Columns of a regression on settings of candidates, each with mean 0 and deviation 1: linear ones, then squares.

    A setting with text values, or one that not every candidate has, has a column for each value but one.
    """
    linear: list[Vector] = []
    squared: list[Vector] = []
    for key in sorted({key for config in configs for key in config}):
        values = [config.get(key) for config in configs]
        if all(isinstance(value, int | float) for value in values):
            if (column := standardised([float(value) for value in values if value is not None])) is not None:
                linear.append(column)
                if len(set(values)) > 2 and (square := standardised(column**2)) is not None:
                    squared.append(square)
        else:
            for choice in sorted({str(value) for value in values})[1:]:
                if (column := standardised([float(str(value) == choice) for value in values])) is not None:
                    linear.append(column)
    return [*linear, *squared]


def standardised(values: Iterable[float]) -> Vector | None:
    """Values with mean 0 and deviation 1; None if they are all equal."""
    column = np.array([*values], dtype=float)
    deviation = float(column.std())
    return (column - column.mean()) / deviation if deviation > 1e-12 * max(1.0, float(np.abs(column).max())) else None


def residuals_of(values: Sequence[float], terms: Sequence[Vector]) -> list[float]:
    """What a least-squares regression on the terms leaves of the values."""
    target = np.array(values)
    design = np.column_stack([np.ones(len(target)), *terms])
    coefficients, *_ = np.linalg.lstsq(design, target, rcond=None)
    found: list[float] = (target - design @ coefficients).tolist()
    return found


def ridge(terms: Sequence[Vector], known: Sequence[float | None], penalty: float = 1.0) -> list[float]:
    """Values that a ridge regression on standardised terms foretells for all, fitted to those that are known.

    Args:
        terms: columns, (N,) each, standardised.
        known: (N,), None where a value is not known.
        penalty: on the squared coefficients, in units of the values' variance.
    """
    rows = [number for number, value in enumerate(known) if value is not None]
    target = np.array([value for value in known if value is not None], dtype=float)
    design = np.column_stack([*terms]) if terms else np.zeros((len(known), 0))
    centre, mean = design[rows].mean(0), target.mean()
    inside = design[rows] - centre
    coefficients = np.linalg.solve(inside.T @ inside + penalty * np.eye(design.shape[1]), inside.T @ (target - mean))
    found: list[float] = (mean + (design - centre) @ coefficients).tolist()
    return found
