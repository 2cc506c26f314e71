"""What the command says when something is wrong: a sentence and an exit code, no traceback."""

from __future__ import annotations

import errno
import functools
import shlex
import tempfile
import traceback
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from rich.console import Console

from hyperpruning.kernels import out_of_memory
from hyperpruning.search.ledger import RunFolderError

err = Console(stderr=True, highlight=False)


class Terminated(BaseException):
    """SIGTERM: handled like Ctrl-C."""


def terminate(number: int, frame: FrameType | None) -> None:
    """The handler of SIGTERM."""
    raise Terminated


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose errors are sentences with an exit code, never tracebacks."""

    @functools.wraps(function)
    def guard(*args: Any, **options: Any) -> None:
        try:
            function(*args, **options)
        except (typer.Exit, SystemExit):  # the latter from rich, when nobody reads on
            raise
        except BaseException as error:
            raise typer.Exit(explain(error)) from None

    return guard


def explain(error: BaseException, folder: Path | None = None) -> int:
    """Say what went wrong, in a sentence, and how to go on with a run folder; returns the exit code."""
    go_on = f"Continue with: hyperprune resume {shlex.quote(str(folder or 'RUN_FOLDER'))}"
    if isinstance(error, KeyboardInterrupt | Terminated):
        _say(f"Stopped; every finished epoch is kept. {go_on}" if folder else "Stopped.")
        return 130 if isinstance(error, KeyboardInterrupt) else 143
    if isinstance(error, BrokenProcessPool):
        _say(f"A worker process was killed, perhaps out of memory. Use fewer --workers. {go_on}")
        return 1
    if isinstance(error, MemoryError) or out_of_memory(error) or "can't allocate memory" in str(error):
        _say("Out of memory. Make the network smaller in [model], or set the device to cpu if it is a GPU.")
        return 2
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _say(f"No space left on the disk; nothing is lost. Free some space. {go_on}")
        return 2
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        _say(f"{error.filename} cannot be read or written ({error.strerror}). Give another path.")
        return 2
    if isinstance(error, ValueError | OSError | RunFolderError):
        _say(str(error))
        return 2
    with tempfile.NamedTemporaryFile("w", prefix="hyperprune-", suffix=".txt", delete=False) as file:
        file.write("".join(traceback.format_exception(error)))
    _say(f"This is a bug in hyperprune ({type(error).__name__}: {error}). Please report it with {file.name}.")
    return 1


def _say(sentence: str) -> None:
    err.print(sentence, soft_wrap=True, markup=False)
