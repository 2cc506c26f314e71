"""Random damage to the files of a search, and what the commands make of it.

A script that tests/test_corruptions.py runs: it makes a small search once; every case copies its files, damages one of
them and runs one command in a child process, whose processor time and memory it measures. A case is determined by its
number. It prints a line for each fault; the last line is the number of cases by outcome.

    PYTHONPATH=src:tests python tests/corruptions.py --first 137 --count 1 --show
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from damage import damage
from hyperpruning.api import hyperprune, model_spectrum
from hyperpruning.cli import app
from hyperpruning.deploy.model_file import load_model, save_model
from hyperpruning.files import weights_sha256
from hyperpruning.lyapunov.spectrum import Spectrum
from hyperpruning.models.sequence_model import Forecaster, SequenceClassifier
from hyperpruning.report import figures
from small import WORDS, small

SECONDS, BYTES, WALL = 5.0, 2**30, 120  # processor time and memory of a command; wall clock for one that waits
COMMANDS = {  # the commands that read a file, by its suffix
    ".jsonl": ("status", "report", "resume"),
    ".toml": ("status", "resume", "evaluate", "spectrum"),
    ".safetensors": ("load_model", "load_model", "evaluate", "spectrum", "report", "resume"),
    ".json": ("status", "report", "resume"),
    ".pt": ("report", "resume", "resume"),
    ".html": ("report", "resume"),
    "": ("status", "resume"),  # the lock
    ".npz": ("Spectrum.load",),
}
SHARES = {".jsonl": 30, ".json": 15, ".pt": 10, ".toml": 12, ".safetensors": 20, ".npz": 10, ".html": 2, "": 1}


@dataclass(frozen=True)
class Outcome:
    """What a command did: exit code, what it printed, processor time, memory above that at its start."""

    code: int
    out: str
    err: str
    seconds: float
    memory: int


def made(folder: Path) -> Path:
    """A finished search with a spectrum file and the model files of other tasks, and the text beside it."""
    text = folder / "text"
    text.mkdir()
    draw = random.Random(0)
    for split in ("train", "valid", "test"):
        (text / f"{split}.txt").write_text("\n".join(" ".join(draw.choices(WORDS, k=8)) for _ in range(30)))
    experiment = small(
        text,
        training={"epochs": 2, "batch": 4, "threads": 1},
        search={"n_candidates": 3, "ask_batch": 3, "rungs": (1,), "keep": (1,)},
    )
    hyperprune(experiment, folder / "run")
    model_spectrum(folder / "run", steps=8, warmup=2, sequences=2).save(folder / "run" / "spectrum.npz")
    sizes = {"cell": "gru", "hidden": 6}
    for kind, network in (
        ("classification", SequenceClassifier(2, 3, **sizes)),
        ("forecasting", Forecaster(2, 4, **sizes)),
    ):
        description = {"kind": kind, "model": network.sizes, "sha256": weights_sha256(network.state_dict())}
        save_model(folder / "run" / f"{kind}.safetensors", network.state_dict(), description)
    return folder / "run"


def call(command: str, folder: Path, path: Path) -> None:
    """Run a command of the command line, or a call of the library that prints a hash of what it returns."""
    model = path if path.suffix == ".safetensors" else folder
    match command:
        case "load_model":
            print(weights_sha256(load_model(path).state_dict()))
        case "Spectrum.load":
            print(weights_sha256({"growth": Spectrum.load(path).growth}))
        case "evaluate":
            app([command, str(model)])
        case "spectrum":
            probe = ["--steps", "8", "--warmup", "2", "--sequences", "2", "--out", str(folder / "made")]
            app([command, str(model), *probe])
        case "resume":
            app([command, str(folder), "--workers", "1"])
        case _:
            app([command, str(folder)])


def child(command: str, folder: Path, path: Path, place: Path) -> None:
    """Run a command in this process and end it."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(place / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    data = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (data + 2 * BYTES,) * 2)
    code = 0
    try:
        call(command, folder, path)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except (ValueError, OSError) as error:  # what load_model and Spectrum.load document
        print(f"{error}.", file=sys.stderr)
        code = 2
    except BaseException as error:
        print(f"Traceback: {error!r}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def outcome(command: str, folder: Path, path: Path, place: Path) -> Outcome:
    """Run a command in a child process."""
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    process = os.fork()
    if process == 0:
        signal.alarm(WALL)
        child(command, folder, path, place)
    _, status, used = os.wait4(process, 0)
    texts = [(place / name).read_text(errors="replace") for name in ("out", "err")]
    seconds, memory = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 - before
    return Outcome(os.waitstatus_to_exitcode(status), *texts, seconds, memory)


def fault(found: Outcome, whole: Outcome, command: str, forged: bool) -> str:
    """What is wrong with an outcome; "" for nothing."""
    said = [line for line in found.err.splitlines() if line.strip()]
    if found.code not in (0, 2):
        return f"exit code {found.code}"
    if found.seconds > SECONDS or found.memory > BYTES:
        return f"{found.seconds:.1f} s, {found.memory / BYTES:.2f} GiB"
    if any(word in found.err for word in ("Traceback", "bug in", "Out of memory", "Warning:")):
        return "no sentence"
    if found.code == 2 and (not said or not said[-1].rstrip().endswith((".", ")", "?", "run"))):
        return "no sentence"
    compared = command in ("evaluate", "spectrum", "load_model") or found.out.startswith("finished")
    if found.code == 0 and not forged and compared and found.out != whole.out and not said:
        return "another result without a warning"
    return ""


def interrupt(folder: Path, draw: random.Random) -> None:
    """Make it a search that was killed: without its last results, which its checkpoints still have."""
    ledger = folder / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[: draw.randrange(1, len(lines))]))
    for name in ("winner.safetensors", "dense.safetensors", "report.html"):
        (folder / name).unlink()


