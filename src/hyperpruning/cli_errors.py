"""The errors of the command: a sentence and an exit code instead of a traceback."""

from __future__ import annotations

import errno
import functools
import math
import shlex
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from rich.console import Console

from hyperpruning.kernels import out_of_memory
from hyperpruning.search.executors import ClusterError
from hyperpruning.search.ledger import RunFolderError

err = Console(stderr=True, highlight=False, markup=False, emoji=False)


TIME_IS_UP = 3  # exit code of a search that max_hours has ended: it can be continued


class Terminated(BaseException):
    """Raised by SIGTERM, which is handled like Ctrl-C."""


_last_signal = [-math.inf]


def interrupt(number: int, frame: FrameType | None) -> None:
    """The handler of SIGINT and SIGTERM; within a second after one, others are ignored, so that it can be handled."""
    before, _last_signal[0] = _last_signal[0], time.monotonic()
    if _last_signal[0] - before >= 1:
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command so that an error becomes a sentence and an exit code, never a traceback."""

    @functools.wraps(function)
    def guard(*args: Any, **options: Any) -> None:
        try:
            function(*args, **options)
        except (typer.Exit, SystemExit):  # rich raises SystemExit when the output pipe is closed
            raise
        except BaseException as error:
            raise typer.Exit(explain(error)) from None

    return guard


def explain(error: BaseException, folder: Path | None = None) -> int:
    """Print the error in one sentence, with the command that continues the run; return the exit code."""
    continue_hint = f"Continue with: hyperprune resume {shlex.quote(str(folder or 'RUN_FOLDER'))}"
    if isinstance(error, KeyboardInterrupt | Terminated):
        kept = "Stopped; what was trained is kept up to the last checkpoint."
        _say(f"{kept} {continue_hint}" if folder else "Stopped.")
        return 130 if isinstance(error, KeyboardInterrupt) else 143
    if isinstance(error, BrokenExecutor):
        _say(f"A worker was killed, possibly because memory was full. Use fewer --workers. {continue_hint}")
        return 1
    if isinstance(error, MemoryError) or out_of_memory(error) or "can't allocate memory" in str(error):
        _say("Out of memory. Make the network smaller in [model], or use the device cpu if it is a GPU.")
        return 2
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _say(f"No space left on the disk; no result is lost. Free some space. {continue_hint}")
        return 2
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        _say(f"{error.filename} cannot be read or written ({error.strerror}). Give another path.")
        return 2
    if isinstance(error, ValueError) and "embedded null" in str(error):
        _say("A path must not have a null character. Give another one in [data] folder or on the command line.")
        return 2
    if isinstance(error, ValueError | OSError | RunFolderError | ClusterError):
        _say(str(error))
        return 2
    with tempfile.NamedTemporaryFile("w", prefix="hyperprune-", suffix=".txt", delete=False) as file:
        file.write("".join(traceback.format_exception(error)))
    _say(f"This is a bug in hyperprune ({type(error).__name__}: {error}). Please report it with {file.name}.")
    return 1


def say_time_is_up(hours: float, folder: Path) -> int:
    """Say how to continue a search whose time is used up; return the exit code."""
    _say(
        f"Stopped after {hours:g} hours (max_hours); the running step is in a checkpoint. Continue with: hyperprune "
        f"resume {shlex.quote(str(folder))}"
    )
    return TIME_IS_UP


def _say(sentence: str) -> None:
    err.print(sentence, soft_wrap=True)
