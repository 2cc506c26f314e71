"""Checkpoints: written atomically, with a SHA-256, loaded without pickle; the last ones are kept.

A checkpoint is a file of tensors, ``epoch-0003.pt``, and a sidecar, ``epoch-0003.json``, which is written last; after
120 steps of the next epoch they are named ``epoch-0003-step-00000120``. The sidecar has the SHA-256 of the tensors, the
name of the network, the identity of the training, and the records of all epochs so far; its own hash is its last field.
A damaged checkpoint is skipped with a warning, and the previous one is used.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperpruning.faults import fault
from hyperpruning.files import checked_size, json_check, write_atomic
from hyperpruning.settings import check_types
from hyperpruning.training.record import EpochRecord, record_from_json
from hyperpruning.training.state import Training

logger = logging.getLogger(__name__)
KEEP_CHECKPOINTS = 2  # if the last one is damaged, there is another
MAX_SIDECAR = 2**28  # bytes


@dataclass(frozen=True)
class Sidecar:
    """The sidecar of a checkpoint, readable without torch."""

    epoch: int
    identity: str
    sha256: str
    size: int
    network: str
    records: tuple[EpochRecord, ...]


@dataclass(frozen=True)
class SealedCheckpoint:
    """A checkpoint as the content of its two files, to be sent to another machine.

    Attributes:
        stem: of the names of the files, ``epoch-0003``.
        tensors, sidecar: bytes; the sidecar has the SHA-256 of both.
    """

    stem: str
    tensors: bytes
    sidecar: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.tensors) + len(self.sidecar)

    def check(self) -> None:
        """Check the hashes.

        Raises:
            ValueError: one of the two is damaged; the message is the end of a sentence.
        """
        _check_tensors(self.tensors, _sidecar_of(self.sidecar))


def save(
    training: Training, folder: Path, identity: str, records: Sequence[EpochRecord], *, keep: int = KEEP_CHECKPOINTS
) -> None:
    """Write a checkpoint and remove old ones.

    Args:
        training: the training, after one of its epochs or one of its steps.
        folder: folder of this network, with its name; created if it does not exist.
        identity: identity of the training; `load` accepts no other.
        records: records of all epochs so far.
        keep: checkpoints that are kept, this one included.

    Raises:
        CarryError: within an epoch, what the task carries cannot be saved; nothing is written.
    """
    buffer = io.BytesIO()
    torch.save(training.state_dict(), buffer)
    stem = f"epoch-{training.epoch:04d}"
    if training.progress is not None:
        stem += f"-step-{training.progress.step:08d}"
    sidecar: dict[str, Any] = {
        "epoch": training.epoch,
        "network": folder.name,
        "identity": identity,
        "sha256": hashlib.sha256(buffer.getbuffer()).hexdigest(),
        "size": len(buffer.getbuffer()),
        "records": [record.to_json() for record in records],
    }
    sealed = json.dumps(sidecar | {"check": json_check(sidecar)}).encode()
    write(SealedCheckpoint(stem, buffer.getvalue(), sealed), folder, keep=keep)


def write(checkpoint: SealedCheckpoint, folder: Path, *, keep: int = KEEP_CHECKPOINTS) -> None:
    """Write a checkpoint and remove old ones.

    Args:
        checkpoint: of the network with the name of the folder.
        folder, keep: as of `save`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fault("checkpoint.tensors")
    write_atomic(folder / f"{checkpoint.stem}.pt", checkpoint.tensors)
    fault("checkpoint.sidecar")
    write_atomic(folder / f"{checkpoint.stem}.json", checkpoint.sidecar)
    fault("checkpoint.remove")
    kept = [path.stem for path in _newest_first(folder) if path.stem <= checkpoint.stem][:keep]
    for path in folder.glob("*epoch-*"):  # also files of another or a killed search
        if path.stem not in kept:
            path.unlink(missing_ok=True)


def load(training: Training, folder: Path, identity: str) -> tuple[EpochRecord, ...]:
    """Restore `training` from the newest valid checkpoint.

    Returns:
        the records of the finished epochs; empty if there is no checkpoint.

    Raises:
        ValueError: its content is not the state of this training, although its hash is right.
    """
    for state, sidecar in _valid_checkpoints(folder, identity):
        try:
            training.load_state_dict(state)
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"A checkpoint must hold the state of its training, got another one in {folder} for epoch "
                f"{sidecar.epoch} ({type(error).__name__}). Remove this folder and resume."
            ) from None
        return sidecar.records
    return ()


