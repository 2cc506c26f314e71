"""The report: one HTML page in the run folder that needs nothing but itself, also while the search is under way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperpruning.files import write_atomic
from hyperpruning.report import panels
from hyperpruning.report.markup import (
    code,
    definitions,
    details,
    document,
    escape,
    missing,
    paragraph,
    section,
    table,
    tiles,
)
from hyperpruning.report.run import Run, criterion_name, in_words, read_run
from hyperpruning.report.series import curve
from hyperpruning.report.status import Status, status
from hyperpruning.report.tables import HEADINGS, Row, cells, results, verdict
from hyperpruning.search.history import DENSE
from hyperpruning.search.ledger import LEDGER
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import from_config, to_config

WINNER = "winner.safetensors"
MEANINGS = {  # what the parts of a method do, in plain words
    ("allocation", "uniform"): "every matrix begins with the same density",
    ("allocation", "er"): "Erdős-Rényi: the larger a matrix, the sparser it begins",
    ("drop", "magnitude"): "an update takes the smallest weights",
    ("drop", "taylor"): "an update takes the weights whose loss would change least without them",
    ("drop", "magnitude_gradient"): "an update takes weights that are small and have a small gradient",
    ("drop", "none"): "nothing is dropped: the mask never changes",
    ("drop scope", "tensor"): "of each matrix",
    ("drop scope", "global"): "of the whole network",
    ("drop scope", "gate"): "of each gate",
    ("drop scope", "sign"): "of each matrix, the positive and the negative weights nearest to zero",
    ("grow", "random"): "new weights appear anywhere",
    ("grow", "gradient"): "new weights appear where the gradient is largest",
    ("grow", "gradient_average"): "new weights appear where the mean gradient of the last steps is largest",
    ("grow", "unfired"): "new weights appear where there has never been one",
    ("grow", "none"): "nothing grows",
    ("redistribute", "none"): "every matrix gets back as many weights as it lost",
    ("redistribute", "nonzeros"): "matrices share the new weights by how many of theirs stayed",
    ("redistribute", "magnitude"): "matrices share the new weights by the mean size of those that stayed",
    ("decay", "constant"): "the drop fraction stays as it is",
    ("decay", "cosine"): "the drop fraction falls to zero along a cosine",
    ("decay", "linear"): "the drop fraction falls to zero along a line",
}


def write_report(folder: Path) -> Path:
    """Write the report of a search, finished or not, into its run folder.

    Args:
        folder: the run folder.

    Returns:
        the path of ``report.html``.

    Raises:
        RunFolderError: the folder holds no search.
    """
    path = folder / "report.html"
    write_atomic(path, report(folder).encode())
    return path


def report(folder: Path) -> str:
    """The report of a search as HTML."""
    run, now, rows = read_run(folder), status(folder), results(folder)
    body = [
        _head(run, now, rows),
        section("Results", *_results(run, rows)),
        section("The winner, and how to load it", *_winner(run)),
        section("What was searched", *_searched(run)),
        section("Who stayed in", *panels.elimination(run)),
        section("Perplexity", *panels.perplexities(run)),
        section("Lyapunov spectra", *panels.spectra(run)),
        section("What could be known early", *panels.predictions(run)),
        section("Where the weights are", *panels.density(run)),
        section("Epochs and time", *_cost(run, now)),
        section("To repeat it", *_reproducibility(run)),
    ]
    return document(f"Hyperpruning: {_name(folder)}", body)


def _name(folder: Path) -> str:
    return folder.resolve().name


def _head(run: Run, now: Status, rows: list[Row]) -> str:
    head = f"<h1>Hyperpruning: {escape(_name(run.folder))}</h1>\n"
    if not now.finished:
        left = f"{now.done} of about {now.planned} epochs are trained"
        head += missing(f"This search is not finished: {now.stage}, {left}. What is not known yet is left out below.")
    numbers = []
    for row in rows:
        if row.network == DENSE or row.criteria[:1] in (("ls",), ("loss",)):
            kind = row.criteria[0] if row.criteria else ""
            numbers.append((f"{row.test:.2f}", f"test {row.metric.name}, {row.label}", kind))
    chosen = next((row for row in rows if row.criteria), None)
    if chosen is not None:
        numbers.append((f"{100 * chosen.sparsity:.2f} %", "of the weights are zero, exactly", ""))
        numbers.append((f"{chosen.spent} of {chosen.full}", "epochs: one search, training everybody", ""))
    return head + paragraph(verdict(rows), "lead") + (tiles(numbers) if numbers else "")


def _results(run: Run, rows: list[Row]) -> list[str]:
    if not rows:
        return [missing("No network is trained to the end yet.")]
    printed = [cells(row) for row in rows]
    shown = [
        place for place, heading in enumerate(HEADINGS) if heading != "place" or any(row[place] for row in printed)
    ]
    kinds = [next(iter(row.criteria), "") for row in rows]
    table_rows = [[row[place] for place in shown] for row in printed]
    note = (
        "valid, test: perplexities of the weights of the best epoch by validation loss; the test text decided nothing. "
        "sparsity: the fraction of zeros over all weight matrices; active: the weights that are left. epochs spent: "
        "what the search with this judge alone trains, against training every candidate to the end; the dense "
        f"network's own {run.epochs} epochs come on top of both."
    )
    if run.all_trained and run.ended:
        note += " place: among all candidates by final validation loss."
    return [
        table([HEADINGS[place] for place in shown], table_rows, text=2, kinds=kinds, cards=True),
        paragraph(note, "note"),
    ]


def _winner(run: Run) -> list[str]:
    name = run.winner
    if name is None:
        return [missing(f"{criterion_name(run.plan.criteria[0])} has not chosen yet.")]
    path = _shown(run.folder / WINNER)
    lines = ["import hyperpruning as hp", "", f"model = hp.load_model({json.dumps(path, ensure_ascii=False)})"]
    point = run.history.candidates[name].config
    sentence = f"{name}, {criterion_name(run.plan.criteria[0])}: {in_words(point)}."
    parts = [paragraph(sentence), definitions(_spelled(point)), code("\n".join(lines))]
    if not (run.folder / WINNER).is_file():
        parts.append(paragraph(f"{WINNER} is not in the run folder (yet).", "note"))
    return parts


def _shown(path: Path) -> str:
    """A path as one would type it: from the working directory where it lies below it."""
    whole = path.resolve()
    return (whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else path).as_posix()


def _spelled(point: Mapping[str, Any]) -> dict[str, str]:
    try:
        spelling = to_config(from_config(point))
    except (ValueError, TypeError):  # a component that this version does not know
        return {name: str(value) for name, value in point.items()}
    main = ("allocation", "drop", "drop_scope", "grow", "redistribute", "drop_fraction", "decay")
    usual = to_config(Method())
    found = {"method": str(point["method"])} if "method" in point else {}
    for name in (*main, *(name for name, value in spelling.items() if name not in main and value != usual[name])):
        words = name.replace("_", " ")
        meaning = MEANINGS.get((words, str(spelling[name])))
        if name == "drop_fraction":
            meaning = "the share of the active weights that the first update replaces"
        found[words] = f"{spelling[name]}: {meaning}" if meaning else str(spelling[name])
    return found


def _searched(run: Run) -> list[str]:
    settings = run.header.identity
    stages = [f"{keep} after epoch {rung}" for rung, keep in zip(run.plan.rungs, run.keep, strict=True)]
    rounds = f"{run.n_candidates} candidates begin; {', '.join(stages)} go on, the last ones to epoch {run.epochs}"
    everybody = "; those eliminated are trained to the end as well, afterwards, to see what each judge missed"
    found = {
        "pool": f"{run.n_candidates} candidates at sparsity {run.plan.sparsity:g}, asked of the sampler "
        f"{run.plan.sampler} in batches of {run.plan.ask_batch}",
        "rounds": rounds + (everybody if run.plan.train_all else ""),
        "judges": ", ".join(criterion_name(judge) for judge in run.plan.criteria)
        + f"; {criterion_name(run.plan.criteria[0])} guides the sampler, and its choice is the result",
        "LS distance": f"{run.plan.distance}, to the dense network's spectrum at the same epoch",
        **{name.replace("_", " "): _choices(choices) for name, choices in settings["space"].items()},
    }
    headings = ("candidate", "method", "epochs", "last valid perplexity", "best, if trained to the end")
    return [
        definitions(found),
        details("All candidates", table(headings, _candidates(run), text=2)),
        details("All settings (of the dense task only what differs)", definitions(_flat(_shortened(settings)))),
    ]


def _choices(choices: Any) -> str:
    if isinstance(choices, Mapping):
        return f"{choices['low']:g} to {choices['high']:g} in steps of {choices['step']:g}"
    return ", ".join(str(choice) for choice in choices)


def _candidates(run: Run) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name in run.history.candidates:
        epochs, values = curve(run, name)
        state = "failed" if name in run.history.failures else f"{min(values):.2f}" if name in run.ended else "stopped"
        state = state if run.finished or state != "stopped" else ""
        rows.append((name, run.method(name), str(max(epochs, default=0)), f"{values[-1]:.2f}" if values else "", state))
    return rows


def _shortened(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with those of the dense task only where they differ from the candidates'."""
    task, dense = settings.get("task", {}), settings.get("dense_task", {})
    differing = {name: value for name, value in dense.items() if name not in task or task[name] != value}
    return {**settings, "dense_task": differing}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as one list, "train.lr" and so on."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found


