"""The top-level calls: a whole search, and the spectrum and the perplexity of a model file."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from hyperpruning.data.batches import batchify
from hyperpruning.data.corpus import builtin_text
from hyperpruning.deploy.decoder import Decoder
from hyperpruning.deploy.evaluation import SequenceDecoder, text_loss
from hyperpruning.deploy.model_file import SEQUENCE_MODELS, ModelFileError
from hyperpruning.deploy.model_folder import describe, is_model_folder, load
from hyperpruning.experiment import EXPERIMENT, KINDS, Experiment, read_experiment, with_absolute_paths
from hyperpruning.exports import plan_of, write_models
from hyperpruning.kernels import float32_precision
from hyperpruning.lyapunov.spectrum import Spectrum, lyapunov_spectrum
from hyperpruning.models.language_model import LanguageModel
from hyperpruning.report.page import write_report
from hyperpruning.report.run import WINNER
from hyperpruning.search.driver import search
from hyperpruning.search.history import Fact, History
from hyperpruning.search.plan import Plan
from hyperpruning.tasks.dynamic_evaluation import PTB, PUBLISHED, DynamicEvaluation, dynamic_loss, gradient_scale
from hyperpruning.tasks.language_modelling import LanguageModelling
from hyperpruning.training.device import device_of
from hyperpruning.training.record import Metric
from hyperpruning.training.task import loss_and_metric


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
        (``winner.safetensors``, see `load` and `export`), the dense network (``dense.safetensors``), the one with
        as many weights (``small.safetensors``), and ``report.html``. A search that `Plan.max_hours` has ended has no
        winners yet: the same call continues it.

    Raises:
        ValueError: the experiment or its text is invalid.
        RunFolderError: the folder is in use or belongs to another search.
    """
    folder = Path(folder)
    plan, files = plan_of(experiment, folder), {}
    if isinstance(experiment, Experiment):
        files[EXPERIMENT] = with_absolute_paths(Path.cwd(), experiment).to_toml().encode()
    history = search(plan, folder, executor=executor, on_fact=on_fact, files=files)
    write_models(plan, history, folder)
    write_report(folder)
    return history


