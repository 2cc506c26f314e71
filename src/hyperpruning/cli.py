"""The command `hyperprune`: thin shells round library calls."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.live import Live

from hyperpruning.api import dynamic_evaluation, evaluate_model, hyperprune, model_spectrum
from hyperpruning.cli_errors import explain, guarded, terminate
from hyperpruning.data import download
from hyperpruning.experiment import (
    EXPERIMENT,
    Experiment,
    ExperimentError,
    demo_experiment,
    preset,
    presets,
    read_experiment,
    read_preset,
    replaced,
    words,
)
from hyperpruning.lyapunov.distances import spectrum_distance
from hyperpruning.report import status as progress
from hyperpruning.report import tables
from hyperpruning.report.figures import spectra_figure
from hyperpruning.report.page import write_report
from hyperpruning.search.executors import executor, stop
from hyperpruning.search.ledger import RunFolderError, read
from hyperpruning.search.plan import ask, candidate_name, check, job
from hyperpruning.search.schedulers import cost, most
from hyperpruning.search.space import Candidate
from hyperpruning.search.worker import seconds_per_epoch
from hyperpruning.tasks.language_modelling import perplexity

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
out = Console(highlight=False, width=None if sys.stdout.isatty() else 110)

Workers = Annotated[int, typer.Option(min=1, help="Networks trained at the same time, one process each.")]
Out = Annotated[Path, typer.Option("--out", help="The run folder.")]
Run = Annotated[Path, typer.Argument(help="The run folder of a search.")]
Model = Annotated[Path, typer.Argument(help="A model file (*.safetensors), or a run folder for its winner.")]
Text = Annotated[Path | None, typer.Option(help="The text that it reads; default: where it was trained on.")]
Device = Annotated[str, typer.Option(help='"cpu", "cuda", "cuda:1"; "auto": cuda where there is one.')]
PRESET = typer.Option("--preset", help=f"A documented experiment on --data: {', '.join(presets())}.")
Share = Annotated[float | None, typer.Option(help="Of that text, the first part; default: what it was trained on.")]
CORES = 1 if torch.cuda.is_available() else os.cpu_count() or 1  # a GPU may not hold several networks
TWO = min(2, CORES)


@app.command()
@guarded
def demo(folder: Out = Path("runs/demo"), workers: Workers = TWO) -> None:
    """Run a whole search on Python's own help texts: a few minutes, no download."""
    _search(demo_experiment(), folder, workers)


@app.command()
@guarded
def search(
    experiment: Annotated[Path | None, typer.Argument(help="An experiment.toml; see `hyperprune init`.")] = None,
    data: Annotated[Path | None, typer.Option(help="A folder with train, valid and test text.")] = None,
    unit: Annotated[str | None, typer.Option(help='A token: "word" (default with --data) or "character".')] = None,
    named: Annotated[str | None, PRESET] = None,
    sparsity: Annotated[float | None, typer.Option(help="Fraction of weights that are pruned.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, masks, dropout and suggestions.")] = None,
    folder: Out = Path("runs/search"),
    workers: Workers = CORES,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and about how long.")] = False,
) -> None:
    """Find the best way to prune a language model of a text. Called again, it goes on where it was."""
    pruning = {} if sparsity is None else {"sparsity": sparsity}
    training = {} if seed is None else {"seed": seed}
    chosen = replaced(_experiment(experiment, named, data, unit), pruning=pruning, training=training)
    if dry_run:
        _dry_run(chosen, folder, workers)
    else:
        _search(chosen, folder, workers)


@app.command()
@guarded
def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("experiment.toml"),
    data: Annotated[Path | None, typer.Option(help="A folder with train, valid and test text.")] = None,
    unit: Annotated[str | None, typer.Option(help='A token: "word" (default with --data) or "character".')] = None,
    named: Annotated[str | None, PRESET] = None,
) -> None:
    """Write a commented experiment.toml: every setting, or a preset that says where its numbers come from."""
    if path.exists():
        raise FileExistsError(f"`hyperprune init` writes a new file, and {path} exists: name another one.")
    experiment = _experiment(None, named, data, unit)
    text = experiment.to_toml() if named is None else preset(named, experiment.data.folder)
    path.write_text(text, encoding="utf-8")
    out.print(f"Wrote {path}. Run it: hyperprune search {path} --out runs/mine", soft_wrap=True)


