"""The command `hyperprune`; each subcommand calls the library."""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.live import Live
from torch import nn

from hyperpruning.api import dynamic_evaluation, evaluate_model, hyperprune, model_spectrum
from hyperpruning.cli_errors import explain, guarded, interrupt, say_time_is_up
from hyperpruning.cli_models import add_commands, deployed_table
from hyperpruning.data import download
from hyperpruning.deploy.benchmark import deployed_sizes
from hyperpruning.deploy.c_export import export_c
from hyperpruning.deploy.compact import PRECISIONS
from hyperpruning.deploy.model_file import ModelFileError
from hyperpruning.deploy.model_folder import describe
from hyperpruning.deploy.onnx_export import export_onnx
from hyperpruning.experiment import (
    DEFAULT_KIND,
    EXPERIMENT,
    KINDS,
    Experiment,
    ExperimentError,
    data_setting,
    demo_experiment,
    preset,
    presets,
    read_experiment,
    read_preset,
    replaced,
    word_experiment,
)
from hyperpruning.exports import export as export_network
from hyperpruning.exports import network_of, plan_of, read_search
from hyperpruning.files import write_atomic
from hyperpruning.lyapunov.distances import spectrum_distance
from hyperpruning.network_costs import step_times
from hyperpruning.report import comparing, tables, terminal, tradeoffs, watching
from hyperpruning.report import status as progress
from hyperpruning.report.figures import spectra_figure
from hyperpruning.report.page import write_report
from hyperpruning.report.run import WINNER, file_of, read_run
from hyperpruning.report.trust import trust_said
from hyperpruning.report.verdict import verdict
from hyperpruning.search.brackets import SCHEDULERS
from hyperpruning.search.driver import ask
from hyperpruning.search.executors import ANY, chosen_executor, stop
from hyperpruning.search.forecast import epochs_of_one_search
from hyperpruning.search.history import DENSE, Candidate, Fact
from hyperpruning.search.ledger import LEDGER, RunFolderError, read
from hyperpruning.search.plan import candidate_name
from hyperpruning.search.replay import replay_many
from hyperpruning.search.tables import load_table, save_table, table_of
from hyperpruning.search.validation import validate
from hyperpruning.search.worker import job_for, seconds_per_epoch
from hyperpruning.training.record import Metric

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
WIDTH = None if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit() else 110  # None: the terminal's
out = Console(highlight=False, markup=False, emoji=False, width=WIDTH)


def _named(value: str | Path) -> Path:
    """A path from the command line; Path("") would be the working directory."""
    if not str(value):
        raise typer.BadParameter('A path must have at least one character, got "". Give one.')
    return Path(value)


Workers = Annotated[int, typer.Option(min=1, help="Networks trained at the same time, one process each.")]
Dask = Annotated[
    str | None, typer.Option("--dask", metavar="ADDRESS", help='Train on a Dask cluster: tcp://HOST:8786, or "local".')
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help='Train on a Ray cluster: HOST:6379, "auto" or "local"; no address: the running one, else "local".',
    ),
]
Gpus = Annotated[float, typer.Option("--gpus", min=0, help="GPUs per network on a Ray cluster; 0.25: four on each.")]
Fallback = Annotated[
    bool, typer.Option("--fallback", help="If the cluster cannot be reached, train in processes of this machine.")
]
TransferMb = Annotated[
    float | None,
    typer.Option(
        "--transfer-mb", min=0.001, help="No shared disk: checkpoints of at most so many MB travel with their jobs."
    ),
]
MaxHours = Annotated[
    float | None, typer.Option(help="Stop after so many hours, within an epoch too (exit code 3); resume continues.")
]
Out = Annotated[Path, typer.Option("--out", parser=_named, metavar="PATH", help="The run folder.")]
STEM_HELP = "Stem of the files: STEM.npz and STEM.svg."
Stem = Annotated[Path, typer.Option("--out", parser=_named, metavar="PATH", help=STEM_HELP)]
Run = Annotated[Path, typer.Argument(help="The run folder of a search.")]
Model = Annotated[Path, typer.Argument(help="A model file (*.safetensors), or a run folder for its winner.")]
Text = Annotated[
    Path | None, typer.Option(help="Folder of the text, or file of the arrays; default: what it was trained on.")
]
Device = Annotated[str, typer.Option(help='"cpu", "cuda", "cuda:1"; "auto": cuda if available.')]
PRESET = typer.Option("--preset", help=f"A documented experiment on --data: {', '.join(presets())}.")
Fraction = Annotated[float | None, typer.Option(help="Fraction of the text to read; default: as in training.")]
DEFAULT_WORKERS = 1 if torch.cuda.is_available() else os.cpu_count() or 1  # a GPU may not hold several networks
DEMO_WORKERS = min(2, DEFAULT_WORKERS)


