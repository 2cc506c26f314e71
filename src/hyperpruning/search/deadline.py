"""The end of a search's time, which its worker processes keep as well. The time of day plays no part in it."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Deadline:
    """When work must end; by default never.

    A monotonic clock cannot be set, and all processes of a machine share it; on another machine it shows another time,
    and there the seconds that were left when the work was handed out count from its beginning.

    Attributes:
        at: time of the monotonic clock, in seconds.
        left: seconds that were left when this object was made.
        machine: whose clock it is.
    """

    at: float = math.inf
    left: float = math.inf
    machine: str = ""

    def clock(self) -> Callable[[], bool]:
        """Whether it is over, as a function; call this where the work begins."""
        at = self.at if self.machine == this_machine() else time.monotonic() + self.left
        return lambda: time.monotonic() >= at

    def again(self) -> Deadline:
        """The same deadline with the seconds that are left now, to hand out."""
        return Deadline(self.at, self.at - time.monotonic(), self.machine)


def deadline_in(hours: float | None) -> Deadline:
    """The deadline after so many hours from now; None: never."""
    if hours is None:
        return Deadline()
    return Deadline(time.monotonic() + 3600 * hours, 3600 * hours, this_machine())


@cache
def this_machine() -> str:
    """A name for the present run of this machine's clock."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return platform.node()
