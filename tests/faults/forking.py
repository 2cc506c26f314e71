"""Searches with faults, each in a process that is forked from this one: a run takes a second, not five.

A script: ``python tests/faults/forking.py FOLDER COUNT PROCESSES`` prints one line for each injected fault, as JSON.
This process must not train: torch's autograd cannot be forked.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from hyperpruning import faults
from hyperpruning.exports import write_models
from hyperpruning.search.driver import search
from hyperpruning.search.ledger import LEDGER, _lines
from hyperpruning.testing.executor import _plan

NEVER = f"driver.decide:{10**9}:kill"


def run(folder: Path) -> None:
    """A whole search with a checkpoint after every step, and the model files of its networks."""
    plan = replace(_plan(), checkpoint_minutes=0)
    write_models(plan, search(plan, folder), folder)


def forked(function: Callable[[], None]) -> int:
    """Call a function in a forked process; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        function()
        code = 0
    except OSError as error:
        code = 2 if error.errno else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """The exit code of a forked process; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def facts(folder: Path) -> set[str]:
    """The facts in the valid lines of a ledger."""
    return {json.dumps(values, sort_keys=True) for _, values in _lines(folder / LEDGER) if values is not None}


def outcome(folder: Path) -> tuple[set[str], dict[str, bytes]]:
    """What a search has found: its facts, and its model files to the byte."""
    return facts(folder), {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def whole(folder: Path) -> dict[str, int]:
    """Run the search without a fault; return how often it comes to each point."""
    written = folder.with_suffix(".json")

    def counted() -> None:
        fault, before = faults.arm(NEVER), set(sys.modules)
        run(folder)
        written.write_text(json.dumps([fault.hits, [name for name in sys.modules if name not in before]]))

    assert ended(forked(counted)) == 0
    hits, modules = json.loads(written.read_text())
    for name in modules:  # once here, not in each process
        with suppress(Exception):
            importlib.import_module(name)
    return hits


def cases(hits: dict[str, int], count: int) -> list[str]:
    """So many faults, or a few more: each kind at each point, at occurrences that are spread over the search."""
    pairs = [(point, kind) for point in hits for kind in faults.KINDS[: 6 if point in faults.WRITING else 3]]
    if count < len(pairs):
        chosen = pairs[:: len(pairs) // count][:count]
        return [f"{point}:{1 + hits[point] // 2}:{kind}" for point, kind in chosen]
    each = 1
    while sum(min(each, hits[point]) for point, _ in pairs) < count and each < max(hits.values()):
        each += 1
    return [f"{point}:{1 + number}:{kind}" for point, kind in pairs for number in spread(hits[point], each)]


def spread(total: int, count: int) -> list[int]:
    """So many of the numbers below a total, the first and the last among them."""
    return sorted({round(index * (total - 1) / max(1, count - 1)) for index in range(min(count, total))})


def one_case(folder: Path, text: str, expected: Path) -> None:
    """Search with a fault, and again without; raise AssertionError unless the result is the expected one."""

    def with_fault() -> None:
        faults.arm(text)
        run(folder)

    code, kind = ended(forked(with_fault)), text.rpartition(":")[2]
    assert code == {"kill": -9, "tear": -9, "ENOSPC": 2, "EIO": 2}.get(kind, 0), f"{text} ended with {code}"
    run(folder)
    assert outcome(folder) == outcome(expected), f"{text} has another result"
    if kind in ("kill", "ENOSPC", "EIO"):
        assert (folder / LEDGER).read_bytes() == (expected / LEDGER).read_bytes(), f"{text} has another order"


def main(folder: Path, count: int, processes: int) -> int:
    """Inject faults; return the number of those that changed the result."""
    torch.set_num_threads(1)
    expected, running, failed, number = folder / "expected", {}, 0, 0
    todo = cases(whole(expected), count)
    while todo or running:
        while todo and len(running) < processes:
            text, place = todo.pop(), folder / f"case{number}"
            number += 1
            running[forked(lambda text=text, place=place: one_case(place, text, expected))] = text
        pid, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        failed += code != 0
        sys.stdout.write(json.dumps({"fault": running.pop(pid), "same": code == 0}) + "\n")
        sys.stdout.flush()
    return failed


if __name__ == "__main__":
    sys.exit(min(1, main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
