"""How far a search has come, read from its folder while it runs; cheap enough to be asked twice a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hyperpruning.report.run import Run, judge_name, read_run
from hyperpruning.search.plan import DENSE
from hyperpruning.tasks.language_modelling import perplexity
from hyperpruning.training.checkpoint import newest_records
from hyperpruning.training.epochs import EpochRecord


@dataclass(frozen=True)
class Network:
    """One network's progress.

    Attributes:
        name: "dense" or a candidate's.
        method: in words; "none" for the dense network.
        epochs: trained so far.
        perplexity: on the validation text after the last of them; None before the first evaluation.
        verdicts: by objective "in", "out", "chosen" or "failed"; empty for the dense network.
    """

    name: str
    method: str
    epochs: int
    perplexity: float | None
    verdicts: Mapping[str, str]

    @property
    def alive(self) -> bool:
        """Whether some judge still holds on to it (the dense network always is)."""
        return self.name == DENSE or any(verdict in ("in", "chosen") for verdict in self.verdicts.values())


@dataclass(frozen=True)
class Status:
    """How far a search has come.

    Attributes:
        stage: in words.
        networks: the dense one first, then the candidates by name.
        judges: the objectives.
        done: epochs trained, all networks together.
        planned: epochs that will have been trained at the end; an estimate while judges can still differ.
        epochs: length of a full training.
        seconds: mean of an epoch on one worker; None before the first one.
        finished: nothing is left to do.
    """

    stage: str
    networks: tuple[Network, ...]
    judges: tuple[str, ...]
    done: int
    planned: int
    epochs: int
    seconds: float | None
    finished: bool

    def left(self, workers: int = 1) -> float | None:
        """Seconds until the end, about."""
        return None if self.seconds is None else max(0, self.planned - self.done) * self.seconds / workers


def status(folder: Path) -> Status:
    """Read how far a search has come, from its ledger and the newest checkpoints of the networks in training.

    Raises:
        RunFolderError: the folder holds no search.
    """
    run = read_run(folder)
    records = {name: _records(run, name) for name in (DENSE, *run.history.candidates)}
    trained = {name: max(0, len(found) - 1) for name, found in records.items()}
    timed = [record.seconds for found in records.values() for record in found if record.seconds > 0]
    done = sum(trained.values())
    return Status(
        stage=_stage(run),
        networks=tuple(
            Network(name, run.method(name), trained[name], _last(found), {} if name == DENSE else _verdicts(run, name))
            for name, found in records.items()
        ),
        judges=tuple(run.judges),
        done=done,
        planned=done if run.finished else max(done, _planned(run, trained)),
        epochs=run.epochs,
        seconds=sum(timed) / len(timed) if timed else None,
        finished=run.finished,
    )


def _last(records: Sequence[EpochRecord]) -> float | None:
    return perplexity(records[-1].valid_loss) if records else None


def _records(run: Run, name: str) -> Sequence[EpochRecord]:
    """The longer of what the ledger and the newest checkpoint know; the latter also knows how long epochs took."""
    folder = run.folder / "networks" / name
    beside = _newest(folder, folder.stat().st_mtime_ns) if folder.is_dir() else ()
    stated = run.history.epochs.get(name, {})
    return beside if len(beside) > run.history.trained(name) else [stated[epoch] for epoch in sorted(stated)]


@lru_cache(maxsize=512)
def _newest(folder: Path, stamp: int) -> tuple[EpochRecord, ...]:
    return newest_records(folder)


def _verdicts(run: Run, name: str) -> dict[str, str]:
    return {judge: _verdict(run, name, judge) for judge in run.judges}


def _verdict(run: Run, name: str, judge: str) -> str:
    decisions = [fact for (objective, _), fact in run.history.rounds.items() if objective == judge]
    if any(name in fact["dropped"] for fact in decisions):
        return "out"
    if name in run.history.failures:
        return "failed"
    if judge in run.history.winners:
        return "chosen" if run.history.winners[judge] == name else "out"
    return "in"


def _stage(run: Run) -> str:
    history, first = run.history, run.rungs[0]
    if run.finished:
        return "finished"
    if all(judge in history.winners for judge in run.judges):
        return "training the eliminated candidates to the end as well"
    decided = min(_decided(run).values())
    if decided == len(run.rungs):
        return f"training the finalists to epoch {run.epochs}"
    waiting = [name for name in history.candidates if name not in history.failures and history.trained(name) < first]
    if decided == 0 and (waiting or len(history.candidates) < run.pool):
        size = run.settings["generation"]
        generation = max((candidate.generation for candidate in history.candidates.values()), default=0)
        return f"pool, generation {generation + 1} of {-(-run.pool // size)}, to epoch {first}"
    return f"round {decided + 1} of {len(run.rungs)}, at epoch {run.rungs[decided]}"


def _decided(run: Run) -> dict[str, int]:
    """Rounds that each judge has held."""
    return {judge: sum(judge == objective for objective, _ in run.history.rounds) for judge in run.judges}


def _planned(run: Run, trained: Mapping[str, int]) -> int:
    """Epochs of all networks at the end: what is decided is counted, what is not is estimated."""
    failed = sum(trained[name] for name in run.history.failures)
    if run.settings["exhaustive"]:
        return run.epochs * (1 + run.pool - len(run.history.failures)) + failed
    alive, total, before = run.pool - len(run.history.failures), run.epochs + failed, 0
    for number, (epoch, keep) in enumerate(zip(run.rungs, run.keep, strict=True)):
        total, before = total + alive * (epoch - before), epoch
        facts = [run.history.rounds.get((judge, number)) for judge in run.judges]
        if all(fact is not None for fact in facts):
            kept = {name for fact in facts if fact is not None for name in fact["kept"]}
            alive = len(kept - run.history.failures.keys())
        else:
            alive = round(_union(alive, keep, len(run.judges)))
    return total + alive * (run.epochs - before)


def _union(alive: int, keep: int, judges: int) -> float:
    """How many of `alive` at least one judge keeps, if up to two of them know nothing of each other.

    A third one is taken to be a combination of the others, as the rank sum is.
    """
    return alive * (1 - max(0.0, 1 - keep / max(alive, 1)) ** min(judges, 2))


COLOURS = {"in": "green", "chosen": "bold green", "out": "dim", "failed": "red"}


def status_table(status: Status, *, workers: int = 1, rows: int = 40) -> RenderableType:
    """Draw a status for a terminal.

    Args:
        status: of a run folder.
        workers: how many train at the same time: for the time left.
        rows: candidates to show at most; those that every judge has left are the first to be folded into one line.
    """
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("network", no_wrap=True, min_width=7)
    table.add_column("method", max_width=60)
    table.add_column("epochs", justify="right", no_wrap=True, min_width=6)
    table.add_column("valid ppl", justify="right", no_wrap=True, min_width=9)
    for judge in status.judges:
        table.add_column(judge_name(judge), no_wrap=True, min_width=8)
    shown = sorted(status.networks, key=lambda network: not network.alive)[: rows + 1]
    for network in (network for network in status.networks if network in shown):
        verdicts = [network.verdicts.get(judge, "") for judge in status.judges]
        table.add_row(
            network.name,
            Text(network.method, no_wrap=True, overflow="ellipsis"),
            f"{network.epochs}/{status.epochs}",
            "-" if network.perplexity is None else f"{network.perplexity:.2f}",
            *(Text(verdict, style=COLOURS.get(verdict, "")) for verdict in verdicts),
            style="" if network.alive else "dim",
        )
    # the bar comes first: what a low window cuts off is at the end
    parts: list[RenderableType] = [Text(status.stage, style="bold"), _bar(status, workers), table]
    if folded := len(status.networks) - len(shown):
        parts.append(Text(f"and {folded} more", style="dim"))
    return Group(*parts)


def _bar(status: Status, workers: int) -> RenderableType:
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_row(
        ProgressBar(total=max(status.planned, 1), completed=status.done, width=40),
        f"{status.done} of {'' if status.finished else 'about '}{status.planned} epochs",
        "" if status.finished else _clock(status.left(workers)),
    )
    return line


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "time left: not known yet"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} left" if hours else f"{minutes}:{rest:02d} left"


def line(fact: dict[str, Any]) -> str | None:
    """A line of the ledger as a line of progress."""
    match fact["kind"]:
        case "candidate":
            return f"{fact['name']} is {', '.join(str(value) for value in fact['point'].values())}"
        case "epoch" if fact["epoch"]:
            return f"{fact['network']} epoch {fact['epoch']}: valid perplexity {perplexity(fact['valid_loss']):.2f}"
        case "round":
            return f"After epoch {fact['epoch']}, {fact['objective']} keeps {', '.join(fact['kept'])}"
        case "failure":
            return f"{fact['network']} failed: {fact['reason']}"
        case "winner":
            return f"{fact['objective']} chooses {fact['network']}"
    return None
