"""The calls that do everything: a whole search, and the spectrum of a model file."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from itertools import chain
from pathlib import Path
from typing import Literal

from hyperpruning.data.corpus import builtin_text
from hyperpruning.experiment import EXPERIMENT, Experiment, located, read_experiment
from hyperpruning.export import describe_model, load_model, save_model
from hyperpruning.lyapunov.spectrum import Spectrum, lyapunov_spectrum
from hyperpruning.report.page import write_report
from hyperpruning.search.ledger import Fact, History, locked
from hyperpruning.search.plan import DENSE, Plan, check, job
from hyperpruning.search.search import refuse_another, search
from hyperpruning.search.slices import best_of
from hyperpruning.sparsity.spelling import spelled
from hyperpruning.training.checkpoint import write_atomic
from hyperpruning.training.pruning import prunable_weights
from hyperpruning.training.task import LanguageModelling


def hyperprune(
    experiment: Experiment | Plan,
    folder: Path | str,
    *,
    executor: Executor | None = None,
    on_fact: Callable[[Fact], None] | None = None,
) -> History:
    """Find the best way to prune: the whole search in one call. Calling it again continues it.

    Args:
        experiment: what to search: an `Experiment` for language models of a text, a `Plan` for a task of your own.
        folder: the run folder; an experiment is written into it, so that `hyperprune resume` can go on.
        executor: a `concurrent.futures.Executor`; by default candidates are trained in this process.
        on_fact: is called with each new line of the ledger.

    Returns:
        what the ledger says at the end: `winners`, `finals`, `rounds`, `epochs`. The run folder holds the winner
        (``winner.safetensors``, see `load_model`), the dense network, and ``report.html``.

    Raises:
        ValueError: an experiment or a text that cannot be used.
        RunFolderError: a folder that is in use or holds another search.
    """
    folder = Path(folder)
    plan = experiment.plan() if isinstance(experiment, Experiment) else experiment
    check(plan)
    with locked(folder):
        refuse_another(plan, folder)
        if isinstance(experiment, Experiment):
            write_atomic(folder / EXPERIMENT, located(Path.cwd(), experiment).to_toml().encode())
        history = search(plan, folder, executor=executor, on_fact=on_fact)
        _export(plan, history, folder)
        write_report(folder)
    return history


def model_spectrum(
    model: Path,
    *,
    data: Path | None = None,
    state: Literal["h", "full"] = "h",
    steps: int = 60,
    warmup: int = 20,
    sequences: int = 4,
) -> Spectrum:
    """The Lyapunov spectrum of a model file, driven by text.

    Args:
        model: a ``*.safetensors``, or a run folder for its winner.
        data: a folder with the validation text; None takes the text that a run folder's search used, or the built-in
            one for a model of it.
        state: "h", or "full" for an LSTM's (h, c).
        steps, warmup: tokens measured, and tokens before.
        sequences: windows of the text, averaged.

    Raises:
        ValueError: no text is known, or one with another vocabulary.
    """
    path = model / "winner.safetensors" if model.is_dir() else model
    network, description = load_model(path), describe_model(path)
    if data is None and (path.parent / EXPERIMENT).is_file():
        data = read_experiment(path.parent / EXPERIMENT).data.folder
    if data is None and description.get("corpus") != builtin_text().name:
        raise ValueError(f"A spectrum needs the text that drives the network, and {path} has none: give --data.")
    task = LanguageModelling(
        folder=data,
        unit=description["unit"],
        **description["model"],
        probe_steps=warmup + steps,
        probe_batch=sequences,
    )
    if list(task.corpus().vocabulary) != description["vocabulary"]:
        raise ValueError(
            f"A model reads the vocabulary it learnt, and {data or 'the built-in text'} has another one than {path}: "
            "give the --data it was trained on."
        )
    recurrent, probe = task.recurrence(network)
    return lyapunov_spectrum(recurrent, probe, state=state, warmup=warmup)


def _export(plan: Plan, history: History, folder: Path) -> None:
    """Write the first judge's winner and the dense network as model files."""
    winner = history.winners[plan.objectives[0]]
    for file, network in (("winner", winner), ("dense", DENSE)):
        done, final = job(plan, folder, history.candidates.get(network), plan.train.epochs), history.finals[network]
        network_there = done.task.network(plan.train.seed)
        once = {key for key, _ in chain(network_there.named_parameters(), network_there.named_buffers())}
        weights = {key: value for key, value in best_of(done, final["sha256"]).items() if key in once}  # tied ones once
        description = done.task.describe(network_there) | {
            "network": network,
            "method": None if done.method is None else spelled(done.method),
            "sparsity": 1 - final["active"] / prunable_weights(done.task, network_there, plan.train),
            **{key: final[key] for key in ("best_epoch", "valid_loss", "test_loss", "sha256")},
        }
        save_model(folder / f"{file}.safetensors", weights, description)
