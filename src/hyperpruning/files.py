"""Files: atomic writes (after a crash a file has either its old or its new content), checks of sizes, and hashes."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperpruning.faults import fault


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file atomically and flush it to disk; a crash leaves either the old or the new content.

    Raises:
        OSError: the file cannot be written; the error has its name, not that of the temporary file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(fault("files.write", content))
            file.flush()
            fault("files.fsync")
            os.fsync(file.fileno())
        fault("files.replace")
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        fault("files.fsync_folder")
        os.fsync(directory)
    finally:
        os.close(directory)


def checked_size(path: Path, *, most: int) -> int:
    """The size of a regular file in bytes, so that neither a pipe nor a huge file is read.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: it is no regular file, or larger; the message is the end of a sentence.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no file")
    if found.st_size > most:
        raise ValueError(f"it has {found.st_size:,} bytes, more than {most:,}")
    return found.st_size


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """The hash of a network's weights: names, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def json_check(values: Mapping[str, Any]) -> str:
    """The check of a JSON file's content: 16 digits of a hash, kept beside it to find accidental changes."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