class Cases:
    """A small search in a temporary folder, and the cases made of it."""

    def __init__(self, place: Path) -> None:
        self.place, self.run = place, made(place)
        files = sorted(path.relative_to(self.run) for path in self.run.rglob("*") if path.is_file())
        self.files = {suffix: [path for path in files if path.suffix == suffix] for suffix in COMMANDS}

    @cache  # noqa: B019 (one object lives as long as the script)
    def whole(self, command: str, path: Path) -> Outcome:
        """What a command does with the undamaged files."""
        folder = shutil.copytree(self.run, self.place / "case" / "run")
        found = outcome(command, folder, folder / path, self.place)
        shutil.rmtree(self.place / "case")
        return found

    def case(self, number: int) -> tuple[str, str, Outcome]:
        """Run a case: what it was, its fault ("" for none), its outcome."""
        draw = random.Random(number)
        (suffix,) = draw.choices(list(SHARES), list(SHARES.values()))
        path, command = draw.choice(self.files[suffix]), draw.choice(COMMANDS[suffix])
        whole = self.whole(command, path if suffix in (".safetensors", ".npz") else Path("ledger.jsonl"))
        folder = shutil.copytree(self.run, self.place / "case" / "run")
        half = suffix in (".jsonl", ".json", ".pt") and draw.random() < 0.5
        if half:
            interrupt(folder, draw)
        how, forged = damage(folder / path, draw)
        found = outcome(command, folder, folder / path, self.place)
        wrong = fault(found, whole, command, forged or half)
        if sorted(each.name for each in (self.place / "case").iterdir()) != ["run"]:
            wrong = wrong or "a file outside the run folder"
        if command == "resume" and found.code == 0 and not forged and not wrong:
            for name in ("winner.safetensors", "dense.safetensors"):
                if (folder / name).read_bytes() != (self.run / name).read_bytes():
                    wrong = f"another {name}"
        shutil.rmtree(self.place / "case")
        return f"case {number}: {command} after {how} of {path}{' of half a search' * half}", wrong, found


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--first", type=int, default=0)
    arguments.add_argument("--count", type=int, default=60)
    arguments.add_argument("--show", action="store_true", help="print what every command said")
    arguments.add_argument("--draw", action="store_true", help="draw the figures of the report, too: slow")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        cases = Cases(Path(place))
        if not options.draw:
            for name in ("bracket", "curves", "dense_spectra", "candidate_spectra", "scatter", "densities"):
                setattr(figures, name, lambda *data, **options: "<svg></svg>")
        for number in range(options.first, options.first + options.count):
            name, wrong, found = cases.case(number)
            counts["fault" if wrong else {0: "harmless or healed", 2: "refused"}[found.code]] += 1
            if wrong or options.show:
                print(f"{name}: {wrong or 'fine'} ({found.code}, {found.seconds:.2f} s): {found.err or found.out}")
    print(dict(counts))


if __name__ == "__main__":
    main()
