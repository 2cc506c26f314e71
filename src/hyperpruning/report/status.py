"""The progress of a search, read from its folder, also while it runs; fast enough for two calls a second."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hyperpruning.report.components import criterion_name
from hyperpruning.report.run import Run, read_run
from hyperpruning.report.terminal import Fitted, shortened
from hyperpruning.search.actions import Abort, Finish, Record, Suggest, Train
from hyperpruning.search.asha import is_asynchronous
from hyperpruning.search.history import (
    DENSE,
    SMALL,
    Candidate,
    Choice,
    Epoch,
    Fact,
    Failure,
    Promotion,
    RoundDecision,
    SpaceExhausted,
    Stopped,
    Winner,
)
from hyperpruning.training.checkpoint import newest_records
from hyperpruning.training.record import EpochRecord, Metric, shown


@dataclass(frozen=True)
class Network:
    """The progress of one network.

    Attributes:
        name: "dense", "small" (as many weights as the pruned ones) or a candidate's.
        method: in words; "none" for the dense networks.
        epochs: trained so far.
        value: the validation metric after the last trained epoch; None before the first evaluation.
        outcomes: by criterion "in", "out", "chosen" or "failed"; empty for the dense networks.
    """

    name: str
    method: str
    epochs: int
    value: float | None
    outcomes: Mapping[str, str]

    @property
    def alive(self) -> bool:
        """Whether some criterion has kept it (True for the dense networks)."""
        return self.name in (DENSE, SMALL) or any(outcome in ("in", "chosen") for outcome in self.outcomes.values())


@dataclass(frozen=True)
class Status:
    """The progress of a search.

    Attributes:
        stage: in words.
        networks: the dense ones first, then the candidates by name.
        criteria: selection criteria.
        metric: the metric of the task.
        done: epochs trained, all networks together.
        planned: epochs trained at the end, all networks together; an estimate until the last round is decided.
        epochs: length of a full training.
        seconds: mean time of an epoch on one worker; None before the first one.
        finished: whether the search is finished.
        notes: what a reader must know first, see `Run.notes`.
    """

    stage: str
    networks: tuple[Network, ...]
    criteria: tuple[str, ...]
    metric: Metric
    done: int
    planned: int
    epochs: int
    seconds: float | None
    finished: bool
    notes: tuple[str, ...] = ()

    def left(self, workers: int = 1) -> float | None:
        """Estimated seconds until the end."""
        return None if self.seconds is None else max(0, self.planned - self.done) * self.seconds / workers


def status(folder: Path) -> Status:
    """Read the progress of a search from its ledger and the newest checkpoints.

    Raises:
        RunFolderError: the folder holds no search.
    """
    run = read_run(folder)
    small = [SMALL] if any(getattr(action, "network", None) == SMALL for action in run.actions) else []
    small = [SMALL] if SMALL in run.history.epochs else small
    changed = _changed(run.folder / "networks")
    records = {name: _records(run, name, changed.get(name)) for name in (DENSE, *small, *run.history.candidates)}
    trained = {name: max(0, len(found) - 1) for name, found in records.items()}
    timed = [record.seconds for found in records.values() for record in found if record.seconds > 0]
    done, dropped = sum(trained.values()), _dropped(run)
    return Status(
        stage=_stage(run),
        networks=tuple(
            Network(
                name,
                run.method(name),
                trained[name],
                run.value(found[-1]) if found else None,
                _outcomes(run, name, dropped),
            )
            for name, found in records.items()
        ),
        criteria=run.plan.criteria,
        metric=run.metric,
        done=done,
        planned=done if run.finished else max(done, run.planned_epochs),
        epochs=run.epochs,
        seconds=sum(timed) / len(timed) if timed else None,
        finished=run.finished,
        notes=tuple(run.notes),
    )


def _changed(folder: Path) -> dict[str, int]:
    """When the checkpoints of each network changed last, nanoseconds."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_mtime_ns for entry in entries if entry.is_dir()}


def _records(run: Run, name: str, changed: int | None) -> Sequence[EpochRecord]:
    """The records in the ledger or in the newest checkpoint, whichever has more; only a checkpoint has times."""
    beside = () if changed is None else _newest(run.folder / "networks" / name, changed)
    stated = run.history.epochs.get(name, {})
    return beside if len(beside) > run.history.trained(name) else [stated[epoch] for epoch in sorted(stated)]


