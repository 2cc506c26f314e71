"""The run folder as the workers of a cluster see it: each checks that it is the driver's.

The driver writes a token into the run folder, and each job carries it. A worker on a machine that does not see the
folder finds no token, or another one, and says so before it trains. A worker that goes on after its driver has ended,
or after a newer driver has begun, notices it after its epoch.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperpruning.files import write_atomic
from hyperpruning.search.ledger import RunFolderError

TOKEN = "driver"
SEEN_IN = 10.0  # seconds in which a network disk must show a new file to all machines


@contextmanager
def token_in(folder: Path) -> Iterator[str]:
    """Within the block the run folder has the token of this driver."""
    path, token = folder / TOKEN, secrets.token_hex(16)
    write_atomic(path, token.encode())
    try:
        yield token
    finally:
        path.unlink(missing_ok=True)


def check_seen(folder: Path, token: str) -> None:
    """Check that this machine sees the run folder of the driver.

    Raises:
        RunFolderError: it does not.
    """
    deadline = time.monotonic() + SEEN_IN
    while _read(folder) != token:
        if time.monotonic() > deadline:
            raise RunFolderError(
                f"All workers must see the run folder of the search, got none or another one at {folder.resolve()} on "
                f"the machine {socket.gethostname()}. Give an --out on a disk that all machines share, under the same "
                "path."
            )
        time.sleep(0.2)


def check_driven(folder: Path, token: str) -> None:
    """Check that the driver whose token this is has neither ended nor been replaced.

    Raises:
        RunFolderError: it has; nobody waits for the result.
    """
    if _read(folder) != token:
        raise RunFolderError(f"The driver of a job must be running, got {folder}, whose driver has ended.")


def _read(folder: Path) -> str | None:
    try:
        return (folder / TOKEN).read_text()
    except OSError:
        return None
