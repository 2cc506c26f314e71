"""kernel.c becomes a shared library at its first use, by the system's C compiler; the result is kept in a cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

VARIABLE = "HYPERPRUNING_CC"  # names the compiler, with options if needed: "gcc-13", "python -m ziglang cc"
SOURCE = Path(__file__).with_name("kernel.c")
FLAGS = ("-std=c99", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
COMPILERS = ("cc", "gcc", "clang")
SECONDS = 120  # that a compiler may take


class CompilerError(RuntimeError):
    """There is no kernel: no compiler was found, or it failed. The message is one sentence and a remedy."""


def find_compiler() -> list[str]:
    """The compiler's command: `HYPERPRUNING_CC`, otherwise the first of cc, gcc, clang on the path.

    Raises:
        CompilerError: there is none.
    """
    if named := shlex.split(os.environ.get(VARIABLE, "")):
        return named
    for name in COMPILERS:
        if path := shutil.which(name):
            return [path]
    raise CompilerError(
        f"The kernel of the decoder needs a C compiler, got none of {', '.join(COMPILERS)} on the path. Install gcc or "
        f"clang, or name a compiler in {VARIABLE}."
    )


def cache_folder() -> Path:
    """`hyperpruning` under XDG_CACHE_HOME, by default ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hyperpruning"


def compile_kernel(folder: Path | None = None, *, more_flags: tuple[str, ...] = ()) -> Path:
    """Compile kernel.c unless the cache has it; return the path of the library.

    The name of the library has a hash of source, flags, the compiler's command and version, and the machine. It is
    written atomically: processes that compile at the same time do not disturb each other.

    Args:
        folder: of the cache; default `cache_folder()`, or a temporary folder if that cannot be written.
        more_flags: for the compiler, e.g. sanitizers.

    Raises:
        CompilerError: there is no compiler, or it fails.
    """
    compiler, flags = find_compiler(), (*FLAGS, *more_flags)
    version = _run([*compiler, "--version"])
    parts = [SOURCE.read_text(), *flags, *compiler, version, platform.system(), platform.machine()]
    name = f"kernel-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:24]}.so"
    folder = _writable(folder or cache_folder())
    path = folder / name
    if not path.is_file():
        with tempfile.TemporaryDirectory(dir=folder, prefix=".kernel-") as temporary:
            output = Path(temporary) / name
            _run([*compiler, *flags, str(SOURCE), "-o", str(output)])
            os.replace(output, path)
    return path


@functools.cache
def load_kernel(path: Path) -> ctypes.CDLL:
    """The library of a path, with the types of its functions.

    Raises:
        CompilerError: the file is no library that this machine can load.
    """
    try:
        library = ctypes.CDLL(str(path))
        library.hp_has_build.argtypes = [ctypes.c_int32]
        library.hp_product.argtypes = [ctypes.c_int32, *[ctypes.c_void_p] * 4]
        library.hp_product.restype = None
        library.hp_step.argtypes = [ctypes.c_void_p, ctypes.c_int32, *[ctypes.c_void_p] * 3]
    except (OSError, AttributeError) as error:
        raise CompilerError(
            f"The compiled kernel must be a library of this machine, got {path} ({error}). Remove it, or name another "
            f"compiler in {VARIABLE}."
        ) from None
    return library


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompilerError(_failed(command, str(error))) from None
    if done.returncode:
        raise CompilerError(_failed(command, (done.stderr or done.stdout).strip()[:2000] or "no message"))
    return done.stdout


def _failed(command: list[str], message: str) -> str:
    return (
        f"The C compiler must compile the kernel of the decoder, got this from {shlex.join(command[:1])}: {message}. "
        f"Name another compiler in {VARIABLE}."
    )


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="hyperpruning-"))