@lru_cache(maxsize=16_384)
def _newest(folder: Path, stamp: int) -> tuple[EpochRecord, ...]:
    return newest_records(folder)


def _outcomes(run: Run, name: str, dropped: Mapping[str, set[str]]) -> dict[str, str]:
    if name in (DENSE, SMALL):
        return {}
    return {criterion: _outcome(run, name, criterion, dropped[criterion]) for criterion in run.plan.criteria}


def _dropped(run: Run) -> dict[str, set[str]]:
    """The candidates that each criterion has eliminated."""
    dropped: dict[str, set[str]] = {criterion: set() for criterion in run.plan.criteria}
    for (criterion, _), found in run.history.rounds.items():
        dropped.setdefault(criterion, set()).update(found.dropped)
    return dropped


def _outcome(run: Run, name: str, criterion: str, dropped: set[str]) -> str:
    history = run.history
    if name in dropped:
        return "out"
    if name in history.failures:
        return "failed"
    if criterion in history.winners:
        return "chosen" if history.winners[criterion] == name else "out"
    return "in"


def _stage(run: Run) -> str:
    """The current stage in words, from the actions of `decide`."""
    plan, rungs = run.plan, run.plan.rungs
    if not run.actions:
        return "finished"
    if is_asynchronous(plan, run.history):
        reached = sum(run.history.trained(name) >= rungs[0] for name in run.history.candidates)
        return f"ASHA: {reached} of {plan.n_candidates} candidates have reached the first rung, epoch {rungs[0]}"
    n_batches = -(-plan.n_candidates // plan.ask_batch)
    match run.actions[0]:
        case Abort(reason):
            return f"stopped: {reason}"
        case Suggest(batch):
            return f"batch {batch + 1} of {n_batches}, to epoch {rungs[0]}"
        case Record(RoundDecision() as decision):
            return f"round {decision.round + 1} of {len(rungs)}, at epoch {decision.epoch}"
        case Record() | Finish():
            return "choosing the winners"
        case _:
            trainings = [action for action in run.actions if isinstance(action, Train)]
            until = max(action.until for action in trainings)
    if plan.criteria and all(criterion in run.history.winners for criterion in plan.criteria):
        return "training the eliminated candidates to the end as well"
    if until == run.epochs:
        return f"training the finalists to epoch {run.epochs}"
    held = len({number for _, number in run.history.rounds})
    if not held and any(action.network != DENSE and action.until == rungs[0] for action in trainings):
        batch = max((candidate.batch for candidate in run.history.candidates.values()), default=0)
        return f"batch {batch + 1} of {n_batches}, to epoch {rungs[0]}"
    return f"round {min(held + 1, len(rungs))} of {len(rungs)}, at epoch {rungs[min(held, len(rungs) - 1)]}"


COLOURS = {"in": "green", "chosen": "bold green", "out": "dim", "failed": "red"}
GAP = 2  # characters between columns
METHOD = 12  # least width of a useful column of methods
BAR = 40


def to_json(status: Status, *, workers: int = 1) -> dict[str, Any]:
    """A status in JSON types, with the estimated seconds that are left; names and units as in `Status`."""
    return asdict(status) | {"left": status.left(workers)}


def status_table(status: Status, *, workers: int = 1, rows: int = 40) -> RenderableType:
    """Draw a status for a terminal.

    If the terminal is too narrow for a column for each criterion, one column names the criteria that kept a candidate;
    a column of methods that would be too narrow to be useful is left out.

    Args:
        status: of a run folder.
        workers: number of networks trained at the same time, for the estimated time.
        rows: largest number of candidates to show; eliminated candidates are left out first.
    """
    first = {network.name for network in sorted(status.networks, key=lambda network: not network.alive)[: rows + 1]}
    shown = [network for network in status.networks if network.name in first]

    def draw(width: int) -> RenderableType:
        # the bar comes first: a small window cuts off the end
        parts: list[RenderableType] = [Text(status.stage, style="bold")]
        parts += [Text(note, style="yellow") for note in status.notes]
        parts += [_bar(status, workers, width), _networks(status, shown, width)]
        if folded := len(status.networks) - len(shown):
            parts.append(Text(f"and {folded} more", style="dim"))
        return Group(*parts)

    return Fitted(draw)


def _networks(status: Status, shown: Sequence[Network], width: int) -> Table:
    metric = f"valid {status.metric.name}"
    names = {criterion: criterion_name(criterion) for criterion in status.criteria}
    numbers = {
        "network": 7,
        "epochs": max(len("epochs"), 2 * len(str(status.epochs)) + 1),
        metric: max(*map(len, metric.split()), *(len(_value(network)) for network in shown)),
    }
    outcomes = {name: max(len("rank sum"), *map(len, name.split())) for name in names.values()}
    left = width - sum(numbers.values()) - GAP * len(numbers)
    merged = sum(outcomes.values()) + GAP * len(outcomes) > left
    if merged:
        outcomes = {"kept by": min(left, 30) if left - 30 < METHOD + GAP else left // 2}
    left -= sum(outcomes.values()) + GAP * (len(outcomes) - 1)
    methods = min(max(len(network.method) for network in shown), left - GAP) if left - GAP >= METHOD else 0
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, GAP, 0, 0))
    for heading, size in {"network": 7, **({"method": methods} if methods else {}), **numbers, **outcomes}.items():
        table.add_column(Text(heading), width=size, justify="right" if heading in (metric, "epochs") else "left")
    for network in shown:
        each = [Text(network.outcomes.get(one, ""), style=_style(network, one)) for one in status.criteria]
        cells = [
            Text(network.name, no_wrap=True),
            *([Text(shortened(network.method, methods), no_wrap=True)] if methods else []),
            Text(f"{network.epochs}/{status.epochs}", no_wrap=True),
            Text(_value(network), no_wrap=True),
            *([Text(_kept_by(network, names))] if merged else each),
        ]
        table.add_row(*cells, style="" if network.alive else "dim")
    return table