def _cost(run: Run, now: Status) -> list[str]:
    one, full, done = run.search_epochs, run.n_candidates * run.epochs, run.history.trained_epochs()
    found = {
        "one judge's search": f"{one} epochs",
        "every candidate to the end": f"{full} epochs",
        "saved": f"{full - one} epochs, {100 * (full - one) / full:.0f} % of them" + _clock(now.seconds, full - one),
        "this run": f"{done} epochs so far"
        if not run.finished
        else f"{done} epochs: the dense network, and the "
        f"candidates that any of {len(run.plan.criteria)} judges needed, each trained once"
        + (", and all others for comparison" if run.plan.train_all else ""),
    }
    note = "A search whose candidates diverge trains fewer epochs than said here." if run.history.failures else ""
    if now.seconds is not None:
        found["an epoch"] = f"{now.seconds:.2f} s on one worker, in the mean, evaluation included"
    return [definitions(found), paragraph(note, "note") if note else ""]


def _clock(seconds: float | None, epochs: int) -> str:
    if seconds is None:
        return ""
    time = seconds * epochs
    amount = f"{time:.0f} s" if time < 120 else f"{time / 60:.0f} min" if time < 7200 else f"{time / 3600:.1f} h"
    return f", about {amount} on one worker"


def _reproducibility(run: Run) -> list[str]:
    identity = hashlib.sha256(json.dumps(run.header.identity, sort_keys=True).encode()).hexdigest()
    found = {
        "seed": str(run.plan.train.seed),
        "versions": ", ".join(f"{name} {version}" for name, version in run.header.versions.items()),
        "settings, SHA-256": identity,
        "ledger, SHA-256": hashlib.sha256((run.folder / LEDGER).read_bytes()).hexdigest(),
    }
    if run.winner in run.history.finals:
        found["winner's weights, SHA-256"] = str(run.history.finals[str(run.winner)].sha256)
    text = "The same settings with the same versions on the same kind of machine give the same ledger, line by line."
    return [definitions(found), paragraph(text, "note")]
