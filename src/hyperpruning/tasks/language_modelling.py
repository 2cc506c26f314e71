"""The task of predicting the next token of a text. It is a frozen dataclass that loads its data at first use."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperpruning.data.batches import batched_length, batchify, bptt_windows, random_bptt_lengths, random_bptt_windows
from hyperpruning.data.corpus import (
    PUBLISHED_CORPORA,
    Corpus,
    DataError,
    Unit,
    builtin_text,
    first_fraction,
    read_folder,
)
from hyperpruning.kernels import out_of_memory
from hyperpruning.models.language_model import LanguageModel, repackage_hidden
from hyperpruning.models.penalties import activation_penalty, temporal_penalty
from hyperpruning.models.stack import LAYERS, MAX_LAYERS, MAX_WIDTH
from hyperpruning.settings import check_settings, documented, setting
from hyperpruning.tasks.narrower import narrower_task
from hyperpruning.training.record import Metric
from hyperpruning.training.task import Step

PERPLEXITY = Metric("perplexity", unit="", from_loss="exp")


def perplexity(loss: float) -> float:
    """exp(loss) of a mean cross-entropy in nats."""
    return PERPLEXITY.value(loss)


@documented
@dataclass(frozen=True)
class LanguageModelling:
    """Predicting the next token of a text.

    Raises:
        ValueError: a value is out of its range, or values contradict each other; `network` and `steps` check the rest.
    """

    folder: Path | None = setting(
        None, "folder with the train, valid and test text; left out: Python's own help texts", section="data"
    )
    unit: Unit = setting("character", 'a token is a "word" or a "character"', section="data", choices=get_args(Unit))
    known: Literal["ptb", "wikitext-2"] | None = setting(
        None, "check the files against this published corpus", section="data", choices=tuple(PUBLISHED_CORPORA)
    )
    fraction: float = setting(
        1.0, "read this fraction of each split, from its start; below 1 for trials", section="data", gt=0, le=1
    )
    cell: str = setting("lstm", f"recurrent cell: {', '.join(LAYERS)}", section="model", choices=tuple(LAYERS))
    embedding: int = setting(64, "size of the embedding", section="model", ge=1, le=MAX_WIDTH)
    hidden: int | tuple[int, ...] = setting(
        64,
        "units of each recurrent layer; [1150, 1150, 400] for layers of different sizes",
        section="model",
        ge=1,
        le=MAX_WIDTH,
    )
    layers: int | None = setting(
        None, "recurrent layers; left out: 2, or as many as hidden lists", section="model", ge=1, le=MAX_LAYERS
    )
    depth: int = setting(1, "micro-steps of a recurrent highway layer", section="model", ge=1, le=MAX_LAYERS)
    dropout: float | Mapping[str, float] = setting(
        0.0,
        "a number: ordinary dropout; a table such as { input = 0.4, output = 0.4 }: variational dropout by place",
        section="model",
        ge=0,
        lt=1,
    )
    experts: int = setting(1, "softmaxes that are mixed; 1: an ordinary softmax", section="model", ge=1, le=MAX_LAYERS)
    tied: bool = setting(False, "the decoder uses the embedding's weights", section="model")
    embedding_std: float = setting(
        1.0, "the embedding starts as N(0, std^2); 1 suits characters, 0.06 words", section="model", gt=0
    )
    batch: int = setting(20, "parallel streams that the training text is cut into", section="training", ge=1)
    bptt: int = setting(35, "window of back-propagation through time, in tokens", section="training", ge=1)
    bptt_deviation: float = setting(
        0.0, "standard deviation of random window lengths (AWD-LSTM: 5); 0: all equal", section="training", ge=0
    )
    bptt_longest: int = setting(0, "largest random window length; 0: no limit", section="training", ge=0)
    gradient_accumulation: int = setting(
        1, "split each batch into this many parts, one after the other: needs less memory", section="training", ge=1
    )
    activation_penalty: float = setting(
        0.0, "factor of the penalty on activations (AR; AWD-LSTM: 2)", section="training", ge=0
    )
    temporal_penalty: float = setting(
        0.0, "factor of the penalty on changes of activations (TAR; AWD-LSTM: 1)", section="training", ge=0
    )
    eval_batch: int = setting(
        20, "parallel streams for the validation loss; the context starts anew in each", section="data", ge=1
    )
    test_batch: int = setting(
        1, "the same for the test loss; 1: one unbroken text (published code: 20)", section="data", ge=1
    )
    probe_steps: int = setting(80, "length of the probe in tokens, warm-up included", section="spectrum", ge=1)
    probe_batch: int = setting(
        4, "sequences of the probe, from equally spaced places of the validation text", section="spectrum", ge=1
    )

    metric: ClassVar[Metric] = PERPLEXITY
    dense_dropout: ClassVar[float] = 0.1  # the default of [dense] dropout
    recipe: ClassVar[Mapping[str, Any]] = {"optimizer": "snt_asgd", "lr": 15.0}

    def __post_init__(self) -> None:
        check_settings(self)
        if isinstance(self.hidden, tuple) and len(self.hidden) > MAX_LAYERS:
            raise ValueError(f"hidden must list at most {MAX_LAYERS} layers, got {len(self.hidden)}. Shorten it.")
        if self.bptt_deviation and self.bptt < 5:
            raise ValueError(
                f"bptt must be at least 5 with random window lengths, got {self.bptt}. Raise it, or set "
                "bptt_deviation = 0."
            )
        if self.bptt_longest and not self.bptt_deviation:
            raise ValueError(
                f"bptt_longest must be 0 when bptt_deviation is 0, got {self.bptt_longest}. "
                "Set bptt_deviation, or leave bptt_longest out."
            )
        if self.bptt_longest and self.bptt_longest < max(5, self.bptt):
            raise ValueError(
                f"bptt_longest must be at least {max(5, self.bptt)} (the larger of bptt and 5), got "
                f"{self.bptt_longest}. Raise it, or set 0 for no limit."
            )

    def corpus(self) -> Corpus:
        """The text (read once in a process)."""
        if self.folder is None and (self.known or self.unit == "word"):
            raise DataError("Word-level data needs a text folder, got none. Pass --data DIR, or set folder in [data].")
        whole = read_folder(self.folder, unit=self.unit, known=self.known) if self.folder else builtin_text()
        return first_fraction(whole, self.fraction)

    def network(self, seed: int) -> LanguageModel:
        """A new language model for this text."""
        return self.model(len(self.corpus().vocabulary), seed)

    def check_model(self) -> None:
        """Build the network on the device "meta", without the text.

        Raises:
            ValueError: sizes or dropouts contradict each other.
        """
        with torch.device("meta"):
            self.model(1)

    def model(self, vocabulary: int, seed: int = 0) -> LanguageModel:
        """A new language model for a vocabulary of this size.

        Raises:
            ValueError: sizes or dropouts contradict each other.
        """
        sizes = {
            field.name: getattr(self, field.name) for field in fields(self) if field.metadata.get("section") == "model"
        }
        return LanguageModel(vocabulary, **sizes, seed=seed)

    def narrower(self, weights: int) -> Self:
        """The same task with the widest network that has at most so many weights in its matrices.

        Embedding and layers become narrower in the same proportion.

        Raises:
            ValueError: even a network of width 1 has more weights.
        """
        vocabulary = len(self.corpus().vocabulary)
        return narrower_task(
            self, weights, ("embedding", "hidden"), lambda sizes: replace(self, **sizes).model(vocabulary)
        )

    def baseline_loss(self, split: str) -> float:
        """The loss on "valid" or "test" of predicting the frequencies of the training text, whatever came before.

        Every count is raised by 1, since a token of the split may not occur in the training text.
        """
        counts = torch.bincount(self.corpus().train, minlength=len(self.corpus().vocabulary)).double() + 1
        targets = self._columns(split, self.test_batch if split == "test" else self.eval_batch)[1:]
        return float((counts.sum().log() - counts.log())[targets].mean())

    def steps(self, epoch: int, seed: int) -> int:
        """Number of windows of the training text.

        Raises:
            ValueError: a split is too short for its streams, a window or the probe; batch is not a multiple of
                gradient_accumulation.
        """
        corpus = self.corpus()  # looked up once: finding its files takes a millisecond, and this is called every epoch
        for split, batch in (("train", self.batch), ("valid", self.eval_batch), ("test", self.test_batch)):
            self._column_length(split, batch, corpus)
        self._check_probe(corpus)
        if self.batch % self.gradient_accumulation:
            raise ValueError(
                f"batch must be a multiple of gradient_accumulation in [training], got {self.batch} and "
                f"{self.gradient_accumulation}. Change one of them."
            )
        tokens = self._column_length("train", self.batch, corpus) - 1
        if self.bptt > tokens:
            raise ValueError(
                f"bptt must be at most the {tokens} tokens of each of the {self.batch} parallel streams, got "
                f"{self.bptt}. Lower bptt or batch in [training], or give more text."
            )
        return len(self._lengths(epoch, seed)) if self.bptt_deviation else math.ceil(tokens / self.bptt)

    def _lengths(self, epoch: int, seed: int) -> Tensor:
        """The random lengths of an epoch's windows."""
        generator = torch.Generator().manual_seed(seed * 1_000_033 + epoch)
        tokens, std = self._column_length("train", self.batch) - 1, self.bptt_deviation
        return random_bptt_lengths(tokens, self.bptt, generator=generator, std=std, max_length=self.bptt_longest)

    def _column_length(self, split: str, batch: int, corpus: Corpus | None = None) -> int:
        tokens = len(getattr(corpus or self.corpus(), split))
        try:
            return batched_length(tokens, batch)
        except ValueError as error:
            setting = {"train": "[training] batch", "valid": "[data] eval_batch", "test": "[data] test_batch"}[split]
            raise ValueError(f"The {split} text is too short. {error} The batch size is {setting}.") from None

    def _columns(self, split: str, batch: int) -> Tensor:
        self._column_length(split, batch)
        return batchify(getattr(self.corpus(), split), batch)

    def _check_probe(self, corpus: Corpus) -> None:
        if self._column_length("valid", self.probe_batch, corpus) < self.probe_steps:
            raise ValueError(
                f"The validation text must have at least probe_steps x probe_batch = {self.probe_steps} x "
                f"{self.probe_batch} tokens, got {len(corpus.valid)}. Lower them in [spectrum], or give more text."
            )

    def _probe(self) -> Tensor:
        self._check_probe(self.corpus())
        return self._columns("valid", self.probe_batch)[: self.probe_steps]

    def batches(self, epoch: int, seed: int) -> Iterator[Step]:
        """The training text in windows, in order."""
        stream = self._columns("train", self.batch)
        cut: Iterator[tuple[Tensor, Tensor, float]]
        if self.bptt_deviation:
            cut = random_bptt_windows(stream, self.bptt, self._lengths(epoch, seed))
        else:
            cut = ((inputs, targets, 1.0) for inputs, targets in bptt_windows(stream, self.bptt))
        for inputs, targets, factor in cut:
            parts = zip(
                inputs.chunk(self.gradient_accumulation, 1), targets.chunk(self.gradient_accumulation, 1), strict=True
            )
            yield Step(tuple(parts), factor)

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor], carry: Any) -> tuple[Tensor, Any]:
        """Mean cross-entropy in nats (in training mode plus the penalties), and the recurrent state."""
        assert isinstance(network, LanguageModel)
        # non_blocking is safe here: CUDA has read a batch from pageable memory when the call returns
        inputs, targets = (part.to(network.encoder.weight.device, non_blocking=True) for part in batch)
        hidden, state = network.hidden_states(inputs, carry)
        dropped = network.output_dropout(hidden)
        loss = functional.cross_entropy(network.decoder(dropped).flatten(0, 1), targets.flatten())
        if network.training and self.activation_penalty:
            loss = loss + self.activation_penalty * activation_penalty(dropped)
        if network.training and self.temporal_penalty:
            loss = loss + self.temporal_penalty * temporal_penalty(hidden)
        return loss, repackage_hidden(state)

    def evaluate(self, network: nn.Module, split: str) -> float:
        """Mean cross-entropy in nats over all tokens of the split except the first of each column.

        The state is carried from window to window, so that the window length changes the result only by rounding. A
        window has about as many tokens as in training. If it does not fit into the memory of the GPU, one more attempt
        uses windows of an eighth of the length.
        """
        stream = self._columns(split, self.test_batch if split == "test" else self.eval_batch)
        length = max(self.bptt, self.bptt * self.batch // stream.shape[1])
        try:
            return self._mean_loss(network, stream, length)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        # not in the except block, where the error still references the tensors
        return self._mean_loss(network, stream, max(1, length // 8))

    @torch.no_grad()
    def _mean_loss(self, network: nn.Module, stream: Tensor, length: int) -> float:
        """Return the loss of columns (N, B), read in windows of `length` tokens."""
        stream = stream.to(next(network.parameters()).device)
        total, count, carry = torch.zeros((), dtype=torch.float64, device=stream.device), 0, None
        for inputs, targets in bptt_windows(stream, length):
            loss, carry = self.loss(network, (inputs, targets), carry)
            total += loss.double() * targets.numel()  # a float would synchronise the GPU
            count += targets.numel()
        return float(total) / count

    @torch.no_grad()
    def recurrence(self, network: nn.Module) -> tuple[Any, Tensor]:
        """The recurrent layers, and the embedded probe: windows of the validation text."""
        assert isinstance(network, LanguageModel)
        return network.rnn, network.encoder(self._probe().to(network.encoder.weight.device))

    def row_groups(self, network: nn.Module) -> Mapping[str, int]:
        """The gates of the recurrent weights."""
        assert isinstance(network, LanguageModel)
        return network.row_groups

    def identity(self) -> dict[str, Any]:
        """The sizes, and the hash of the text."""
        settings = {name: value for name, value in vars(self).items() if name not in ("folder", "known", "fraction")}
        return settings | {"text_sha256": self.corpus().sha256}

    def describe(self, network: nn.Module) -> dict[str, Any]:
        """The sizes of the model, the vocabulary, and the text (its fraction and hash) of its training."""
        assert isinstance(network, LanguageModel)
        corpus = self.corpus()
        text = {
            "unit": corpus.unit,
            "vocabulary": list(corpus.vocabulary),
            "corpus": corpus.name,
            "fraction": self.fraction,
            "text_sha256": corpus.sha256,
        }
        return {"model": network.sizes} | text