def _value(network: Network) -> str:
    return "-" if network.value is None else shown(network.value)


def _style(network: Network, criterion: str) -> str:
    return COLOURS.get(network.outcomes.get(criterion, ""), "")


def _kept_by(network: Network, names: Mapping[str, str]) -> str:
    """The criteria that have kept a candidate; "winner by" those that chose it."""
    chosen = [name for criterion, name in names.items() if network.outcomes.get(criterion) == "chosen"]
    kept = [name for criterion, name in names.items() if network.outcomes.get(criterion) == "in"]
    if len(kept) == len(names):
        return "all criteria"
    failed = "failed" if "failed" in network.outcomes.values() else ""
    return ", ".join([f"winner by {', '.join(chosen)}"] * bool(chosen) + kept) or failed


def _bar(status: Status, workers: int, width: int) -> RenderableType:
    texts = [f"{status.done} of {'' if status.finished else 'about '}{status.planned} epochs"]
    texts += [] if status.finished else [_clock(status.left(workers))]
    left = width - sum(len(text) + GAP for text in texts)
    line = Table.grid(padding=(0, GAP, 0, 0))
    bar = [ProgressBar(total=max(status.planned, 1), completed=status.done, width=min(BAR, left))] if left > 4 else []
    line.add_row(*bar, *texts)
    return line


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "time left: not known yet"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} left" if hours else f"{minutes}:{rest:02d} left"


def line(fact: Fact, metric: Metric) -> str | None:
    """A new fact of the ledger as a line of progress; None for one that is not shown."""
    match fact:
        case Candidate():
            return f"{fact.name} is {', '.join(str(value) for value in fact.config.values())}"
        case Epoch(network, record) if record.epoch:
            value = metric.value(record.valid_loss, record.valid_metric)
            return f"{network} epoch {record.epoch}: valid {metric.name} {shown(value)}"
        case RoundDecision():
            return f"After epoch {fact.epoch}, {criterion_name(fact.criterion)} keeps {', '.join(fact.kept)}"
        case Promotion():
            return f"{criterion_name(fact.criterion)} lets {fact.network} train on from rung {fact.round + 1}"
        case Failure():
            return f"{fact.network} failed: {fact.reason}"
        case Stopped():
            return f"{fact.reason} The other finalists of {criterion_name(fact.criterion)} stop"
        case Winner():
            return f"The winner by {criterion_name(fact.criterion)} is {fact.network}"
        case Choice():
            return f"The winner of the search is now {fact.network}"
        case SpaceExhausted():
            return f"The search space has only {fact.n_candidates} valid methods"
    return None
