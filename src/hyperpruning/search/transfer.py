"""Checkpoints that travel with their jobs, for workers that do not see the run folder.

The driver sends the last checkpoint of a network with its job, and writes the one that comes back into the run folder.
In between, the worker has the checkpoints in a temporary folder, so that what a search leaves in its run folder is the
same. `hyperpruning.search.executors.transfer_executor` does this with any executor.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from hyperpruning.search.ledger import RunFolderError
from hyperpruning.search.worker import Job, JobResult, run_job
from hyperpruning.training.checkpoint import KEEP_CHECKPOINTS, SealedCheckpoint, intact_checkpoints, write
from hyperpruning.training.record import EpochRecord

MB = 1e6  # bytes


@dataclass(frozen=True)
class Parcel:
    """What a worker gets: a job, which names no folder of the driver, and the last checkpoint of its network."""

    job: Job
    checkpoint: SealedCheckpoint | None
    max_mb: float


@dataclass(frozen=True)
class Reply:
    """What a worker sends back.

    Attributes:
        result: of the job; None if it ended because a checkpoint was too large.
        checkpoint: the last one that is not too large; None if there is none.
        too_large: bytes of a later one that is; None if there is none.
    """

    result: JobResult | None
    checkpoint: SealedCheckpoint | None
    too_large: int | None


class _TooLarge(Exception):
    """A checkpoint is too large to travel back."""


def pack(job: Job, max_mb: float) -> Parcel:
    """A job with the last intact checkpoint in the run folder.

    Raises:
        RunFolderError: the checkpoint is too large.
    """
    checkpoint = next((found for found, _ in intact_checkpoints(job.folder)), None)
    if checkpoint is not None and checkpoint.size > max_mb * MB:
        raise _too_large(job.name, checkpoint.size, max_mb)
    return Parcel(replace(job, folder=Path(job.name), token=None), checkpoint, max_mb)


def run_parcel(parcel: Parcel) -> Reply:
    """Do a job in a temporary folder; it ends at the first epoch whose checkpoint is too large to travel back."""
    most = parcel.max_mb * MB
    with tempfile.TemporaryDirectory(prefix="hyperpruning-") as place:
        folder = Path(place) / parcel.job.name
        # as many as two, so that there is an earlier one if the last one is too large
        job = replace(parcel.job, folder=folder, keep_checkpoints=KEEP_CHECKPOINTS)
        if parcel.checkpoint is not None:
            write(parcel.checkpoint, folder)

        def check(record: EpochRecord) -> None:
            if _newest_size(folder) > most:
                raise _TooLarge

        try:
            result = run_job(job, on_epoch=check)
        except _TooLarge:
            result = None
        found = [checkpoint for checkpoint, _ in intact_checkpoints(folder)]
    fitting = next((checkpoint for checkpoint in found if checkpoint.size <= most), None)
    return Reply(result, fitting, found[0].size if found and found[0].size > most else None)


def unpack(reply: Reply, job: Job, max_mb: float) -> JobResult:
    """The result of a job, whose checkpoint is written into the run folder first.

    Raises:
        RunFolderError: the worker had a checkpoint that is too large, or the one that came back is damaged.
    """
    if (checkpoint := reply.checkpoint) is not None:
        try:
            checkpoint.check()
        except ValueError as error:
            raise RunFolderError(
                f"A checkpoint must arrive as it was sent, got a damaged one of {job.name}: {error}. Resume the search."
            ) from None
        write(checkpoint, job.folder, keep=job.keep_checkpoints)
    if reply.too_large is not None:
        raise _too_large(job.name, reply.too_large, max_mb)
    assert reply.result is not None
    return reply.result


def _newest_size(folder: Path) -> int:
    """Bytes of the two files of the newest checkpoint."""
    stem = max((path.stem for path in folder.glob("epoch-*.json")), default=None)
    return 0 if stem is None else sum((folder / f"{stem}{suffix}").stat().st_size for suffix in (".pt", ".json"))


def _too_large(name: str, size: int, max_mb: float) -> RunFolderError:
    return RunFolderError(
        f"A checkpoint that travels with its job must have at most {max_mb:g} MB, got {size / MB:.3g} MB for {name}. "
        "Resume with a larger --transfer-mb (max_mb of transfer_executor), or without it on a disk that all machines "
        "share; the search continues from the last checkpoint that was small enough."
    )
