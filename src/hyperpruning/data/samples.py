"""Samples (tensors whose first dimension counts them) and series in three splits: from arrays, data sets and files."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from hyperpruning.data.corpus import SPLITS, DataError
from hyperpruning.settings import did_you_mean

Samples = tuple[Tensor, ...]  # N samples: each tensor is (N, ...)


@dataclass(frozen=True, eq=False)
class Splits:
    """What is learnt, what candidates are compared on, and what is used once, at the end; and the names of classes."""

    train: Samples
    valid: Samples
    test: Samples
    classes: tuple[str, ...] = ()

    def __getitem__(self, split: str) -> Samples:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.{did_you_mean(split, SPLITS)}")
        samples: Samples = getattr(self, split)
        return samples

    @cached_property
    def sha256(self) -> str:
        """The hash of all values and shapes, split by split."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for tensor in self[split]:
                digest.update(f"{split} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def splits_of(parts: Iterable[Samples]) -> Splits:
    """Return three parts as splits."""
    train, valid, test = parts
    return Splits(train, valid, test)


def as_tensor(name: str, values: Any) -> Tensor:
    """Return an array, a list or a tensor as a tensor on the CPU: float32, int64 or bool.

    Raises:
        DataError: these are no numbers, sequences of unequal lengths, or not all of them are finite.
    """
    try:
        found = values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    except (TypeError, ValueError):
        raise DataError(
            f"{name} must be an array of numbers, got a {type(values).__name__} of other things. Convert it; sequences "
            "of unequal lengths are padded to one array."
        ) from None
    if found.is_complex():
        raise DataError(f"{name} must be real, got {found.dtype}. Give real and imaginary part as two features.")
    found = found.float() if found.is_floating_point() else found if found.dtype == torch.bool else found.long()
    if not bool(found.isfinite().all()):
        raise DataError(f"{name} must be finite, got NaN or infinity. Leave these samples out, or fill the gaps.")
    return found


def as_columns(data: Any) -> tuple[Any, ...]:
    """Return a tuple of arrays, or the items of a map-style data set, as one array or list for each part of a sample.

    Raises:
        DataError: the data are neither.
    """
    if isinstance(data, tuple | list) and len(data) >= 2:
        return tuple(data)
    if isinstance(data, np.ndarray | Tensor | str | Mapping | tuple | list) or not hasattr(data, "__getitem__"):
        raise DataError(
            "Samples must be a tuple of arrays such as (inputs, targets), or a torch Dataset of such tuples, got a "
            f"{type(data).__name__}. Put the arrays into a tuple."
        )
    items = [data[index] for index in range(len(data))]
    return tuple([np.asarray(value) for value in column] for column in zip(*items, strict=True))


def is_ragged(values: Any) -> bool:
    """Tell whether these are sequences of different lengths."""
    listed = isinstance(values, list | tuple) or (isinstance(values, np.ndarray) and values.dtype == object)
    return listed and len({np.shape(value)[:1] for value in values}) > 1


def as_samples(data: Any) -> Samples:
    """Return arrays, or a map-style data set of tuples, as tensors with samples first.

    Args:
        data: a tuple or list of arrays of N samples each; or an object with `len` and numbers as indices, each item a
            tuple of arrays of one shape.

    Raises:
        DataError: the numbers of samples differ, or there are none.
    """
    found = tuple(as_tensor(f"Array {number} of the samples", values) for number, values in enumerate(as_columns(data)))
    counts = [len(values) if values.dim() else 0 for values in found]
    if min(counts) < 1 or len(set(counts)) > 1:
        raise DataError(
            f"All arrays must have the same number of samples, at least 1, got {counts}. Give equally many."
        )
    return found


def split_samples(data: Any, fractions: Sequence[float], seed: int) -> Splits:
    """Return the splits of samples.

    Args:
        data: `Splits`; a mapping with "train", "valid" and "test", each as for `as_samples`; or one of these, which is
            split at random.
        fractions: of the samples for train, valid and test, if `data` is one.
        seed: of the random split.

    Raises:
        DataError: the data are none of these, or a split is empty.
    """
    if isinstance(data, Splits):
        return data
    if isinstance(data, Mapping):
        return splits_of(as_samples(part) for part in _three(data))
    whole = as_samples(data)
    order = torch.randperm(len(whole[0]), generator=Generator().manual_seed(seed))
    parts = torch.split(order, split_sizes(len(order), fractions))
    return splits_of(tuple(values[part] for values in whole) for part in parts)


def split_series(data: Any, fractions: Sequence[float]) -> Splits:
    """Return the splits of a multivariate series, (T, F) each: one after the other in time.

    Args:
        data: `Splits`; a mapping with "train", "valid" and "test"; or one series (T, F) or (T,).
        fractions: of the time steps for train, valid and test, if `data` is one series.

    Raises:
        DataError: the data are none of these, or a split is empty.
    """
    if isinstance(data, Splits):
        return data
    parts = _three(data) if isinstance(data, Mapping) else (data,)
    found = [as_tensor("A series", part).float() for part in parts]
    found = [part[:, None] if part.dim() == 1 else part for part in found]
    if any(part.dim() != 2 for part in found) or len({part.shape[1] for part in found}) > 1:
        shapes = [tuple(part.shape) for part in found]
        raise DataError(
            f"A series must have the shape (time steps, features) or (time steps,), got {shapes}. Reshape it."
        )
    if len(found) == 1:
        found = list(torch.split(found[0], split_sizes(len(found[0]), fractions)))
    return splits_of((part,) for part in found)


def _three(data: Mapping[Any, Any]) -> list[Any]:
    if set(data) != set(SPLITS):
        raise DataError(
            f"The data must have the splits {', '.join(SPLITS)}, got {', '.join(map(str, data)) or 'none'}. Give these "
            "three, or one data set, which is then split."
        )
    return [data[split] for split in SPLITS]


def split_sizes(count: int, fractions: Sequence[float]) -> list[int]:
    """Return the numbers of samples of train, valid and test; all samples are used.

    >>> split_sizes(10, (0.7, 0.15, 0.15))
    [7, 2, 1]

    Raises:
        DataError: the fractions are not three that add up to 1, or a split is empty.
    """
    if len(fractions) != len(SPLITS) or abs(sum(fractions) - 1) > 1e-6:
        raise DataError(f"fractions must be three numbers that add up to 1, got {list(fractions)}. Change them.")
    ends = [round(sum(fractions[:number]) * count + 1e-9) for number in range(len(SPLITS))] + [count]
    sizes = [after - before for before, after in pairwise(ends)]
    if min(sizes) < 1:
        raise DataError(f"Every split must have at least one sample, got {sizes} of {count}. Give more data.")
    return sizes


def padded(sequences: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Return sequences (T_i, I) or (T_i,) as one tensor (N, T, I), with zeros after their ends, and their lengths (N,).

    Raises:
        DataError: the numbers of features differ, or a sequence is empty.
    """
    found = [as_tensor("A sequence", sequence).float() for sequence in sequences]
    found = [sequence[:, None] if sequence.dim() == 1 else sequence for sequence in found]
    widths = {tuple(sequence.shape[1:]) for sequence in found}
    if len(widths) != 1 or len(next(iter(widths))) != 1 or min(map(len, found)) < 1:
        shapes = sorted({tuple(sequence.shape) for sequence in found})[:3]
        raise DataError(
            f"Sequences must have the shape (time steps, features) with equally many features, got {shapes}. Reshape "
            "them."
        )
    return torch.nn.utils.rnn.pad_sequence(found, batch_first=True), torch.tensor([len(one) for one in found])


def mean_and_scale(steps: Tensor, standardize: bool) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each feature, (F,) each; 1 where a feature does not vary.

    Args:
        steps: (N, F).
        standardize: otherwise 0 and 1 are returned.
    """
    if not standardize:
        return torch.zeros(steps.shape[1]), torch.ones(steps.shape[1])
    mean, scale = steps.double().mean(0), steps.double().std(0, correction=0)
    return mean.float(), torch.where(scale > 0, scale, 1.0).float()


def shuffled_batches(samples: Samples, batch: int, seed: int) -> Iterator[Samples]:
    """Yield the samples in a random order that depends on the seed alone, in batches; the last one may be smaller."""
    order = torch.randperm(len(samples[0]), generator=Generator().manual_seed(seed))
    for part in torch.split(order, batch):
        yield tuple(values[part] for values in samples)


def read_arrays(path: Path, known: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Read the arrays of an ``.npz`` (or the one of an ``.npy``, under the first known name); no code is executed.

    Args:
        path: of the file.
        known: the names that the file may have.

    Raises:
        DataError: the file does not exist, is none, or has an array that is not known.
    """
    if not path.is_file():
        raise DataError(
            f"The data must be a file of arrays, got {path}, which does not exist. Write one with numpy.savez."
        )
    return dict(_read(path, path.stat().st_mtime_ns, tuple(known)))


@lru_cache(maxsize=4)
def _read(path: Path, stamp: int, known: tuple[str, ...]) -> dict[str, np.ndarray[Any, Any]]:
    """Read a file; the cache holds until its time stamp changes."""
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            arrays = (
                {known[0]: content} if isinstance(content, np.ndarray) else {name: content[name] for name in content}
            )
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, MemoryError) as error:
        raise DataError(
            f"The data must be a file of arrays as numpy.savez writes it without objects, got {path} ({error}). "
            "Write it again."
        ) from None
    for name in arrays:
        if name not in known:
            raise DataError(
                f"The arrays of a file must be of {', '.join(known)}, got {name!r} in {path}."
                f"{did_you_mean(name, known)}"
            )
    return arrays
