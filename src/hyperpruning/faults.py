"""Faults on demand, with which the tests show that nothing is lost.

The environment variable ``HYPERPRUNE_FAULT`` names a point of the code, a count and a kind, e.g.
``HYPERPRUNE_FAULT=ledger.append:3:kill``: the process kills itself when it comes to this point for the third time.

========== ============================================================================================
kind       what happens
========== ============================================================================================
kill       SIGKILL, before what the point is named after
ENOSPC     OSError: no space left on the disk
EIO        OSError: input/output error
flip       one bit of what is written is another one, and nobody notices (at points that write)
truncate   only a part is written, and nobody notices (at points that write)
tear       only a part is written, and the process dies at the next point (at points that write)
========== ============================================================================================
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter

VARIABLE = "HYPERPRUNE_FAULT"
POINTS = {
    "files.write": "the content of a file, into its temporary file",
    "files.fsync": "the flush of a temporary file",
    "files.replace": "the replacement of a file by the temporary one",
    "files.fsync_folder": "the flush of the folder",
    "ledger.append": "a line of the ledger",
    "ledger.fsync": "the flush of the ledger",
    "ledger.cut": "the removal of a line that is not complete",
    "checkpoint.tensors": "the tensors of a checkpoint",
    "checkpoint.sidecar": "its sidecar",
    "checkpoint.remove": "the removal of older checkpoints",
    "checkpoint.release": "the removal of an eliminated candidate's tensors",
    "driver.decide": "what a search does next",
}
WRITING = ("files.write", "ledger.append")
KINDS = ("kill", "ENOSPC", "EIO", "flip", "truncate", "tear")


class Fault:
    """A fault that is to come.

    Args:
        text: "point:count:kind".

    Raises:
        ValueError: there is no such point or kind.
    """

    def __init__(self, text: str) -> None:
        point, count, kind = [*text.split(":"), "", ""][:3]
        possible = KINDS if point in WRITING else KINDS[:3]
        if point not in POINTS or kind not in possible or not count.isdecimal():
            raise ValueError(
                f"{VARIABLE} must be point:count:kind with a point of {', '.join(POINTS)} and a kind of "
                f"{', '.join(possible)}, got {text!r}. Correct it, or unset it."
            )
        self.point, self.count, self.kind = point, int(count), kind
        self.hits: Counter[str] = Counter()
        self.dying = False

    def strike(self, point: str, content: bytes) -> bytes:
        """Count the point, and do what is asked when it is due; return what is to be written."""
        self.hits[point] += 1
        if self.dying:
            os.kill(os.getpid(), signal.SIGKILL)
        if point != self.point or self.hits[point] != self.count:
            return content
        if self.kind in ("ENOSPC", "EIO"):
            number = getattr(errno, self.kind)
            raise OSError(number, os.strerror(number))
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self.dying = self.kind == "tear"
        place = self.count * 7919 % len(content)  # varies with the count
        if self.kind == "flip":
            return content[:place] + bytes([content[place] ^ 1 << self.count % 8]) + content[place + 1 :]
        return content[:place]


_armed: list[Fault] = []
_named = os.environ.get(VARIABLE)


def arm(text: str | None) -> Fault | None:
    """Expect a fault in this process, whatever the environment says; None: none."""
    global _named
    _named = text
    _armed[:] = [] if text is None else [Fault(text)]
    return _armed[0] if _armed else None


def fault(point: str, content: bytes = b"") -> bytes:
    """Do nothing, unless a fault is expected at this point.

    Args:
        point: one of `POINTS`.
        content: what is going to be written.

    Returns:
        what is to be written.

    Raises:
        OSError: a fault of this kind is due.
    """
    if _named is None:
        return content
    if not _armed:
        arm(_named)
    return _armed[0].strike(point, content)
