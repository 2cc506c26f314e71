"""What the benchmarks share: taking times in turn, and printing rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any


def best(
    jobs: dict[str, Callable[[], Any]], repetitions: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Run all of them in turn, again and again; return each one's shortest time in seconds."""
    times = dict.fromkeys(jobs, math.inf)
    for _ in range(repetitions):
        for name, job in jobs.items():
            start = clock()
            job()
            times[name] = min(times[name], clock() - start)
    return times


def table(rows: list[dict[str, Any]]) -> None:
    """Print the rows under each other."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print("  ".join(f"{column:>16}" for column in columns))
    for row in rows:
        cells = (row.get(column, "-") for column in columns)
        print("  ".join(f"{cell:>16.4g}" if isinstance(cell, float) else f"{cell:>16}" for cell in cells), flush=True)
    print()
