"""The run folder and its append-only ledger.

::

    runs/mine/
      experiment.toml       the settings of the search
      ledger.jsonl          its results: one line for each fact (search/history.py), in an order that does not depend
                            on workers or crashes
      networks/c01/         the checkpoints of a network (training/checkpoint.py)
      lock                  held by the one driver of the search

A line is JSON with a checksum; a torn or damaged line is ignored, and its content is computed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from hyperpruning.faults import fault
from hyperpruning.search.fact_json import from_json, to_json
from hyperpruning.search.history import DENSE, SMALL, Fact, History, candidate_and_seed

logger = logging.getLogger(__name__)
LEDGER = "ledger.jsonl"
MAX_LINE = 2**24  # bytes; a longer line ends the ledger


class RunFolderError(RuntimeError):
    """A run folder that cannot be used: it is in use, belongs to another search, or has no ledger."""


def read(folder: Path, *, warn: bool = False) -> History:
    """Read the ledger of a run folder, also while a search writes it.

    Args:
        folder: of the run.
        warn: log a warning for each damaged line.

    Raises:
        RunFolderError: there is no ledger, or it is from another version.
    """
    return LedgerReader(folder, warn=warn).read()


class LedgerReader:
    """Reads a ledger again and again, each time only what is new; `stamp` changes with the file.

    Args:
        folder: of the run.
        warn: log a warning for each damaged line.
    """

    def __init__(self, folder: Path, *, warn: bool = False) -> None:
        self.path, self._warn = folder / LEDGER, warn
        self._start_again()

    def _start_again(self) -> None:
        self._history, self._number, self._offset, self._end, self._damaged = History(), 0, 0, b"", False
        self.stamp: tuple[int, int, int] | None = None

    def read(self) -> History:
        """The content of the ledger so far; the object of an earlier call grows, unless the ledger was replaced.

        Raises:
            RunFolderError: there is no ledger, or it is from another version.
        """
        for _ in self.new_facts():
            pass
        _check_candidates(self._history, self.path)
        if not self._damaged:
            return self._history
        whole = self._history.copy()
        _remove_orphans(whole)
        return whole

    def new_facts(self) -> Iterator[Fact]:
        """The facts that were appended since the last call, all at the first; after a replacement all again.

        Raises:
            RunFolderError: as `read`.
        """
        if not self.path.is_file():
            raise RunFolderError(
                f"A run folder must have a {LEDGER}, got {self.path.parent} without one. Give the --out of a search."
            )
        with self.path.open("rb") as file:
            status = os.fstat(file.fileno())
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp == self.stamp:
                return
            if not self._continues(file, stamp):
                self._start_again()
            self.stamp = stamp
            file.seek(self._offset)
            while (line := file.readline(MAX_LINE)).endswith(b"\n"):
                fact = self._fact(line)
                self._offset, self._end = self._offset + len(line), line
                if fact is not None:
                    self._history.add(fact)
                    yield fact

    def _continues(self, file: BinaryIO, stamp: tuple[int, int, int]) -> bool:
        """Whether the ledger has only grown: the same file, longer, with the last line that was read in its place."""
        if self.stamp is None or stamp[0] != self.stamp[0] or stamp[2] <= self.stamp[2]:
            return False
        file.seek(self._offset - len(self._end))
        return file.read(len(self._end)) == self._end

    def _fact(self, line: bytes) -> Fact | None:
        self._number += 1
        values = _values(line)
        if values is not None:
            try:
                return from_json(values)
            except ValueError as error:
                number = self._number
                self._start_again()
                raise RunFolderError(
                    f"Line {number} of {self.path} is from another version: {error} Use the version that started the "
                    "search."
                ) from None
        self._damaged = True
        if self._warn:
            logger.warning(
                "Line %d of %s is damaged and ignored. The search computes its content again.", self._number, self.path
            )
        return None


def sha256(folder: Path) -> str:
    """The hash of the complete lines of a ledger."""
    digest = hashlib.sha256()
    for line in _complete_lines(folder / LEDGER):
        digest.update(line)
    return digest.hexdigest()


def _check_candidates(history: History, path: Path) -> None:
    """Check that no candidate is beyond the number in the header."""
    count = None if history.header is None else history.header.identity.get("n_candidates")
    beyond = [name for name in history.candidates if type(count) is int and int(name[1:]) > count]
    if beyond:
        raise RunFolderError(
            f"A ledger must have the {count} candidates of its first line, got {beyond[0]} in {path}. Start a new run."
        )


def _remove_orphans(history: History) -> None:
    """Remove what depends on a damaged line, a candidate's or that of a best epoch; it is recorded again with it."""

    def known(*names: str) -> bool:
        return all(candidate_and_seed(name)[0] in (DENSE, SMALL, *history.candidates) for name in names)

    for by_network in (history.epochs, history.finals, history.failures):
        for name in [name for name in by_network if not known(name)]:
            del by_network[name]
    for name, final in list(history.finals.items()):
        if final.best_epoch not in history.epochs.get(name, {}):
            del history.finals[name]
    history.promotions = {key: tuple(filter(known, names)) for key, names in history.promotions.items()}
    history.stops = {criterion: found for criterion, found in history.stops.items() if known(found.network)}
    history.winners = {criterion: name for criterion, name in history.winners.items() if known(name)}
    history.rounds = {
        key: found for key, found in history.rounds.items() if known(*found.kept, *found.dropped, *found.scores)
    }


def compare(recorded: Mapping[str, Any], current: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The differences between recorded and current settings, each as "name is old in the ledger and new now"."""
    found: list[str] = []
    for key in sorted({*recorded, *current}):
        old, new = recorded.get(key), current.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += compare(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} is {old!r} in the ledger and {new!r} now")
    return found


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder for one search.

    Raises:
        RunFolderError: another search has locked it.
    """
    from filelock import FileLock, Timeout  # imported here: a search without a lock does not need the package

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise RunFolderError(
            f"A run folder must be a folder, got {folder}, which is none. Give another --out."
        ) from None
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunFolderError(
            f"A run folder must be used by one search at a time, got {folder}, which is in use. Wait, or give another "
            "--out."
        ) from None
    try:
        yield
    finally:
        lock.release()


class Ledger:
    """Appends facts; each is on disk when `append` returns. A line that a crash left incomplete is removed first."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER
        if self.path.exists():
            _cut_torn_line(self.path)

    def append(self, fact: Fact) -> None:
        """Write one line; if it cannot be written completely, the ledger does not change."""
        values = to_json(fact)
        line = (json.dumps(values | {"check": _check(values)}, allow_nan=False) + "\n").encode()
        with self.path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                line = fault("ledger.append", line)
                written = 0
                while written < len(line):
                    written += file.write(line[written:])
                fault("ledger.fsync")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise


def _values(line: bytes) -> dict[str, Any] | None:
    """The content of a line; None for a damaged one."""
    try:
        values: dict[str, Any] = json.loads(line)
        if values.pop("check") != _check(values):
            raise ValueError
        if rb"\ud" in line:  # half of a surrogate pair is no text
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    return values


def _complete_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while (line := file.readline(MAX_LINE)).endswith(b"\n"):
            yield line


def _cut_torn_line(path: Path) -> None:
    complete = sum(map(len, _complete_lines(path)))
    if complete < path.stat().st_size:
        fault("ledger.cut")
        os.truncate(path, complete)


def _check(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