def _show_version(shown: bool) -> None:
    if shown:
        out.print(f"hyperprune {version('hyperpruning')}")
        raise typer.Exit


@app.callback()
def hyperprune_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Find the best way to prune a recurrent network, without training every candidate to the end."""


@app.command(epilog="Example: hyperprune demo --out runs/demo --workers 2")
@guarded
def demo(folder: Out = Path("runs/demo"), workers: Workers = DEMO_WORKERS) -> None:
    """Run a whole search on Python's own help texts: a few minutes, no download."""
    _search(demo_experiment(), folder, workers, chosen_executor(workers))
    out.print(deployed_table(deployed_sizes(folder / file_of(DENSE), folder / WINNER)))
    out.print(f"Deploy it: hyperprune export {folder} --out model --precision int8", soft_wrap=True)


@app.command(epilog="Example: hyperprune search --data my_text --sparsity 0.8 --out runs/mine")
@guarded
def search(
    experiment: Annotated[Path | None, typer.Argument(help="An experiment.toml; see `hyperprune init`.")] = None,
    data: Annotated[Path | None, typer.Option(help="A folder with train, valid and test text.")] = None,
    unit: Annotated[str | None, typer.Option(help='A token: "word" (default with --data) or "character".')] = None,
    preset_name: Annotated[str | None, PRESET] = None,
    sparsity: Annotated[float | None, typer.Option(help="Fraction of weights that are zero.")] = None,
    latency: Annotated[
        str | None, typer.Option(help='In place of --sparsity: a step takes "0.3x" of the dense one, or "40us".')
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, masks, dropout and suggestions.")] = None,
    folder: Out = Path("runs/search"),
    workers: Workers = DEFAULT_WORKERS,
    dask: Dask = None,
    ray: Ray = None,
    gpus: Gpus = 0,
    fallback: Fallback = False,
    transfer_mb: TransferMb = None,
    max_hours: MaxHours = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and an estimated time.")] = False,
) -> None:
    """Find the best way to prune a language model of a text. Run it again to continue."""
    if experiment is None and data is None and preset_name is None:
        raise ExperimentError(
            "A search must have an experiment.toml, --data DIR or --preset NAME, got none. Give one of them: "
            "`hyperprune init` writes an experiment.toml, and `hyperprune demo` needs none of them."
        )
    if sparsity is not None and latency is not None:
        raise ExperimentError(
            f"--sparsity must be left out with --latency, which gives it, got {sparsity} and {latency}. Give one."
        )
    pruning: dict[str, Any] = {} if sparsity is None else {"sparsity": sparsity}
    pruning |= {} if latency is None else {"latency": latency}
    training = {} if seed is None else {"seed": seed}
    chosen = replaced(_experiment(experiment, preset_name, data, unit), pruning=pruning, training=training)
    if dry_run:
        _dry_run(chosen, folder, workers)
    else:
        executor = chosen_executor(workers, dask=dask, ray=ray, gpus=gpus, fallback=fallback, transfer_mb=transfer_mb)
        _search(_limited(chosen, max_hours), folder, workers, executor)


@app.command(epilog="Example: hyperprune init experiment.toml --data my_text")
@guarded
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("experiment.toml"),
    data: Annotated[Path | None, typer.Option(help="A folder with train, valid and test text.")] = None,
    unit: Annotated[str | None, typer.Option(help='A token: "word" (default with --data) or "character".')] = None,
    preset_name: Annotated[str | None, PRESET] = None,
    task: Annotated[str, typer.Option(help=f"What is learnt: {', '.join(KINDS)}.")] = DEFAULT_KIND,
) -> None:
    """Write a commented experiment.toml: all settings, or a preset with the sources of its numbers."""
    if path.exists():
        raise FileExistsError(f"The file to write must not exist, got {path}. Name another one.")
    experiment = _experiment(None, preset_name, data, unit, task)
    text = experiment.to_toml() if preset_name is None else preset(preset_name, experiment.data.folder)
    write_atomic(path, text.encode())
    out.print(f"Wrote {path}. Run it: hyperprune search {path} --out runs/mine", soft_wrap=True)


