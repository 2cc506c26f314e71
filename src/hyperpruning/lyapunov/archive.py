"""Reading a NumPy archive of known arrays: types and sizes are checked before an array is read, and no code runs."""

from __future__ import annotations

import tokenize
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as _format

npy: Any = _format  # whose functions have no types in some versions of NumPy

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_FAULTS = (  # what zipfile and numpy raise for a damaged or a hostile file
    zipfile.BadZipFile,
    OSError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    OverflowError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    tokenize.TokenError,
)


class Kind(NamedTuple):
    """What an array must be: the kinds of its dtype (numpy's letters, native byte order), and its dimensions."""

    letters: str
    dimensions: int


def read_arrays(path: Path, kinds: Mapping[str, Kind]) -> dict[str, np.ndarray[Any, Any]]:
    """Read the arrays of an uncompressed ``.npz``, which cannot be larger than the file.

    Args:
        path: of the file.
        kinds: name -> what the array must be.

    Raises:
        ValueError: the file is no such archive.
        OSError: the file does not exist or cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"A spectrum file must be a file, got {path}. Give a file that Spectrum.save wrote.")
    path.open("rb").close()  # an error of zipfile does not say why a file cannot be opened
    try:
        with zipfile.ZipFile(path) as archive:
            missing = [name for name in kinds if f"{name}.npy" not in archive.namelist()]
            if not missing:
                return {name: _read(archive, f"{name}.npy", kind, path.stat().st_size) for name, kind in kinds.items()}
    except _FAULTS as error:
        raise ValueError(
            f"A spectrum file must be one that Spectrum.save wrote, got {path} ({type(error).__name__}: {error}). "
            "Compute the spectrum again."
        ) from None
    raise ValueError(
        f"A spectrum file must have all fields of Spectrum, got no {', '.join(missing)} in {path}. Compute the "
        "spectrum again with this version."
    )


def _read(archive: zipfile.ZipFile, name: str, kind: Kind, most: int) -> np.ndarray[Any, Any]:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    with archive.open(name) as member:
        shape, _, dtype = _HEADERS[npy.read_magic(member)](member)
        if dtype.kind not in kind.letters or not dtype.isnative or len(shape) != kind.dimensions:
            raise ValueError(f"{name} has {len(shape)} dimensions of {dtype}")
        size = dtype.itemsize
        for length in shape:
            size *= length
        if not 0 <= size <= most:
            raise ValueError(f"{name} has {size} bytes in a file of {most}")
    with archive.open(name) as member:
        array: np.ndarray[Any, Any] = npy.read_array(member, allow_pickle=False)
        return array
