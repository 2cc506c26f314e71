"""The sections of the page that hold text and tables; report/panels.py has those that hold figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperpruning.report import components, tradeoffs
from hyperpruning.report.blocks import Table, TableRow, Tile
from hyperpruning.report.components import criterion_name, join_names
from hyperpruning.report.run import WINNER, Run, in_words
from hyperpruning.report.series import curve
from hyperpruning.report.status import Status
from hyperpruning.report.tables import HEADINGS, Row, cells
from hyperpruning.search.dimensions import Dimension, Range
from hyperpruning.search.history import DENSE, SMALL
from hyperpruning.search.ledger import sha256
from hyperpruning.search.plan import COSTS, LOSS_ALONE
from hyperpruning.search.space import SPARSITY
from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.serialization import to_config
from hyperpruning.training.record import Metric, shown

ACCENTS = ("ls", "loss")  # criteria that have a colour, and with it a class in report/style.css


@dataclass(frozen=True)
class Search:
    """The facts about the search for the text of the page.

    Attributes:
        finished: whether the search is finished.
        stage: the current stage in words.
        done, planned: epochs trained so far and at the end, all networks together.
        epochs: length of a full training.
        criteria: names of the selection criteria.
        distance: the name of the distance between spectra.
        n_candidates, completed: all candidates, and those trained to the end.
        all_trained: whether every candidate that did not fail was trained to the end.
        ranked: whether the results have places among all candidates.
        failed: whether a candidate failed.
    """

    finished: bool
    stage: str
    done: int
    planned: int
    epochs: int
    criteria: Sequence[str]
    distance: str
    n_candidates: int
    completed: int
    all_trained: bool
    ranked: bool
    failed: bool


@dataclass(frozen=True)
class Winner:
    """The result of the search.

    Attributes:
        network: its name in the run folder.
        why: why it is the winner, in words.
        method: in words.
        components: of the method, with their meanings.
        code: Python that loads the network.
        file: the name of the file with the network.
        saved: whether the file is in the run folder.
    """

    network: str
    why: str
    method: str
    components: Mapping[str, str]
    code: str
    file: str
    saved: bool


def search(run: Run, now: Status) -> Search:
    """The facts about the search for the text of the page."""
    return Search(
        finished=now.finished,
        stage=now.stage,
        done=now.done,
        planned=now.planned,
        epochs=run.epochs,
        criteria=[criterion_name(criterion) for criterion in run.plan.criteria],
        distance=run.plan.distance,
        n_candidates=run.n_candidates,
        completed=len(run.completed),
        all_trained=run.all_trained,
        ranked=run.all_trained and bool(run.completed),
        failed=not run.history.candidates.keys().isdisjoint(run.history.failures),
    )


def metric_meaning(metric: Metric) -> str:
    """The meaning of the metric, and which direction is better."""
    better = "higher is better" if metric.maximize else "lower is better"
    if metric.from_loss == "exp":
        return f"The {metric.name} is the exponential of the loss in nats; {better}."
    return (
        f"The {metric.name} is given in {metric.unit}; {better}."
        if metric.unit
        else f"For the {metric.name}, {better}."
    )


def tiles(run: Run, rows: Sequence[Row]) -> list[Tile]:
    """The most important numbers of the results; empty before there are any."""
    tiles = []
    for row in rows:
        criterion = row.criteria[0] if row.criteria else ""
        if row.network in (DENSE, SMALL) or criterion in ACCENTS or row.why:
            tiles.append(Tile(shown(row.test), f"test {row.metric.name}, {row.label}", criterion))
    winner = next((row for row in rows if row.why), None)
    if winner is not None:
        tiles.append(Tile(f"{100 * winner.sparsity:.2f} %", "of the winner's weights are zero"))
        tiles.append(Tile(str(winner.spent), f"epochs of one search, by one criterion (all candidates: {winner.full})"))
        count = len(run.plan.criteria)
        by = "1 criterion" if count == 1 else f"{count} criteria"
        tiles.append(Tile(str(run.history.trained_epochs()), f"epochs of this run, by {by}, with the dense networks"))
    return tiles


def results(rows: Sequence[Row]) -> Table | None:
    """The table of results, without the columns "file" and "place" if they are empty; None before there are results."""
    if not rows:
        return None
    texts = [cells(row) for row in rows]
    optional = ("file", "place")
    shown = [
        column for column, name in enumerate(HEADINGS) if name not in optional or any(row[column] for row in texts)
    ]
    table_rows = [
        TableRow([text[column] for column in shown], next(iter(row.criteria), ""))
        for text, row in zip(texts, rows, strict=True)
    ]
    return Table([HEADINGS[column] for column in shown], table_rows, text_columns=2)


def winner(run: Run) -> Winner | None:
    """The winner of the search; None before there is one."""
    name, path = run.winner, run.folder / WINNER
    if name is None:
        return None
    config = run.config(name)
    argument = json.dumps(_relative(path), ensure_ascii=False)
    return Winner(
        network=name,
        why=run.why,
        method=in_words(config),
        components=components.described(config),
        code=f"import hyperpruning as hp\n\nmodel = hp.load({argument})",
        file=WINNER,
        saved=path.is_file(),
    )


def _relative(path: Path) -> str:
    """A path relative to the working directory if it is inside it, else as given."""
    whole = path.resolve()
    return (whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else path).as_posix()


def setup(run: Run) -> dict[str, str]:
    """The setup of the search: candidates, rounds, criteria, and the choices of the search space."""
    plan, names = run.plan, [criterion_name(criterion) for criterion in run.plan.criteria]
    kept = join_names([f"{keep} after epoch {rung}" for rung, keep in zip(plan.rungs, run.keep, strict=True)])
    rounds = (
        f"{run.n_candidates} candidates start. Each criterion keeps {kept}. The finalists train to epoch {run.epochs}."
    )
    if plan.scheduler == "asha":
        rounds = (
            f"{run.n_candidates} candidates start. At the epochs {join_names([str(rung) for rung in plan.rungs])} each "
            f"criterion promotes those among the best 1/{plan.reduction_factor} of all that are there so far (ASHA). "
            f"The finalists train to epoch {run.epochs}."
        )
    if plan.train_all:
        rounds += " Eliminated candidates are trained to the end afterwards, to show what each criterion missed."
    if plan.objectives != LOSS_ALONE:
        rounds += f" What is kept are the best Pareto fronts of score and {COSTS[plan.objectives[1]]}."
    at = "of several sparsities" if SPARSITY in plan.space.dimensions else f"at sparsity {plan.sparsity:.4g}"
    guided = f"{', '.join(names)}. The sampler optimizes {names[0]}."
    return {
        "candidates": f"{run.n_candidates} {at}, suggested in batches of {plan.ask_batch}",
        "sampler": components.with_meaning(plan.sampler, components.SAMPLERS),
        "rounds": rounds,
        "selection criteria": guided if len(names) > 1 else names[0],
        **components.described_criteria(run.plan.criteria),
        "distance between spectra": components.with_meaning(plan.distance, components.DISTANCES),
        **{name.replace("_", " "): _choices(choices) for name, choices in plan.space.dimensions.items()},
        **({"latency": said} if (said := tradeoffs.latency_said(run)) else {}),
    }


def component_table(run: Run) -> Table:
    """What the components of the methods in the search space do, each once."""
    rows = []
    for name, choices in run.plan.space.dimensions.items():
        if isinstance(choices, Range):
            found = {_choices(choices): components.meaning(name, choices.low)}
        elif name == "method":
            known = [str(choice) for choice in choices if choice in METHODS]
            found = {choice: in_words(to_config(METHODS[choice])) for choice in known}
        else:
            found = {str(choice): components.meaning(name, choice) for choice in choices}
        rows += [TableRow([name.replace("_", " "), value, said]) for value, said in found.items() if said]
    return Table(["component", "value", "what it does"], rows, text_columns=3)


def _choices(choices: Dimension) -> str:
    if isinstance(choices, Range):
        steps = f" in steps of {choices.step:g}" if choices.step is not None else ""
        return f"{choices.low:g} to {choices.high:g}{steps}{', logarithmic' if choices.log else ''}"
    return ", ".join(str(choice) for choice in choices)


def candidates(run: Run) -> Table:
    """The table of all candidates."""
    rows = []
    for name in run.history.candidates:
        epochs, values = curve(run, name)
        final = (
            "failed" if name in run.history.failures else shown(min(values)) if name in run.completed else "eliminated"
        )
        final = final if run.finished or final != "eliminated" else ""
        last = shown(values[-1]) if values else ""
        rows.append(TableRow([name, run.method(name), str(max(epochs, default=0)), last, final]))
    headings = ["candidate", "method", "epochs", f"last validation {run.metric.name}", "best, if trained to the end"]
    return Table(headings, rows, text_columns=2)


def settings(run: Run) -> dict[str, str]:
    """All settings by dotted name; those of the dense reference's task only where they differ from the candidates'."""
    found = run.header.identity
    task, dense = found.get("task", {}), found.get("dense_task", {})
    differing = {name: value for name, value in dense.items() if name not in task or task[name] != value}
    return _flat({**found, "dense_task": differing})


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as one list, "train.lr" and so on."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found


def cost(run: Run, now: Status) -> dict[str, str]:
    """Epochs and time: of a search by one criterion, of training all candidates to the end, and of this run."""
    one, full, done = run.search_epochs, run.n_candidates * run.epochs, run.history.trained_epochs()
    this_run = f"{done} epochs so far"
    if run.finished:
        dense = done - run.history.trained_epochs(dense=False)
        this_run = (
            f"{done} epochs: {dense} of the dense networks, and {done - dense} of the candidates, each until the "
        )
        this_run += "last criterion eliminated it"
        this_run += ", then to the end as well, for comparison" if run.plan.train_all else ""
    found = {
        "search by one criterion": f"{one} epochs"
        + (f", and {run.seed_epochs} of further seeds of its finalists" if run.seed_epochs else ""),
        "all candidates to the end": f"{full} epochs",
        "saved": f"{full - one} epochs, {100 * (full - one) / full:.0f} %" + _clock(now.seconds, full - one),
        "this run": this_run,
    }
    if now.seconds is not None:
        found["one epoch"] = f"{now.seconds:.2f} s on one worker on average, including the evaluation"
    return found


def _clock(seconds: float | None, epochs: int) -> str:
    if seconds is None:
        return ""
    time = seconds * epochs
    amount = f"{time:.0f} s" if time < 120 else f"{time / 60:.0f} min" if time < 7200 else f"{time / 3600:.1f} h"
    return f", about {amount} on one worker"


def reproducibility(run: Run) -> dict[str, str]:
    """Seed, versions, and checksums of settings, ledger and the winner's weights."""
    identity = hashlib.sha256(json.dumps(run.header.identity, sort_keys=True).encode()).hexdigest()
    found = {
        "seed": str(run.plan.train.seed),
        "versions": ", ".join(f"{name} {version}" for name, version in run.header.versions.items()),
        "settings, SHA-256": identity,
        "ledger, SHA-256": sha256(run.folder),
    }
    if run.winner in run.history.finals:
        found["winner's weights, SHA-256"] = str(run.history.finals[str(run.winner)].sha256)
    return found
