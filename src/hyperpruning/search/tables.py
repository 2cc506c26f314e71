"""A table: a pool of candidates that were all trained to the end, as one compact file.

`table_of` makes one from a run folder whose search had `train_all`; `replay` (search/replay.py) searches on it.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperpruning.files import checked_size, write_atomic
from hyperpruning.search.history import DENSE, FinalResult, History
from hyperpruning.search.ledger import read
from hyperpruning.search.plan import Plan, recorded_plan
from hyperpruning.search.space import Config
from hyperpruning.training.record import EpochRecord

Array = npt.NDArray[np.float32]
MAX_TABLE = 2**28  # bytes
ARRAYS = ("valid", "averaged", "train", "spectra", "averaged_spectra")


class TableError(ValueError):
    """A table that cannot be made or read."""


@dataclass(frozen=True)
class Table:
    """A pool of N candidates and the dense reference, trained for E epochs.

    Attributes:
        name: of the setting.
        identity: of the search that trained them, see `Plan.identity`.
        configs: of the candidates.
        valid, averaged, train: losses after epochs 0 to E, (N + 1, E + 1), nats; the last row is the dense reference;
            NaN where there is none (a failed candidate, or not recorded).
        spectrum_epochs: (K,), when spectra were taken.
        spectra, averaged_spectra: (N + 1, K, L); the second may have K = 0.
        final_valid, final_test: (N + 1, S), the losses of the best epoch, for S seeds; NaN where not trained.
        active: (N,), active prunable weights.
    """

    name: str
    identity: Mapping[str, Any]
    configs: tuple[Config, ...]
    valid: Array
    averaged: Array
    train: Array
    spectrum_epochs: tuple[int, ...]
    spectra: Array
    averaged_spectra: Array
    final_valid: Array
    final_test: Array
    active: tuple[int, ...]

    @property
    def epochs(self) -> int:
        """Length of a full training."""
        return int(self.valid.shape[1]) - 1

    @cached_property
    def mean_final(self) -> npt.NDArray[np.float64]:
        """The final validation loss of each candidate, mean over its seeds; inf for one that failed, (N,)."""
        final = np.asarray(self.final_valid[:-1], np.float64)
        known = np.isfinite(final)
        means = np.where(known, final, 0).sum(1) / np.maximum(known.sum(1), 1)
        return np.where(known.any(1), means, np.inf)

    @cached_property
    def plan(self) -> Plan:
        """The plan of the search that trained the pool, without its tasks."""
        return recorded_plan(self.identity)

    @cached_property
    def records(self) -> tuple[Mapping[int, EpochRecord], ...]:
        """The records of each row by epoch, until the first that is missing."""
        return tuple(dict(self._records(row)) for row in range(len(self.valid)))

    def _records(self, row: int) -> Iterator[tuple[int, EpochRecord]]:
        active = 0 if row == len(self.configs) else self.active[row]
        taken = {epoch: number for number, epoch in enumerate(self.spectrum_epochs)}
        for epoch in range(self.epochs + 1):
            if math.isnan(self.valid[row, epoch]):
                return
            averaged, number = float(self.averaged[row, epoch]), taken.get(epoch)
            train = float(self.train[row, epoch])
            yield (
                epoch,
                EpochRecord(
                    epoch,
                    None if math.isnan(train) else train,
                    float(self.valid[row, epoch]),
                    active,
                    {},
                    0.0,
                    spectrum=_exponents(self.spectra, row, number),
                    averaged_loss=None if math.isnan(averaged) else averaged,
                    averaged_spectrum=_exponents(self.averaged_spectra, row, number),
                ),
            )


def _exponents(spectra: Array, row: int, number: int | None) -> tuple[float | None, ...]:
    if number is None or not spectra.shape[1]:
        return ()
    return tuple(None if value == -math.inf else value for value in spectra[row, number].tolist())


def table_of(folders: Sequence[Path | str], name: str | None = None) -> Table:
    """Make a table from finished searches with `train_all`.

    Args:
        folders: the run folder of the pool; then, if you like, those in which some of its configs were trained with
            other seeds.
        name: of the table; None is the name of the first folder.

    Raises:
        TableError: a candidate of the pool is not trained to the end, or a run has other configs or settings.
    """
    pool = read(Path(folders[0]))
    assert pool.header is not None
    plan = recorded_plan(pool.header.identity)
    names = [*pool.candidates, DENSE]
    unfinished = [one for one in names if one not in pool.finals and one not in pool.failures]
    if unfinished:
        raise TableError(
            f"All candidates of a table must be trained to the end, got {len(unfinished)} that are not (first: "
            f"{unfinished[0]}). Search with train_all = true, and resume until it is finished."
        )
    valid, test = _finals(pool, names)
    records = [pool.epochs.get(one, {}) for one in names]
    epochs = range(plan.train.epochs + 1)
    taken = [epoch for epoch in epochs if records[-1].get(epoch) and records[-1][epoch].spectrum]
    moving = [epoch for epoch in taken if records[-1][epoch].averaged_spectrum]
    table = Table(
        name=name or Path(folders[0]).name,
        identity=pool.header.identity,
        configs=tuple(one.config for one in pool.candidates.values()),
        valid=_losses(records, epochs, "valid_loss"),
        averaged=_losses(records, epochs, "averaged_loss"),
        train=_losses(records, epochs, "train_loss"),
        spectrum_epochs=tuple(taken),
        spectra=_spectra(records, taken, "exponents"),
        averaged_spectra=_spectra(records, moving, "averaged_exponents"),
        final_valid=valid[:, None],
        final_test=test[:, None],
        active=tuple(pool.finals[one].active if one in pool.finals else 0 for one in names[:-1]),
    )
    return with_seeds(table, folders[1:])


def with_seeds(table: Table, folders: Sequence[Path | str]) -> Table:
    """The table with the final losses of its own seed, and of runs in which some of its configs had other seeds.

    Raises:
        TableError: a run has other configs.
    """
    finals = [(table.final_valid[:, 0], table.final_test[:, 0])]
    finals += [_finals_of_seed(table, read(Path(folder))) for folder in folders]
    return replace(
        table,
        final_valid=np.stack([valid for valid, _ in finals], 1),
        final_test=np.stack([test for _, test in finals], 1),
    )


def _finals(history: History, names: Sequence[str | None]) -> tuple[Array, Array]:
    missing = FinalResult("", 0, math.nan, math.nan, 0, "")
    found = [history.finals.get(name or "", missing) for name in names]
    valid, test = ([getattr(one, f"{split}_loss") for one in found] for split in ("valid", "test"))
    return np.array(valid, np.float32), np.array(test, np.float32)


def _finals_of_seed(table: Table, other: History) -> tuple[Array, Array]:
    """The finals of another seed, in the order of the table."""
    by_config = {json.dumps(one.config, sort_keys=True): name for name, one in other.candidates.items()}
    wanted = [json.dumps(config, sort_keys=True) for config in table.configs]
    if unknown := [config for config in by_config if config not in wanted]:
        raise TableError(f"Runs with other seeds must have configs of the pool, got {unknown[0]}. Leave this run out.")
    return _finals(other, [*(by_config.get(config) for config in wanted), DENSE])


def _losses(records: Sequence[Mapping[int, EpochRecord]], epochs: range, field: str) -> Array:
    def value(row: Mapping[int, EpochRecord], epoch: int) -> float:
        found = getattr(row[epoch], field) if epoch in row else None
        return math.nan if found is None else float(found)

    return np.array([[value(row, epoch) for epoch in epochs] for row in records], np.float32)


def _spectra(records: Sequence[Mapping[int, EpochRecord]], epochs: Sequence[int], field: str) -> Array:
    length = max((len(getattr(row[e], field)) for row in records for e in epochs if e in row), default=0)
    missing = [math.nan] * length
    return np.array(
        [[(getattr(row[e], field) if e in row else missing) or missing for e in epochs] for row in records], np.float32
    ).reshape(len(records), len(epochs), length)


def save_table(table: Table, path: Path | str) -> None:
    """Write a table as a compressed .npz; the same table gives the same bytes."""
    about = {
        "name": table.name,
        "identity": table.identity,
        "configs": list(table.configs),
        "active": list(table.active),
        "spectrum_epochs": list(table.spectrum_epochs),
    }
    arrays = {name: getattr(table, name) for name in (*ARRAYS, "final_valid", "final_test")}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, about=np.array(json.dumps(about, sort_keys=True)), **arrays)
    write_atomic(Path(path), buffer.getvalue())


def load_table(path: Path | str) -> Table:
    """Read a table.

    Raises:
        TableError: the file is no table of this version.
    """
    try:
        checked_size(Path(path), most=MAX_TABLE)
        with np.load(path, allow_pickle=False) as found:
            about = json.loads(str(found["about"]))
            arrays = {name: found[name] for name in (*ARRAYS, "final_valid", "final_test")}
        table = Table(
            name=about["name"],
            identity=about["identity"],
            configs=tuple(about["configs"]),
            active=tuple(about["active"]),
            spectrum_epochs=tuple(about["spectrum_epochs"]),
            **arrays,
        )
        _ = table.plan
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise TableError(f"A table must be a .npz of `hyperprune table`, got {path} ({error}).") from None
    rows = len(table.configs) + 1
    if any(len(array) != rows for array in arrays.values()) or len(table.active) != rows - 1:
        raise TableError(f"All arrays of a table must have a row for each candidate and the dense one, got {path}.")
    return table