@app.command()
@guarded
def resume(folder: Run, workers: Workers = CORES) -> None:
    """Go on with a search that was interrupted."""
    read(folder)
    if not (folder / EXPERIMENT).exists():
        raise RunFolderError(
            f"A search is resumed by its {EXPERIMENT}, and {folder} has none: call `hyperprune search` (or, for a plan "
            "of your own, hp.hyperprune) again as it was called before."
        )
    _search(read_experiment(folder / EXPERIMENT), folder, workers)


@app.command()
@guarded
def status(folder: Run, workers: Workers = CORES) -> None:
    """Show how far a search is, also while it runs."""
    out.print(progress.status_table(progress.status(folder), workers=workers))


@app.command()
@guarded
def report(folder: Run) -> None:
    """Write the report of a search, finished or not, and print its tables."""
    page = write_report(folder)
    _print_results(folder)
    out.print(f"Report: {page}", soft_wrap=True)


@app.command()
@guarded
def fetch(
    corpus: Annotated[str, typer.Argument(help='"ptb" (licensed by the LDC) or "wikitext-2" (CC BY-SA).')],
    folder: Annotated[Path, typer.Argument(help="Where its three splits go.")],
) -> None:
    """Download a published corpus, and check that it is the published one."""
    if corpus in download.LICENCES:
        out.print(download.LICENCES[corpus], soft_wrap=True)
    found = download.fetch(corpus, folder)
    out.print(
        f"{folder} holds {corpus}, as published: {len(found.train):,} + {len(found.valid):,} + {len(found.test):,} "
        f"tokens, {len(found.vocabulary):,} words.",
        soft_wrap=True,
    )


@app.command()
@guarded
def evaluate(
    model: Model,
    data: Text = None,
    share: Share = None,
    split: Annotated[str, typer.Option(help='"valid" or "test".')] = "test",
    batch: Annotated[int, typer.Option(min=1, help="Columns; 1: the context never starts anew.")] = 1,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="It learns from what it has read. Slow.")] = False,
    statistics: Annotated[float, typer.Option(help="For --dynamic: share of the training text read before.")] = 1.0,
    device: Device = "auto",
) -> None:
    """The perplexity of a trained model, and how it was measured."""
    if statistics != 1 and not dynamic:
        raise ValueError(f"--statistics are those of --dynamic, and {statistics} is given without it: add --dynamic.")
    settings = dynamic_evaluation(model, statistics=statistics) if dynamic else None
    found = evaluate_model(model, data=data, share=share, split=split, batch=batch, dynamic=settings, device=device)
    out.print(
        f"{model}: {split} perplexity {perplexity(found.loss):.3f}, {found.loss:.5f} nats per token, "
        f"{found.tokens:,} tokens predicted.",
        soft_wrap=True,
    )
    out.print(found.protocol, soft_wrap=True)


@app.command()
@guarded
def spectrum(
    model: Model,
    data: Text = None,
    share: Share = None,
    against: Annotated[Path | None, typer.Option(help="A second model to compare with.")] = None,
    state: Annotated[str, typer.Option(help='"h", or "full" for an LSTM\'s (h, c).')] = "h",
    steps: Annotated[int, typer.Option(min=2, help="Tokens measured.")] = 60,
    warmup: Annotated[int, typer.Option(min=0, help="Tokens before the measurement.")] = 20,
    sequences: Annotated[int, typer.Option(min=1, help="Windows of the validation text.")] = 4,
    output: Annotated[Path, typer.Option("--out", help="Stem of the files: STEM.npz and STEM.svg.")] = Path("spectrum"),
    device: Device = "auto",
) -> None:
    """The Lyapunov spectrum of a trained model, in nats per token: a summary, a file and a figure."""
    models = [model] if against is None else [model, against]
    probe: dict[str, Any] = {"state": state, "steps": steps, "warmup": warmup, "sequences": sequences, "device": device}
    spectra = [(str(path), model_spectrum(path, data=data, share=share, **probe)) for path in models]
    out.print(f"{steps} tokens x {sequences} sequences after {warmup} of warm-up, in nats per token:")
    for path, found in spectra:
        order = [value for value in found.sorted().tolist() if math.isfinite(value)] or [-math.inf]
        out.print(
            f"{path}: {len(found.exponents)} exponents of {state}, largest {order[0]:.4f}, "
            f"mean {sum(order) / len(order):.4f}, smallest {order[-1]:.4f}; {found.n_minus_inf} of them -inf; "
            f"standard error {float(found.standard_error().square().mean().sqrt()):.4f} (root mean square)",
            soft_wrap=True,
        )
    for _, other in spectra[1:]:
        out.print(f"Distance (l2): {float(spectrum_distance(spectra[0][1], other)):.4f}")
    table, picture = (output.with_name(output.name + suffix) for suffix in (".npz", ".svg"))
    spectra[0][1].save(table)
    names = [path if len(path) <= 40 else f"…{path[-39:]}" for path, _ in spectra]
    exponents = {name: found.exponents.tolist() for name, (_, found) in zip(names, spectra, strict=True)}
    errors = {name: found.standard_error().tolist() for name, (_, found) in zip(names, spectra, strict=True)}
    spectra_figure(exponents, errors).savefig(picture)
    out.print(f"Wrote {table} and {picture}.", soft_wrap=True)