def best_weights(folder: Path, identity: str) -> dict[str, Tensor]:
    """The best weights so far, from the newest valid checkpoint; empty if there is none."""
    for state, _ in _valid_checkpoints(folder, identity):
        best: dict[str, Tensor] = state["best"]
        return best
    return {}


def _valid_checkpoints(folder: Path, identity: str) -> Iterator[tuple[dict[str, Any], Sidecar]]:
    """The valid checkpoints, newest first."""
    for checkpoint, sidecar in intact_checkpoints(folder, identity):
        try:
            state = torch.load(io.BytesIO(checkpoint.tensors), map_location="cpu", weights_only=True)
            if not (isinstance(state, dict) and _are_tensors(state.get("best"))):
                raise ValueError("its best weights are no tensors")
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
            _say_skipped(folder / f"{checkpoint.stem}.pt", error)
            continue
        yield state, sidecar


def intact_checkpoints(folder: Path, identity: str | None = None) -> Iterator[tuple[SealedCheckpoint, Sidecar]]:
    """The checkpoints whose hashes are right, newest first; a damaged one is skipped with a warning.

    Args:
        folder: of the network.
        identity: of the training; None accepts any.
    """
    for path in _newest_first(folder):
        try:
            sidecar = read_sidecar(path)
            if identity not in (None, sidecar.identity):
                raise ValueError("it belongs to another network or experiment")
            checked_size(path.with_suffix(".pt"), most=sidecar.size)
            tensors, sealed = path.with_suffix(".pt").read_bytes(), path.read_bytes()
            _check_tensors(tensors, sidecar)
        except (OSError, ValueError) as error:
            _say_skipped(path.with_suffix(".pt"), error)
            continue
        yield SealedCheckpoint(path.stem, tensors, sealed), sidecar


def _check_tensors(tensors: bytes, sidecar: Sidecar) -> None:
    if len(tensors) < sidecar.size:
        raise ValueError("its tensors are truncated")
    if hashlib.sha256(tensors).hexdigest() != sidecar.sha256:
        raise ValueError("its SHA-256 differs")


def _say_skipped(path: Path, error: Exception) -> None:
    logger.warning("Checkpoint %s is skipped (%s); the previous one is used.", path, error)


def _newest_first(folder: Path) -> list[Path]:
    """The sidecars; their names without suffix are in the order of time."""
    return sorted(folder.glob("epoch-*.json"), key=lambda path: path.stem, reverse=True)


def _are_tensors(values: Any) -> bool:
    return isinstance(values, dict) and all(isinstance(value, Tensor) for value in values.values())


def read_sidecar(path: Path) -> Sidecar:
    """Read the sidecar of a checkpoint.

    Raises:
        ValueError: it is damaged.
    """
    checked_size(path, most=MAX_SIDECAR)
    return _sidecar_of(path.read_bytes())


def _sidecar_of(sealed: bytes) -> Sidecar:
    try:
        content = json.loads(sealed)
        check = content.pop("check")
        if check != json_check(content):
            raise ValueError("its sidecar is damaged")
        records = tuple(record_from_json(record) for record in content.pop("records"))
        sidecar = Sidecar(records=records, **content)
        check_types(sidecar)
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ValueError("its sidecar is damaged") from None
    return sidecar


def newest_records(folder: Path) -> tuple[EpochRecord, ...]:
    """The records of the newest checkpoint with a valid sidecar of this network (for `status`).

    Its tensors and the identity of its training are not checked.
    """
    for path in _newest_first(folder):
        try:
            sidecar = read_sidecar(path)
        except (OSError, ValueError):
            continue
        if sidecar.network == folder.name:
            return sidecar.records
    return ()


def remove_tensors(folder: Path) -> None:
    """Remove the tensors of an eliminated network; its records are kept."""
    fault("checkpoint.release")
    for path in (*folder.glob("epoch-*.pt"), *folder.glob(".epoch-*")):  # temporary files of a killed process
        path.unlink(missing_ok=True)