def model_spectrum(
    model: Path,
    *,
    data: Path | None = None,
    fraction: float | None = None,
    state: Literal["h", "full"] = "h",
    steps: int | None = None,
    warmup: int | None = None,
    sequences: int = 4,
    device: str = "auto",
) -> Spectrum:
    """The Lyapunov spectrum of a model file, driven by validation data.

    Args:
        model: a ``*.safetensors``, or a run folder for its winner.
        data: a folder with the text, or the file with the arrays, of another task; None uses the data of the search in
            the run folder, or the built-in text for a model that was trained on it.
        fraction: of a text: fraction of each split, from its start; None uses the fraction that the model was trained
            on.
        state: "h", or "full" for an LSTM's (h, c).
        steps: number of measured tokens, or steps of the sequences; default 60 tokens, or all steps.
        warmup: number of tokens or steps before the measurement; default 20 tokens, or as in a search.
        sequences: number of windows of the text, or of sequences, over which the spectrum is averaged.
        device: "cpu", "cuda", "cuda:1"; "auto" is "cuda" if available, else "cpu".

    Returns:
        the spectrum, on the CPU.

    Raises:
        ValueError: the text is unknown, has changed since the training or has another vocabulary, or the device does
            not exist.
    """
    if describe(_model_file(model)).get("kind") in SEQUENCE_MODELS:
        recurrent, probe, warmup = _sequence_probe(model, data, fraction, device, steps, warmup, sequences)
    else:
        steps, warmup = 60 if steps is None else steps, 20 if warmup is None else warmup
        network, task = _load_with_task(
            model, data, fraction, device, probe_steps=warmup + steps, probe_batch=sequences
        )
        recurrent, probe = task.recurrence(network)
    spectrum = lyapunov_spectrum(recurrent, probe, state=state, warmup=warmup)
    return replace(spectrum, growth=spectrum.growth.cpu())


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a model.

    Attributes:
        loss: mean loss: of a language model, the cross-entropy in nats per token.
        count: number of predictions: tokens, sequences or windows.
        of: what is counted: "token", "sequence" or "window".
        protocol: how the loss was measured, in a sentence.
        metric: in which the task tells its results.
        computed: the metric, if it does not follow from the loss.
    """

    loss: float
    count: int
    of: str
    protocol: str
    metric: Metric
    computed: float | None = None

    @property
    def value(self) -> float:
        """The metric."""
        return self.metric.value(self.loss, self.computed)


def dynamic_evaluation(model: Path, *, statistics: float = 1.0) -> DynamicEvaluation:
    """The published settings of dynamic evaluation for the text of a model, or those for the Penn Treebank.

    Args:
        model: as in `model_spectrum`.
        statistics: fraction of the training text that is read first, for the gradient statistics.
    """
    corpus = describe(_model_file(model)).get("corpus")
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
    decoder: str | None = None,
) -> Evaluation:
    """The perplexity of a model file on a text, or the metric of another task on its data.

    Args:
        model, data, fraction, device: as in `model_spectrum`.
        split: "valid" or "test".
        batch: of a text: number of parallel streams; 1 reads it in one piece.
        dynamic: of a text: settings of dynamic evaluation, in which the model learns from the text; None: no learning.
        decoder: "exact" or "int8": evaluate by `Decoder` with this precision, on the CPU; None: by torch.

    Raises:
        ValueError: the text is unknown, has changed since the training or has another vocabulary, or split, batch or
            device is invalid, or the loss is not finite.
    """
    if split not in ("valid", "test"):
        raise ValueError(f"split must be valid or test, got {split!r}.")
    if dynamic is not None and batch != 1:
        raise ValueError(f"batch must be 1 with dynamic evaluation, got {batch}.")
    if decoder is not None and (dynamic is not None or device not in ("auto", "cpu")):
        raise ValueError(
            f"decoder must be left out with dynamic evaluation and on the device {device}, got {decoder}. It "
            "computes on the CPU, and learns nothing."
        )
    if describe(_model_file(model)).get("kind") in SEQUENCE_MODELS:
        if batch != 1 or dynamic is not None:
            raise ValueError(f"batch and dynamic must be left out unless the model reads a text, got one for {model}.")
        return _evaluate_sequences(model, data, fraction, device, split, decoder)
    device = device if decoder is None else "cpu"
    network, task = _load_with_task(model, data, fraction, device, eval_batch=batch, test_batch=batch)
    text, train = getattr(task.corpus(), split), task.corpus().train
    tokens = (len(text) // batch - 1) * batch
    protocol = _protocol(batch, task.fraction)
    if decoder is not None:
        loss = text_loss(Decoder(network, precision=decoder), batchify(text, batch))
        protocol = f"{protocol} {_by_decoder(decoder)}"
    elif dynamic is None:
        loss = task.evaluate(network, split)
    else:
        loss = dynamic_loss(network, text, gradient_scale(network, train, dynamic), dynamic)
        protocol = f"{protocol} {dynamic.sentence()}"
    if not math.isfinite(loss):
        raise ValueError(f"The loss of a model must be finite, got {loss} for {model}. Give one that has not diverged.")
    return Evaluation(loss, tokens, "token", protocol, task.metric)


def _protocol(batch: int, fraction: float) -> str:
    text = "The text" if fraction == 1 else f"The first {fraction:.3g} of the text"
    if batch == 1:
        return f"{text} is read in one piece, and every token except the first is predicted."
    return (
        f"{text} is read in {batch} parallel streams of equal length, each with its own context; every token is "
        "predicted except the first of each stream and the rest after the last stream."
    )


def _by_decoder(precision: str) -> str:
    return f"The decoder computes, {'int8' if precision == 'int8' else 'in float32'}, step by step."


def _model_file(model: Path) -> Path:
    return model / WINNER if model.is_dir() and not is_model_folder(model) else model


def _load_with_task(
    model: Path, data: Path | None, fraction: float | None, device: str, **reading: Any
) -> tuple[LanguageModel, LanguageModelling]:
    """Load a model file, or the winner in a run folder, onto a device, and the task with its text."""
    place, path, folder = device_of(device), _model_file(model), data
    network, description = load(path), describe(path)
    assert isinstance(network, LanguageModel)
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


def _load_with_sequences(
    model: Path, data: Path | None, fraction: float | None, device: str, **reading: Any
) -> tuple[Any, Any]:
    """Load a classifier or forecaster, or the winner in a run folder, onto a device, and the task with its data."""
    if fraction is not None:
        raise ValueError(f"fraction must be left out unless the model reads a text, got {fraction}.")
    place, path, file = device_of(device), _model_file(model), data
    network, description = load(path), describe(path)
    if file is None and (path.parent / EXPERIMENT).is_file():
        file = getattr(read_experiment(path.parent / EXPERIMENT).data, "file", None)
    if file is None:
        raise ValueError(
            f"The data must be given, got none for {path}, whose run folder has no {EXPERIMENT} with a file. Give "
            "--data FILE; for data of Python, call task.evaluate(hp.load(...), split)."
        )
    owner, sizes = KINDS[description["kind"]], {**description["model"]}
    try:
        settings = {field.name: sizes[field.name] for field in fields(owner) if field.name in sizes}
        listed = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in (settings | description["data"] | reading).items()
        }
        task = owner(file=file, **listed)
    except (KeyError, TypeError) as error:
        raise ModelFileError(
            f"A model file must say how its data are read, got {path} ({error}). Export it again."
        ) from None
    if task.network(0).sizes != network.sizes or description.get("classes") != task.describe(network).get("classes"):
        raise ValueError(
            f"The data must have the features and classes of the model, got others in {file} than in {path}."
        )
    if data is None and description.get("data_sha256") != task.data_sha256:
        raise ValueError(
            f"Without --data the data must be those of the training, got changed ones in {file} for {path}. Restore "
            "them, or give the file to read as --data."
        )
    return network.to(place), task


@float32_precision()
def _evaluate_sequences(
    model: Path, data: Path | None, fraction: float | None, device: str, split: str, decoder: str | None
) -> Evaluation:
    network, task = _load_with_sequences(model, data, fraction, device if decoder is None else "cpu")
    if decoder is not None:
        network = SequenceDecoder(Decoder(network, precision=decoder))
    loss, computed = loss_and_metric(task.evaluate(network, split))
    if not math.isfinite(loss):
        raise ValueError(f"The loss of a model must be finite, got {loss} for {model}. Give one that has not diverged.")
    count, of = len(task.splits[split][0]), "window" if hasattr(task, "window") else "sequence"
    protocol = f"The mean over all {of}s of the {split} split." + (f" {_by_decoder(decoder)}" if decoder else "")
    return Evaluation(loss, count, of, protocol, task.metric, computed)


def _sequence_probe(
    model: Path,
    data: Path | None,
    fraction: float | None,
    device: str,
    steps: int | None,
    warmup: int | None,
    sequences: int,
) -> tuple[Any, Tensor, int]:
    """The recurrent part of a classifier or forecaster, validation sequences, and the warm-up."""
    network, task = _load_with_sequences(model, data, fraction, device, probe_batch=sequences)
    recurrent, probe = task.recurrence(network)
    warmup = task.defaults["warmup"] if warmup is None else warmup
    steps = len(probe) - warmup if steps is None else steps
    if not 0 < steps <= len(probe) - warmup:
        raise ValueError(
            f"steps and warmup must be at most the {len(probe)} steps of the sequences together, got {steps} and "
            f"{warmup}. Lower them."
        )
    return recurrent, probe[: warmup + steps], warmup