def _experiment(path: Path | None, named: str | None, data: Path | None, unit: str | None) -> Experiment:
    """The experiment that a file, a preset or the options describe."""
    where: dict[str, Any] = {} if data is None else {"folder": data.resolve()}
    what: dict[str, Any] = {} if unit is None else {"unit": unit}
    if path is not None and named is not None:
        raise ExperimentError(
            f"An experiment is a file or a preset, and {path} and {named!r} are both given: give one."
        )
    if named is not None and unit is not None:
        raise ExperimentError(f"A preset says what a token is, and --unit {unit} is given beside it: leave it out.")
    if named is not None:
        return read_preset(named, data)
    if path is not None:
        return replaced(read_experiment(path), data=where | what)
    if data is not None and unit in (None, "word"):
        return words(data.resolve())
    return Experiment(data=where | what)


def _search(experiment: Experiment, folder: Path, workers: int) -> None:
    """Run a search with progress; end with the tables."""
    pool = executor(workers)
    try:
        with _progress(folder, workers) as on_fact:
            hyperprune(experiment, folder, executor=pool, on_fact=on_fact)
    except BaseException as error:
        stop(pool)
        raise typer.Exit(explain(error, folder)) from None
    pool.shutdown()
    _print_results(folder)
    out.print(f"Report: {folder / 'report.html'}", soft_wrap=True)


@contextmanager
def _progress(folder: Path, workers: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A live table in a terminal, plain lines otherwise."""
    if not out.is_terminal:
        yield lambda fact: out.print(line, soft_wrap=True) if (line := progress.line(fact)) else None
        return

    def view() -> Any:
        try:
            return progress.status_table(progress.status(folder), workers=workers)
        except RunFolderError:  # not begun yet
            return "Reading the text ..."

    with Live(get_renderable=view, console=out, refresh_per_second=2, transient=True):
        yield lambda fact: None


def _print_results(folder: Path) -> None:
    rows = tables.results(folder)
    out.print(tables.results_table(rows))
    out.print(tables.correlations_table(tables.correlations(folder)))
    out.print(tables.verdict(rows))


def _dry_run(experiment: Experiment, folder: Path, workers: int) -> None:
    """What a search would do: its first candidates, rounds, epochs, and a time from a timed slice."""
    plan = experiment.plan()
    check(plan)
    points = ask(plan, 0)
    for index, point in enumerate(points):
        out.print(f"{candidate_name(index)}  " + ", ".join(str(value) for value in point.values()), soft_wrap=True)
    if plan.pool > len(points):
        out.print(f"... and {plan.pool - len(points)} more, which depend on what these show.")
    for epoch, keep in zip(plan.rungs, plan.keep, strict=True):
        out.print(f"After epoch {epoch} each judge ({', '.join(plan.objectives)}) keeps {keep}.")
    rounds: dict[str, Any] = {"pool": plan.pool, "rungs": plan.rungs, "keep": plan.keep, "epochs": plan.train.epochs}
    everything = plan.pool * plan.train.epochs
    bound = everything if plan.exhaustive else min(everything, most(judges=len(plan.objectives), **rounds))
    out.print(f"A judge's search trains {cost(**rounds)} epochs; training the whole pool would be {everything}.")
    out.print(f"Together, and with the dense network, at most {bound + plan.train.epochs} epochs.")
    seconds = seconds_per_epoch(job(plan, folder, Candidate(candidate_name(0), 0, points[0]), 1))
    hours = (bound + plan.train.epochs) * seconds / workers / 3600
    out.print(f"An epoch takes about {seconds:.1f} s here; on {workers} at a time at most about {_duration(hours)}.")


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def main() -> None:
    """The entry point."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    signal.signal(signal.SIGTERM, terminate)
    app()


if __name__ == "__main__":
    main()
