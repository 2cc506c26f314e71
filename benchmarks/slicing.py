"""A search in slices: it stops before its time is up, and one small folder carries it to the next machine.

The ledger at the end is the same, byte for byte, however often a search was stopped: a slice ends after an epoch's
checkpoint, and a search is a function of its plan and its ledger. What is carried is the ledger and as many
checkpoints as fit; the others are trained again.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from hyperpruning.files import write_atomic
from hyperpruning.search.history import DENSE, History
from hyperpruning.search.ledger import LEDGER, compare
from hyperpruning.search.plan import Plan
from hyperpruning.search.schedulers import survivors
from hyperpruning.search.worker import Job, JobResult, run_job
from hyperpruning.training.record import EpochRecord

PART, PARTS = 16 * 2**20, 8  # what carries the state: bytes in a file, files


class OutOfTimeError(Exception):
    """The slice is over; not an error of the search."""


class Budget:
    """The time of a slice. It is over when one more epoch, as long as the longest so far, would not fit.

    Args:
        seconds: of the slice, from now on.
        clock: tells seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.clock, self.last = clock, clock()
        self.seconds, self.start = seconds, self.last
        self.epochs, self.longest = 0, 0.0

    @property
    def mean(self) -> float:
        """Seconds of an epoch so far; 0 when there was none."""
        return (self.last - self.start) / max(1, self.epochs)

    def spent(self, epochs: int = 1) -> float:
        """Count an epoch, or none where a network was only set up; return the seconds, with all that follows it."""
        before, self.last = self.last, self.clock()
        self.epochs, self.longest = self.epochs + epochs, max(self.longest, self.last - before)
        return self.last - before

    def check(self) -> None:
        """Stop here, unless there is time for another epoch; every slice trains one at least.

        Raises:
            OutOfTimeError: there is none.
        """
        if self.epochs and self.clock() + self.longest > self.start + self.seconds:
            raise OutOfTimeError


class OneByOne(Executor):
    """Does a job when its result is asked for, and stops after an epoch when the time is over.

    Unlike an `on_fact` it also sees epochs that are in the ledger but are trained again for want of a checkpoint.

    Args:
        budget: of the slice.
        tell: is called with the name of a network, each record that it trains, and the seconds that it took.
    """

    def __init__(self, budget: Budget, tell: Callable[[str, EpochRecord, float], None]) -> None:
        self.budget, self.tell = budget, tell

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Remember the job."""
        assert fn is run_job
        return _Deferred(self, *args)


class _Deferred(Future[JobResult]):
    def __init__(self, executor: OneByOne, job: Job) -> None:
        super().__init__()
        self.executor, self.job = executor, job

    def result(self, timeout: float | None = None) -> JobResult:
        """Train; what it raises goes through the search, which records nothing of an unfinished job."""
        self.executor.budget.check()
        self.before = checkpoint(self.job.folder)[0]
        return run_job(self.job, on_epoch=self._after)

    def _after(self, record: EpochRecord) -> None:
        if record.epoch <= self.before:  # not trained but read
            return
        self.executor.tell(self.job.name, record, self.executor.budget.spent(min(1, record.epoch)))
        if record.epoch < self.job.until:  # else the job is done: first into the ledger with it
            self.executor.budget.check()


def needed(plan: Plan, history: History) -> list[str]:
    """The networks that will be trained on: the dense one, and the candidates that some criterion has kept."""
    kept = {name for names in survivors(plan, history).values() for name in names}
    return [name for name in [DENSE, *sorted(kept)] if name not in {*history.finals, *history.failures}]


def checkpoint(folder: Path) -> tuple[int, list[Path]]:
    """A network's newest checkpoint: its epoch and its files; -1 and none where there is none."""
    whole = [path for path in sorted(folder.glob("epoch-*.json")) if path.with_suffix(".pt").is_file()]
    return (int(whole[-1].stem.split("-")[1]), [whole[-1], whole[-1].with_suffix(".pt")]) if whole else (-1, [])


