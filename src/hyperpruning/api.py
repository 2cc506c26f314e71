"""The top-level calls: a whole search, and the spectrum and the perplexity of a model file."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from hyperpruning.data.corpus import builtin_text
from hyperpruning.deploy.model_file import describe_model, load_model, save_model
from hyperpruning.experiment import EXPERIMENT, Experiment, read_experiment, with_absolute_folder
from hyperpruning.kernels import float32_precision
from hyperpruning.lyapunov.spectrum import Spectrum, lyapunov_spectrum
from hyperpruning.models.language_model import LanguageModel
from hyperpruning.report.page import write_report
from hyperpruning.search.driver import search
from hyperpruning.search.history import DENSE, Fact, History
from hyperpruning.search.plan import Plan
from hyperpruning.search.worker import job_for, verified_weights
from hyperpruning.sparsity.serialization import to_config
from hyperpruning.tasks.dynamic_evaluation import PTB, PUBLISHED, DynamicEvaluation, dynamic_loss, gradient_scale
from hyperpruning.tasks.language_modelling import LanguageModelling
from hyperpruning.training.device import device_of
from hyperpruning.training.pruning import prunable_weights
from hyperpruning.training.record import Metric
from hyperpruning.training.task import description_of


def hyperprune(
    experiment: Experiment | Plan,
    folder: Path | str,
    *,
    executor: Executor | None = None,
    on_fact: Callable[[Fact], None] | None = None,
) -> History:
    """Run a whole search, or continue it if it was interrupted.

    Args:
        experiment: an `Experiment` for language models, or a `Plan` for your own task.
        folder: the run folder; an experiment is written into it, so that `hyperprune resume` can continue the search.
        executor: a `concurrent.futures.Executor`; by default candidates are trained in this process.
        on_fact: called with each new fact after it is written to the ledger.

    Returns:
        the content of the ledger: `winners`, `finals`, `rounds`, `epochs`. The run folder has the winner
        (``winner.safetensors``, see `load_model`), the dense network, and ``report.html``.

    Raises:
        ValueError: the experiment or its text is invalid.
        RunFolderError: the folder is in use or belongs to another search.
    """
    folder = Path(folder)
    plan = experiment.plan() if isinstance(experiment, Experiment) else experiment
    files = {}
    if isinstance(experiment, Experiment):
        files[EXPERIMENT] = with_absolute_folder(Path.cwd(), experiment).to_toml().encode()
    history = search(plan, folder, executor=executor, on_fact=on_fact, files=files)
    _export(plan, history, folder)
    write_report(folder)
    return history


def model_spectrum(
    model: Path,
    *,
    data: Path | None = None,
    fraction: float | None = None,
    state: Literal["h", "full"] = "h",
    steps: int = 60,
    warmup: int = 20,
    sequences: int = 4,
    device: str = "auto",
) -> Spectrum:
    """The Lyapunov spectrum of a model file, driven by text.

    Args:
        model: a ``*.safetensors``, or a run folder for its winner.
        data: a folder with the validation text; None uses the text of the search in the run folder, or the built-in
            text for a model that was trained on it.
        fraction: fraction of each split, from its start; None uses the fraction that the model was trained on.
        state: "h", or "full" for an LSTM's (h, c).
        steps: number of measured tokens.
        warmup: number of tokens before the measurement.
        sequences: number of windows of the text, over which the spectrum is averaged.
        device: "cpu", "cuda", "cuda:1"; "auto" is "cuda" if available, else "cpu".

    Returns:
        the spectrum, on the CPU.

    Raises:
        ValueError: the text is unknown, has changed since the training or has another vocabulary, or the device does
            not exist.
    """
    network, task = _load_with_task(model, data, fraction, device, probe_steps=warmup + steps, probe_batch=sequences)
    recurrent, probe = task.recurrence(network)
    spectrum = lyapunov_spectrum(recurrent, probe, state=state, warmup=warmup)
    return replace(spectrum, growth=spectrum.growth.cpu())


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a model on a text.

    Attributes:
        loss: mean cross-entropy in nats per token.
        tokens: number of predicted tokens.
        protocol: how the loss was measured, in a sentence.
        metric: in which the task tells its results.
    """

    loss: float
    tokens: int
    protocol: str
    metric: Metric

    @property
    def value(self) -> float:
        """The metric of the loss."""
        return self.metric.value(self.loss)


def dynamic_evaluation(model: Path, *, statistics: float = 1.0) -> DynamicEvaluation:
    """The published settings of dynamic evaluation for the text of a model, or those for the Penn Treebank.

    Args:
        model: as in `model_spectrum`.
        statistics: fraction of the training text that is read first, for the gradient statistics.
    """
    corpus = describe_model(_model_file(model)).get("corpus")
    return replace(PUBLISHED.get(str(corpus), PTB), fraction=statistics)


