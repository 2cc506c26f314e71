"""Predicting the next token of a text: a task is a small frozen object, and loads its data when it is first asked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperpruning.data.batches import batched_length, batchify, bptt_windows, random_bptt_lengths, random_bptt_windows
from hyperpruning.data.corpus import Corpus, DataError, Unit, builtin_text, first_fraction, read_folder
from hyperpruning.kernels import out_of_memory
from hyperpruning.models.language_model import LanguageModel, repackage_hidden
from hyperpruning.models.penalties import activation_penalty, temporal_penalty
from hyperpruning.training.config import check_values
from hyperpruning.training.task import Step


@dataclass(frozen=True)
class LanguageModelling:
    """Predicting the next token of a text.

    Attributes:
        folder: with the three splits; None takes Python's built-in text.
        unit: "word" or "character".
        known: "ptb" or "wikitext-2" to have the files checked, whole, whatever the share.
        share: of the tokens of each split, of which the first are read; see `first_fraction`.
        cell, embedding, hidden, layers, depth, dropout, experts, tied, embedding_std: see `LanguageModel`.
        batch: columns read side by side while training.
        bptt: window of back-propagation, in tokens.
        bptt_deviation: standard deviation of the windows' lengths, see `random_bptt_lengths`; 0 cuts all at `bptt`.
        bptt_longest: bound on them, in tokens; 0: none.
        accumulate: parts of the columns, trained on one after the other before a step is taken.
        activation_penalty, temporal_penalty: factors alpha and beta of the penalties on activations and their changes.
        eval_batch: columns for the validation loss (the context starts anew in each, which changes perplexities).
        test_batch: columns for the test loss; 1: the context never starts anew. The published code has 20.
        probe_steps: length of the probe in tokens, warm-up included.
        probe_batch: sequences of the probe, taken from equally spaced places of the validation text.

    Raises:
        ValueError: a value out of its range, or values that do not go together; `network` and `steps` refuse the rest.
    """

    folder: Path | None = None
    unit: Unit = "character"
    known: str | None = None
    share: float = 1.0
    cell: str = "lstm"
    embedding: int = 64
    hidden: int | Sequence[int] = 64
    layers: int | None = None
    depth: int = 1
    dropout: float | Mapping[str, float] = 0.1
    experts: int = 1
    tied: bool = False
    embedding_std: float = 1.0
    batch: int = 20
    bptt: int = 35
    bptt_deviation: float = 0.0
    bptt_longest: int = 0
    accumulate: int = 1
    activation_penalty: float = 0.0
    temporal_penalty: float = 0.0
    eval_batch: int = 20
    test_batch: int = 1
    probe_steps: int = 80
    probe_batch: int = 4

    def __post_init__(self) -> None:
        check_values(vars(self))
        if self.bptt_deviation and self.bptt < 5:
            raise ValueError(
                f"bptt of random windows is 5 or more, which none of them is shorter than, and {self.bptt} is less: "
                "raise it, or set bptt_deviation = 0"
            )
        if self.bptt_longest and not self.bptt_deviation:
            raise ValueError(
                f"bptt_longest bounds random lengths, and there are none where it is {self.bptt_longest}: "
                "set bptt_deviation, or leave it out"
            )
        if self.bptt_longest and self.bptt_longest < max(5, self.bptt):
            raise ValueError(
                f"bptt_longest bounds random lengths around bptt, 5 or more, and {self.bptt_longest} is below "
                f"{max(5, self.bptt)}: raise it, or set 0 for no bound"
            )

    def corpus(self) -> Corpus:
        """The text (read once a process)."""
        if self.folder is None and (self.known or self.unit == "word"):
            raise DataError(
                f"Words stand in a text of your own, and for {self.known or 'this one'} no folder is given: give "
                "--data DIR, or folder in [data]."
            )
        whole = read_folder(self.folder, unit=self.unit, known=self.known) if self.folder else builtin_text()
        return first_fraction(whole, self.share)

    def network(self, seed: int) -> LanguageModel:
        """A new language model for this text."""
        return LanguageModel(
            len(self.corpus().vocabulary),
            cell=self.cell,
            embedding=self.embedding,
            hidden=self.hidden,
            layers=self.layers,
            depth=self.depth,
            dropout=self.dropout,
            experts=self.experts,
            tied=self.tied,
            embedding_std=self.embedding_std,
            seed=seed,
        )

    def steps(self, epoch: int, seed: int) -> int:
        """Windows of the training text.

        Raises:
            ValueError: a split is too short for its columns, a window or the probe; the columns are no equal parts.
        """
        for split, batch in (("train", self.batch), ("valid", self.eval_batch), ("test", self.test_batch)):
            self._column_length(split, batch)
        self._probe()
        if self.batch % self.accumulate:
            raise ValueError(
                f"The parts of a batch are equal, and its {self.batch} columns do not divide into {self.accumulate}: "
                "change batch or accumulate in [training]."
            )
        tokens = self._column_length("train", self.batch) - 1
        if self.bptt > tokens:
            raise ValueError(
                f"A window fits into a column, and bptt is {self.bptt} where the training text has {tokens} tokens to "
                f"predict in each of {self.batch} columns: lower bptt or batch in [training], or give more text."
            )
        return len(self._lengths(epoch, seed)) if self.bptt_deviation else math.ceil(tokens / self.bptt)

    def _lengths(self, epoch: int, seed: int) -> Tensor:
        """The random lengths of an epoch's windows."""
        generator = torch.Generator().manual_seed(seed * 1_000_033 + epoch)
        tokens, std = self._column_length("train", self.batch) - 1, self.bptt_deviation
        return random_bptt_lengths(tokens, self.bptt, generator=generator, std=std, max_length=self.bptt_longest)

    def _column_length(self, split: str, batch: int) -> int:
        tokens = len(getattr(self.corpus(), split))
        try:
            return batched_length(tokens, batch)
        except ValueError as error:
            setting = {"train": "[training] batch", "valid": "[data] eval_batch", "test": "[data] test_batch"}[split]
            raise ValueError(f"The {split} text is too short. {error} The batch size is {setting}.") from None

    def _columns(self, split: str, batch: int) -> Tensor:
        self._column_length(split, batch)
        return batchify(getattr(self.corpus(), split), batch)

    def _probe(self) -> Tensor:
        text = self._columns("valid", self.probe_batch)
        if len(text) < self.probe_steps:
            raise ValueError(
                f"The probe takes {self.probe_steps} tokens x {self.probe_batch} sequences of the validation text, and "
                f"it has {len(self.corpus().valid)}: lower steps, warmup or sequences in [spectrum]."
            )
        return text[: self.probe_steps]

    def batches(self, epoch: int, seed: int) -> Iterator[Step]:
        """The training text in windows, in order."""
        stream = self._columns("train", self.batch)
        cut: Iterator[tuple[Tensor, Tensor, float]]
        if self.bptt_deviation:
            cut = random_bptt_windows(stream, self.bptt, self._lengths(epoch, seed))
        else:
            cut = ((inputs, targets, 1.0) for inputs, targets in bptt_windows(stream, self.bptt))
        for inputs, targets, factor in cut:
            parts = zip(inputs.chunk(self.accumulate, 1), targets.chunk(self.accumulate, 1), strict=True)
            yield Step(tuple(parts), factor)

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor], carry: Any) -> tuple[Tensor, Any]:
        """Mean cross-entropy in nats, while training with the penalties; carries the recurrent state on."""
        assert isinstance(network, LanguageModel)
        # not waited for, which is safe towards a GPU: CUDA has read a batch when the call returns
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
        """Mean cross-entropy in nats over every token of the split but the first of each column.

        The state is carried from window to window, so that their length changes nothing but rounding: they have about
        as many tokens as those of the training. Where they do not fit into a GPU's memory, a second and last attempt
        has windows an eighth as long.
        """
        stream = self._columns(split, self.test_batch if split == "test" else self.eval_batch)
        length = max(self.bptt, self.bptt * self.batch // stream.shape[1])
        try:
            return self._mean_loss(network, stream, length)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        # and not above: the error holds on to what filled the memory
        return self._mean_loss(network, stream, max(1, length // 8))

    @torch.no_grad()
    def _mean_loss(self, network: nn.Module, stream: Tensor, length: int) -> float:
        """Return the loss of columns (N, B), read in windows of a length in tokens."""
        stream = stream.to(next(network.parameters()).device)
        total, count, carry = torch.zeros((), dtype=torch.float64, device=stream.device), 0, None
        for inputs, targets in bptt_windows(stream, length):
            loss, carry = self.loss(network, (inputs, targets), carry)
            total += loss.double() * targets.numel()  # not a float: that makes a GPU wait
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
        settings = {name: value for name, value in vars(self).items() if name not in ("folder", "known", "share")}
        return settings | {"text_sha256": self.corpus().sha256}

    def describe(self, network: nn.Module) -> dict[str, Any]:
        """The model's sizes, the vocabulary, and which part of which text it is of."""
        assert isinstance(network, LanguageModel)
        corpus = self.corpus()
        text = {"unit": corpus.unit, "vocabulary": list(corpus.vocabulary), "corpus": corpus.name, "share": self.share}
        return {"model": network.sizes} | text


def perplexity(loss: float) -> float:
    """exp(loss): of a mean cross-entropy in nats."""
    return math.exp(loss) if loss < 700 else math.inf