@app.command(epilog="Example: hyperprune resume runs/mine")
@guarded
def resume(
    folder: Run,
    workers: Workers = DEFAULT_WORKERS,
    dask: Dask = None,
    ray: Ray = None,
    gpus: Gpus = 0,
    fallback: Fallback = False,
    transfer_mb: TransferMb = None,
    max_hours: MaxHours = None,
) -> None:
    """Continue a search that was interrupted."""
    if not (folder / EXPERIMENT).exists():
        read(folder)
        raise RunFolderError(
            f"A run folder must have an {EXPERIMENT} to be resumed, got {folder} without one. Call `hyperprune search` "
            "(or, for your own plan, hp.hyperprune) again with the same arguments."
        )
    experiment = _limited(read_experiment(folder / EXPERIMENT), max_hours)
    executor = chosen_executor(workers, dask=dask, ray=ray, gpus=gpus, fallback=fallback, transfer_mb=transfer_mb)
    _search(experiment, folder, workers, executor)


@app.command(epilog="Example: hyperprune status runs/mine")
@guarded
def status(
    folder: Run,
    workers: Workers = DEFAULT_WORKERS,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Show the progress of a search, also while it runs."""
    _check_started(folder)
    found = progress.status(folder)
    if as_json:
        typer.echo(json.dumps(progress.to_json(found, workers=workers)))
    else:
        out.print(progress.status_table(found, workers=workers))


@app.command(epilog="Example: hyperprune watch runs/mine --tensorboard runs/events")
@guarded
def watch(
    folder: Run,
    events: Annotated[
        Path | None, typer.Option("--tensorboard", help="Write event files for TensorBoard into this empty folder.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option("--optuna-storage", metavar="URL", help="Mirror into a storage of Optuna: sqlite:///optuna.db."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Write what is there, and end.")] = False,
) -> None:
    """Show a search in TensorBoard or in optuna-dashboard, also while it runs."""
    if events is None and storage is None:
        raise ValueError(
            "A search must be shown somewhere, got nothing. Add --tensorboard DIR or --optuna-storage URL."
        )
    if once:
        read(folder)
    observers = [] if events is None else [watching.tensorboard(events)]
    observers += [] if storage is None else [watching.optuna_storage(storage, folder.resolve().name)]
    for fact in watching.follow(folder, every=0 if once else 2):
        for observer in observers:
            observer(fact)


@app.command(epilog="Example: hyperprune compare runs/one runs/two --out compare.html")
@guarded
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN ...", help="The run folders of several searches.")],
    output: Annotated[
        Path | None, typer.Option("--out", parser=_named, metavar="PATH", help="Write an HTML page, too.")
    ] = None,
) -> None:
    """Compare the results of several searches, finished or not."""
    rows = comparing.compare(folders)
    out.print(comparing.comparison_table(rows))
    for note in comparing.notes(rows):
        out.print(note, soft_wrap=True)
    if output is not None:
        out.print(f"Page: {comparing.write_comparison(rows, output)}", soft_wrap=True)


@app.command(epilog="Example: hyperprune report runs/mine")
@guarded
def report(
    folder: Run,
    output: Annotated[
        Path | None,
        typer.Option("--out", parser=_named, metavar="PATH", help="The page; default: report.html in the run folder."),
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="Measure a step of each finished network in the decoder, here and now.")
    ] = False,
) -> None:
    """Print the tables of a search, finished or not, and write its report."""
    _check_started(folder)
    times = _step_times(folder) if latency else None
    _print_results(folder, times)
    out.print(f"Report: {write_report(folder, output, times=times)}", soft_wrap=True)


@app.command(epilog="Example: hyperprune export runs/mine --out model --precision int8")
@guarded
def export(
    folder: Annotated[Path, typer.Argument(help="A run folder; for --c and --onnx also a model folder or file.")],
    criterion: Annotated[str | None, typer.Option(help="Export the winner by this criterion.")] = None,
    candidate: Annotated[str | None, typer.Option(help="Export this candidate, e.g. c07.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--out",
            parser=_named,
            metavar="PATH",
            help="A model folder, or a file *.safetensors; default: the run's winner.",
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help=f"Of a model folder: {', '.join(PRECISIONS)}.")] = "exact",
    plain: Annotated[
        bool, typer.Option("--plain", help="A plain state_dict, in the file or beside the others.")
    ] = False,
    code: Annotated[
        Path | None, typer.Option("--c", parser=_named, metavar="FILE.c", help="C99 and a header, no dependencies.")
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option("--onnx", parser=_named, metavar="FILE.onnx", help="One step as ONNX, state in and out."),
    ] = None,
    sequences: Annotated[bool, typer.Option("--sequences", help="For --onnx: whole sequences.")] = False,
) -> None:
    """Choose which network is the winner of a search, or write a network: a model folder or file, C or ONNX."""
    if code is not None or onnx is not None:
        network = network_of(folder, criterion=criterion, candidate=candidate)
        if code is not None:
            _export_code(network, code, precision)
        if onnx is not None:
            written = export_onnx(network, onnx, sequences=sequences, precision=precision)
            out.print(f"Wrote {written}: {written.stat().st_size:,} bytes.", soft_wrap=True)
        if output is None:
            return
    path = export_network(
        folder, criterion=criterion, candidate=candidate, out=output, precision=precision, plain=plain
    )
    out.print(f"Wrote {path}{_about(path)}.", soft_wrap=True)


def _export_code(network: nn.Module, path: Path, precision: str) -> None:
    written = export_c(network, path, precision=precision)
    out.print(
        f"Wrote {written.source} and {written.header}: {written.constants:,} bytes of constants, {written.state:,} "
        "bytes for each state.",
        soft_wrap=True,
    )


def _about(path: Path) -> str:
    """What was exported; a plain state_dict says nothing of itself."""
    try:
        about = describe(path)
    except ModelFileError:
        return ""
    size = f", {about['weights_bytes'] / about['dense_bytes']:.1%} of the dense bytes" if path.is_dir() else ""
    return f": {about['network']}, {about['active']:,} active weights{size}"


@app.command(epilog="Example: hyperprune table runs/pool --out pool.npz")
@guarded
def table(
    folders: Annotated[list[Path], typer.Argument(help="A finished search with train_all; then ones of other seeds.")],
    output: Annotated[Path, typer.Option("--out", parser=_named, metavar="PATH", help="The table, NAME.npz.")],
) -> None:
    """Make a table of a finished pool, on which searches can be replayed."""
    found = table_of(folders, output.stem)
    save_table(found, output)
    out.print(
        f"Wrote {output}: {len(found.configs)} candidates, {found.epochs} epochs, {found.final_valid.shape[1]} seeds.",
        soft_wrap=True,
    )


@app.command(epilog="Example: hyperprune replay pool.npz --criterion ls --criterion loss --rungs 1,3 --keep 6,2")
@guarded
def replay(
    tables_: Annotated[list[Path], typer.Argument(metavar="TABLE...", help="Tables that `hyperprune table` wrote.")],
    criterion: Annotated[list[str] | None, typer.Option(help="Criteria, each searched alone.")] = None,
    scheduler: Annotated[str, typer.Option(help=f"One of {', '.join(SCHEDULERS)}.")] = "halving",
    rungs: Annotated[str | None, typer.Option(help="For rounds, e.g. 1,3.")] = None,
    keep: Annotated[str | None, typer.Option(help="For rounds, e.g. 6,2.")] = None,
    min_epochs: Annotated[int, typer.Option(min=1, help="For halving and hyperband.")] = 1,
    reduction_factor: Annotated[int, typer.Option(min=2, help="For halving and hyperband.")] = 3,
    n_followed: Annotated[int, typer.Option(min=0, help="Candidates that are followed, for calibrated.")] = 0,
    n_candidates: Annotated[int | None, typer.Option(min=2, help="Of a search; default: half of the pool.")] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="Epochs of a search, with the dense reference's.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Searches on random parts of each pool.")] = 200,
) -> None:
    """Replay searches on tables: the regret of each criterion, 0 for the best of a pool and 1 for its median."""
    settings: dict[str, Any] = {"scheduler": scheduler, "min_epochs": min_epochs, "max_epochs": budget}
    settings |= {"reduction_factor": reduction_factor, "n_followed": n_followed}
    settings |= {name: _numbers(name, text) for name, text in (("rungs", rungs), ("keep", keep)) if text is not None}
    if scheduler == "rounds" and not {"rungs", "keep"} <= settings.keys():
        raise ValueError("--rungs and --keep must be given with --scheduler rounds, got none. Give both.")
    for path in tables_:
        found = replay_many(
            load_table(path), criterion or ["ls", "loss"], repeats=repeats, n_candidates=n_candidates, **settings
        )
        out.print(terminal.replayed(found))


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--{name} must be whole numbers joined by commas, got {text!r}. Write 1,3.") from None


@app.command(epilog="Example: hyperprune fetch ptb data/ptb")
@guarded
def fetch(
    corpus: Annotated[str, typer.Argument(help='"ptb" (licensed by the LDC) or "wikitext-2" (CC BY-SA).')],
    folder: Annotated[Path, typer.Argument(help="Folder for its three splits.")],
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


@app.command(epilog="Example: hyperprune evaluate runs/mine --split test")
@guarded
def evaluate(
    model: Model,
    data: Text = None,
    fraction: Fraction = None,
    split: Annotated[str, typer.Option(help='"valid" or "test".')] = "test",
    batch: Annotated[int, typer.Option(min=1, help="Parallel streams; 1: one unbroken text.")] = 1,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Dynamic evaluation: the model learns from the text. Slow.")
    ] = False,
    statistics: Annotated[float, typer.Option(help="For --dynamic: fraction of the training text read first.")] = 1.0,
    device: Device = "auto",
    decoder: Annotated[str | None, typer.Option(help='Evaluate by the CPU decoder: "exact" or "int8".')] = None,
) -> None:
    """The perplexity of a trained model, or the metric of another task, and how it was measured."""
    if statistics != 1 and not dynamic:
        raise ValueError(f"--statistics must be left out without --dynamic, got {statistics}. Add --dynamic.")
    settings = dynamic_evaluation(model, statistics=statistics) if dynamic else None
    found = evaluate_model(
        model, data=data, fraction=fraction, split=split, batch=batch, dynamic=settings, device=device, decoder=decoder
    )
    out.print(
        f"{model}: {split} {found.metric.name} {found.value:.3f}{found.metric.unit and ' ' + found.metric.unit}, "
        f"{found.loss:.5f} {'nats per token' if found.of == 'token' else 'loss'}, {found.count:,} {found.of}s "
        "predicted.",
        soft_wrap=True,
    )
    out.print(found.protocol, soft_wrap=True)


@app.command(epilog="Example: hyperprune spectrum runs/mine/winner.safetensors --against runs/mine/dense.safetensors")
@guarded
def spectrum(
    model: Model,
    data: Text = None,
    fraction: Fraction = None,
    against: Annotated[Path | None, typer.Option(help="A second model to compare with.")] = None,
    state: Annotated[str, typer.Option(help='"h", or "full" for an LSTM\'s (h, c).')] = "h",
    steps: Annotated[int | None, typer.Option(min=2, help="Tokens measured (60), or steps (all).")] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help="Tokens (20) or steps before the measurement.")] = None,
    sequences: Annotated[int, typer.Option(min=1, help="Windows of the validation text, or sequences.")] = 4,
    output: Stem = Path("spectrum"),
    device: Device = "auto",
) -> None:
    """The Lyapunov spectrum of a trained model, in nats per step: a summary, a file and a figure."""
    models = [model] if against is None else [model, against]
    probe: dict[str, Any] = {"state": state, "steps": steps, "warmup": warmup, "sequences": sequences, "device": device}
    spectra = [(str(path), model_spectrum(path, data=data, fraction=fraction, **probe)) for path in models]
    one = spectra[0][1]
    out.print(f"{one.steps} steps x {one.growth.shape[1]} sequences after {one.warmup} of warm-up, in nats per step:")
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


add_commands(app, out)


def _experiment(
    path: Path | None, preset_name: str | None, data: Path | None, unit: str | None, task: str = DEFAULT_KIND
) -> Experiment:
    """The experiment that a file, a preset or the options describe."""
    if task != DEFAULT_KIND:
        if preset_name is not None or unit is not None:
            raise ExperimentError(f"--task must be left out with --preset or --unit, got {task}.")
        empty = Experiment(task={"kind": task})
        return empty if data is None else replaced(empty, data={data_setting(empty): data.resolve()})
    where: dict[str, Any] = {} if data is None else {"folder": data.resolve()}
    what: dict[str, Any] = {} if unit is None else {"unit": unit}
    if path is not None and preset_name is not None:
        raise ExperimentError(
            f"An experiment must be a file or a preset, got both {path} and {preset_name!r}. Give one of them."
        )
    if preset_name is not None and unit is not None:
        raise ExperimentError(f"--unit must be left out with --preset, got {unit}. The preset sets it.")
    if preset_name is not None:
        return read_preset(preset_name, data)
    if path is not None:
        read = read_experiment(path)
        return replaced(read, data={data_setting(read): folder for folder in where.values()} | what)
    if data is not None and unit in (None, "word"):
        return word_experiment(data.resolve())
    return Experiment(data=where | what)


def _limited(experiment: Experiment, max_hours: float | None) -> Experiment:
    """The experiment with another budget in wall-clock time, if one is given."""
    return experiment if max_hours is None else replaced(experiment, search={"max_hours": max_hours})


def _check_started(folder: Path) -> None:
    """Check that a search that has begun has written its first line; warn of damaged ones."""
    if (folder / EXPERIMENT).is_file() and not (folder / LEDGER).exists():
        raise RunFolderError(
            f"Nothing has been recorded in {folder} yet. Continue with: hyperprune resume {shlex.quote(str(folder))}"
        )
    read(folder, warn=True)


def _search(experiment: Experiment, folder: Path, workers: int, executor: Executor | None) -> None:
    """Run a search with a progress display; print the tables at the end, or how to continue it."""
    try:
        with _progress(folder, workers, experiment.plan().metric) as on_fact:
            hyperprune(experiment, folder, executor=executor, on_fact=on_fact)
    except BaseException as error:
        if executor is not None:
            stop(executor)
        if isinstance(error, SystemExit):  # rich's, when the output pipe is closed
            raise
        raise typer.Exit(explain(error, folder)) from None
    if executor is not None:
        executor.shutdown()
    if not read_run(folder).finished:
        out.print(progress.status_table(progress.status(folder), workers=workers))
        raise typer.Exit(say_time_is_up(experiment.search.max_hours, folder))
    times = None if experiment.pruning.latency is None else _step_times(folder)
    _print_results(folder, times)
    path = folder / "report.html" if times is None else write_report(folder, times=times)
    out.print(f"Report: {path}", soft_wrap=True)


@contextmanager
def _progress(folder: Path, workers: int, metric: Metric) -> Iterator[Callable[[Fact], None]]:
    """A live table in a terminal, plain lines otherwise."""
    if not out.is_terminal:
        yield lambda fact: out.print(said, soft_wrap=True) if (said := progress.line(fact, metric)) else None
        return

    def view() -> Any:
        try:
            return progress.status_table(progress.status(folder), workers=workers)
        except RunFolderError:  # not started yet
            return "Reading the text ..."

    with Live(get_renderable=view, console=out, refresh_per_second=2, transient=True):
        yield lambda fact: None


def _print_results(folder: Path, times: Mapping[str, float] | None = None) -> None:
    rows, correlations = tables.results(folder), tables.correlations(folder)
    if rows:
        out.print(terminal.results_table(rows))
    run = read_run(folder)
    if len(found := tradeoffs.tradeoffs(run, times)) > 1:
        out.print(terminal.tradeoffs_table(found))
        out.print(tradeoffs.meaning(found))
    if said := tradeoffs.latency_said(run, times):
        out.print(said)
    if any(found.rho is not None for found in correlations):
        out.print(terminal.correlations_table(correlations))
    out.print(verdict(rows, run.notes))
    if said := trust_said(run):
        out.print(said)


def _step_times(folder: Path) -> Mapping[str, float]:
    """The microseconds of a step of each finished network; the networks are those of the run folder's experiment."""
    plan, history = read_search(folder)
    return step_times(plan, history, folder)


def _dry_run(experiment: Experiment, folder: Path, workers: int) -> None:
    """Print what a search would do: its first candidates, rounds, epochs and estimated time."""
    plan = plan_of(experiment, folder)
    validate(plan)
    configs = ask(plan, 0)
    for index, config in enumerate(configs):
        out.print(f"{candidate_name(index)}  " + ", ".join(str(value) for value in config.values()), soft_wrap=True)
    if plan.n_candidates > len(configs):
        out.print(f"... and {plan.n_candidates - len(configs)} more, which depend on the results of these.")
    for epoch, keep in zip(plan.rungs, plan.keep, strict=True):
        kept = f"promotes at most {keep}" if plan.scheduler == "asha" else f"keeps {keep}"
        out.print(f"After epoch {epoch} each criterion ({', '.join(plan.criteria)}) {kept}.")
    one = epochs_of_one_search(plan, plan.criteria[0], plan.n_candidates)
    everything = plan.n_candidates * plan.train.epochs
    out.print(f"A search by one criterion trains {one} epochs; all candidates to the end would be {everything} epochs.")
    epochs = plan.most_epochs()
    out.print(f"All criteria and the dense networks together train at most {epochs} epochs.")
    seconds = seconds_per_epoch(job_for(plan, folder, Candidate(candidate_name(0), 0, configs[0]), 1))
    hours = epochs * seconds / workers / 3600
    out.print(
        f"An epoch takes about {seconds:.1f} s here; the search at most about {_duration(hours)} on {workers} workers."
    )


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def main() -> None:
    """The entry point."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not in a shell's background jobs
        signal.signal(signal.SIGINT, interrupt)
    app(words_of(sys.argv[1:]))


def words_of(arguments: Sequence[str]) -> list[str]:
    """The words of a command line, with an address where --ray has none: options of typer cannot lack their value.

    >>> words_of(["search", "mine.toml", "--ray", "--workers", "4"])
    ['search', 'mine.toml', '--ray', 'any', '--workers', '4']
    """
    words: list[str] = []
    for word, following in zip(arguments, [*arguments[1:], "-"], strict=False):
        words += [word, ANY] if word == "--ray" and following.startswith("-") else [word]
    return words


if __name__ == "__main__":
    main()