@float32_precision()
def evaluate_model(
    model: Path,
    *,
    data: Path | None = None,
    fraction: float | None = None,
    split: str = "test",
    batch: int = 1,
    dynamic: DynamicEvaluation | None = None,
    device: str = "auto",
) -> Evaluation:
    """The perplexity of a model file on a text.

    Args:
        model, data, fraction, device: as in `model_spectrum`.
        split: "valid" or "test".
        batch: number of parallel streams; 1 reads the text in one piece.
        dynamic: settings of dynamic evaluation, in which the model learns from the text; None: no learning.

    Raises:
        ValueError: the text is unknown, has changed since the training or has another vocabulary, or split, batch or
            device is invalid, or the loss is not finite.
    """
    if split not in ("valid", "test"):
        raise ValueError(f"split must be valid or test, got {split!r}.")
    if dynamic is not None and batch != 1:
        raise ValueError(f"batch must be 1 with dynamic evaluation, got {batch}.")
    network, task = _load_with_task(model, data, fraction, device, eval_batch=batch, test_batch=batch)
    text, train = getattr(task.corpus(), split), task.corpus().train
    tokens = (len(text) // batch - 1) * batch
    protocol = _protocol(batch, task.fraction)
    if dynamic is None:
        loss = task.evaluate(network, split)
    else:
        loss = dynamic_loss(network, text, gradient_scale(network, train, dynamic), dynamic)
        protocol = f"{protocol} {dynamic.sentence()}"
    if not math.isfinite(loss):
        raise ValueError(f"The loss of a model must be finite, got {loss} for {model}. Give one that has not diverged.")
    return Evaluation(loss, tokens, protocol, task.metric)


def _protocol(batch: int, fraction: float) -> str:
    text = "The text" if fraction == 1 else f"The first {fraction:.3g} of the text"
    if batch == 1:
        return f"{text} is read in one piece, and every token except the first is predicted."
    return (
        f"{text} is read in {batch} parallel streams of equal length, each with its own context; every token is "
        "predicted except the first of each stream and the rest after the last stream."
    )


def _model_file(model: Path) -> Path:
    return model / "winner.safetensors" if model.is_dir() else model


def _load_with_task(
    model: Path, data: Path | None, fraction: float | None, device: str, **reading: Any
) -> tuple[LanguageModel, LanguageModelling]:
    """Load a model file, or the winner in a run folder, onto a device, and the task with its text."""
    place, path, folder = device_of(device), _model_file(model), data
    network, description = load_model(path), describe_model(path)
    known = None
    if data is None and (path.parent / EXPERIMENT).is_file():
        settings = read_experiment(path.parent / EXPERIMENT).data
        folder, known = settings.folder, settings.known
    if folder is None and description.get("corpus") != builtin_text().name:
        raise ValueError(
            f"A text must be given unless the model is from the built-in text, got none for {path}. Give --data."
        )
    if "unit" not in description:
        raise ValueError(f"A model file must say what a token is, got no unit in {path}. Export it again.")
    fraction = description.get("fraction", 1.0) if fraction is None else fraction
    text: dict[str, Any] = {"folder": folder, "unit": description["unit"], "known": known, "fraction": fraction}
    task = LanguageModelling(**text, **description["model"], **reading)
    if list(task.corpus().vocabulary) != description["vocabulary"]:
        raise ValueError(
            f"The text must have the vocabulary of the model, got another one in {folder or 'the built-in text'} than "
            f"in {path}. Give the --data and the --fraction that it was trained on."
        )
    trained = description.get("text_sha256") if fraction == description.get("fraction", 1.0) else None
    if data is None and trained not in (None, task.corpus().sha256):
        raise ValueError(
            f"Without --data the text must be the one of the training, got a changed one in "
            f"{folder or 'the built-in text'} for {path}. Restore it, or give the text to read as --data."
        )
    return network.to(place), task


def _export(plan: Plan, history: History, folder: Path) -> None:
    """Write the winner by the first criterion and the dense network as model files."""
    winner = history.winners[plan.criteria[0]]
    for file, name in (("winner", winner), ("dense", DENSE)):
        job, final = job_for(plan, folder, history.candidates.get(name), plan.train.epochs), history.finals[name]
        network = job.task.network(plan.train.seed)
        once = {key for key, _ in chain(network.named_parameters(), network.named_buffers())}
        weights = {
            key: value for key, value in verified_weights(job, final.sha256).items() if key in once
        }  # tied weights once
        description = description_of(job.task, network) | {
            "network": name,
            "method": None if job.method is None else to_config(job.method),
            "sparsity": 1 - final.active / prunable_weights(job.task, network, plan.train),
            **{key: getattr(final, key) for key in ("best_epoch", "valid_loss", "test_loss", "sha256")},
        }
        save_model(folder / f"{file}.safetensors", weights, description)