def pack(folder: Path, state: Path, names: Sequence[str], limit: int) -> list[str]:
    """Write what the next slice needs: the ledger, and the newest checkpoints of these networks as far as they fit.

    Args:
        folder: of the run.
        state: receives files of `PART` bytes at most, in place of those before.
        names: of networks; the longer one was trained, the sooner it is taken.
        limit: bytes in all.

    Returns:
        the networks whose checkpoints are in.

    Raises:
        ValueError: not even the ledger fits.
    """
    limit, buffer, packed = min(limit, PART * PARTS), io.BytesIO(), list[str]()
    found = {name: checkpoint(folder / "networks" / name) for name in names}
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.write(folder / LEDGER, LEDGER, zipfile.ZIP_DEFLATED)
        for name, (_, files) in sorted(found.items(), key=lambda item: -item[1][0]):
            space = limit - buffer.tell() - 1024 * (len(packed) + 2)  # the archive's own lines about its files
            if files and sum(path.stat().st_size for path in files) <= space:
                for path in files:
                    archive.write(path, str(path.relative_to(folder)))
                packed.append(name)
    if buffer.tell() > limit:
        raise ValueError(
            f"The state holds the ledger at least, and packed it has {buffer.tell():,} bytes where the limit is "
            f"{limit:,}: raise --state-limit, or carry {folder / LEDGER} yourself."
        )
    _write_parts(state, buffer.getvalue())
    return packed


def _write_parts(state: Path, content: bytes) -> None:
    """Write the new files before the old ones go: a crash between leaves both, and `unpack` takes a whole one."""
    state.mkdir(parents=True, exist_ok=True)
    count, name = -(-len(content) // PART), hashlib.sha256(content).hexdigest()[:16]
    parts = {f"state-{name}-{part + 1}-of-{count}": content[part * PART : (part + 1) * PART] for part in range(count)}
    for part, piece in parts.items():
        write_atomic(state / part, piece)
    for path in state.glob("state-*-of-*"):
        if path.name not in parts:
            path.unlink()


def unpack(plan: Plan, state: Path, folder: Path) -> None:
    """Bring a run folder up to the state; one that is ahead of it (a machine's that was kept) stays as it is.

    Raises:
        ValueError: there are files of a state, and no whole one; or state or run folder are of another search.
    """
    content = _read_parts(state)
    if content is None:
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        carried, there = archive.read(LEDGER), b""
        begun, asked = json.loads(carried.partition(b"\n")[0])["identity"], json.loads(json.dumps(plan.identity()))
        if differences := compare(begun, asked):
            raise ValueError(
                f"A state belongs to one search, and {state} to another ({'; '.join(differences)}): give another "
                "--state, or the options that it was begun with."
            )
        if (folder / LEDGER).is_file():
            there = (folder / LEDGER).read_bytes()
        ahead = there.startswith(carried)
        if not ahead and not carried.startswith(there):
            raise ValueError(
                f"A scratch folder is that of the state, and {folder} has another ledger than {state}: "
                "give another --scratch, or remove it."
            )
        archive.extractall(folder, [name for name in archive.namelist() if not (ahead and (folder / name).exists())])


def _read_parts(state: Path) -> bytes | None:
    """The newest whole state; None where there is none at all."""
    paths = sorted(state.glob("state-*-of-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for name in dict.fromkeys(path.name.split("-")[1] for path in paths):
        parts = sorted(state.glob(f"state-{name}-*"), key=lambda path: int(path.name.split("-")[2]))
        content = b"".join(part.read_bytes() for part in parts)
        if hashlib.sha256(content).hexdigest()[:16] == name:
            return content
    if paths:
        raise ValueError(
            f"A state is whole or not there, and the files in {state} are damaged or not all there: carry them again, "
            "or remove them to begin anew."
        )
    return None
