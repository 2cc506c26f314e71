"""A recurrent language model: embedding, recurrent layers, decoder, and dropouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperpruning.models.dropout import LockedDropout, WeightDropLSTM, WordDropEmbedding, locked_dropout
from hyperpruning.models.softmaxes import MixtureOfSoftmaxes
from hyperpruning.models.stack import CELLS, GATES, LAYERS, Stack, stacked_layers, without_autocast


@dataclass(frozen=True)
class Dropouts:
    """Probabilities of the variational dropouts (one mask for all steps of a batch); the default of each is 0.

    The names in parentheses are those of awd-lstm-lm and of the code of mixtures of softmaxes.

    Attributes:
        embedding: whole words of the embedding (dropoute).
        input: the input of the first layer (dropouti).
        hidden: the input of every other layer, i.e. the output of the layer below (dropouth).
        state: the state that the gates of a recurrent highway layer read (Zilly et al. 2017).
        weight: recurrent weights of an LSTM, by DropConnect (wdrop).
        output: the output of the top layer, before the decoder (dropout).
        latent: the latent vectors of a mixture of softmaxes (dropoutl).
    """

    embedding: float = 0.0
    input: float = 0.0
    hidden: float = 0.0
    state: float = 0.0
    weight: float = 0.0
    output: float = 0.0
    latent: float = 0.0

    def __post_init__(self) -> None:
        for name, p in vars(self).items():
            if not 0 <= p < 1:
                raise ValueError(f"Dropout {name!r} must be at least 0 and below 1, got {p}. Lower it.")


class LanguageModel(nn.Module):
    """Predicts the next token. The attribute `sizes` keeps the arguments that describe the architecture:

    - stacked LSTM, GRU, tanh RNN: one number as `dropout` (Zaremba et al. 2014, arXiv 1409.2329);
    - RHN: `cell` "rhn" with a `depth` (Zilly et al. 2017, arXiv 1607.03474);
    - AWD-LSTM: a list of widths as `hidden`, named probabilities as `dropout` (Merity et al. 2018, arXiv 1708.02182);
    - AWD-LSTM-MoS: the same with `experts` (Yang et al. 2018, arXiv 1711.03953).

    Args:
        vocabulary: number of tokens V.
        cell: a key of `LAYERS`.
        embedding: width E of the embedding.
        hidden: units H of each layer, or a list with the units of each layer from the bottom up.
        layers: number of recurrent layers; default 2, or the length of `hidden`.
        depth: micro-steps of a recurrent highway layer; 1 for all other cells.
        dropout: one number: the probability of ordinary dropout on the embedding, between the layers and on the output.
            A mapping: the probabilities of variational dropouts, by the names of `Dropouts`.
        experts: number of mixed softmaxes (15 in the published settings); 1 is an ordinary softmax.
        tied: the decoder shares the embedding's weight (needs E == H of the top layer, or experts > 1).
        embedding_std: the embedding is initialised from N(0, embedding_std^2); use 1 for characters and 0.06 for words
            (the standard deviation of U(-0.1, 0.1)).
        seed: of the initial weights; the state of the global generator does not change.

    Raises:
        ValueError: a size or a dropout is out of range, or the arguments do not fit together.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        cell: str = "lstm",
        embedding: int = 64,
        hidden: int | Sequence[int] = 64,
        layers: int | None = None,
        depth: int = 1,
        dropout: float | Mapping[str, float] = 0.0,
        experts: int = 1,
        tied: bool = False,
        embedding_std: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        widths = [hidden] * (2 if layers is None else layers) if isinstance(hidden, int) else list(hidden)
        if layers not in (None, len(widths)):
            raise ValueError(
                f"layers must equal the number of widths in hidden, got layers={layers} and hidden={widths}. Leave "
                "layers out."
            )
        self.cell = cell
        self.sizes: dict[str, Any] = {
            "cell": cell,
            "embedding": embedding,
            "hidden": hidden if isinstance(hidden, int) else widths,
            "layers": len(widths),
            "depth": depth,
            "dropout": dict(dropout) if isinstance(dropout, Mapping) else dropout,
            "experts": experts,
            "tied": tied,
            "embedding_std": embedding_std,
        }
        drop = _dropout_probabilities(dropout)
        _check_sizes(self.sizes, widths, drop)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.encoder = WordDropEmbedding(vocabulary, embedding, dropout=drop.embedding)
            nn.init.normal_(self.encoder.weight, std=embedding_std)
            self.rnn = _recurrent_layers(self.sizes, widths, drop)
            self.decoder = _decoder(self.sizes, widths[-1], vocabulary, drop.latent)
            nn.init.zeros_(self.decoder.bias)
        kind = LockedDropout if isinstance(dropout, Mapping) else nn.Dropout
        self.input_dropout, self.output_dropout = kind(drop.input), kind(drop.output)
        if tied:
            self.decoder.weight = self.encoder.weight

    def hidden_states(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Run the recurrent layers: tokens (T, B) -> top layer's h (T, B, H) before the output dropout, and state."""
        embedded = self.input_dropout(self.encoder(tokens))
        with without_autocast(embedded.device.type, self.cell):
            hidden, state = self.rnn(embedded, state)
        return hidden, state

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return the logits of the next token.

        Args:
            tokens: (T, B) token ids.
            state: the state that the previous call returned; None starts from zeros.

        Returns:
            logits (T, B, V) (log-probabilities for a mixture of softmaxes), and the state after the last token.
        """
        hidden, state = self.hidden_states(tokens, state)
        return self.decoder(self.output_dropout(hidden)), state

    @property
    def row_groups(self) -> dict[str, int]:
        """Number of gates stacked in the rows of each recurrent weight matrix, by parameter name."""
        return {f"rnn.{name}": GATES[self.cell] for name, weight in self.rnn.named_parameters() if weight.ndim == 2}


def _dropout_probabilities(dropout: float | Mapping[str, float]) -> Dropouts:
    if isinstance(dropout, Mapping):
        known = [field.name for field in fields(Dropouts)]
        if unknown := sorted(set(dropout) - set(known)):
            raise ValueError(
                f"A key of dropout must be one of {', '.join(known)}, got {unknown[0]!r}. Choose one of these."
            )
        return Dropouts(**dropout)
    return Dropouts(input=dropout, hidden=dropout, output=dropout)


def _check_sizes(sizes: Mapping[str, Any], widths: Sequence[int], drop: Dropouts) -> None:
    cell, depth, experts = sizes["cell"], sizes["depth"], sizes["experts"]
    if cell not in LAYERS:
        raise ValueError(f"cell must be one of {', '.join(LAYERS)}, got {cell!r}. Choose one of these.")
    if not widths or min(widths) < 1:
        raise ValueError(
            f"hidden must give at least one layer, each with at least one unit, got {widths}. Give 1 or more."
        )
    if cell in CELLS and (depth != 1 or drop.state):
        raise ValueError(
            f"depth must be 1 and dropout 'state' 0 unless the cell is a recurrent highway layer, got depth={depth}, "
            f'state={drop.state} and cell={cell!r}. Leave them out or set cell = "rhn".'
        )
    if cell != "lstm" and drop.weight:
        raise ValueError(
            f"Dropout 'weight' must be 0 unless the cell is 'lstm', got {drop.weight} for {cell!r}. Leave it out."
        )
    if experts < 1:
        raise ValueError(f"experts must be at least 1, got {experts}. Use 1 for an ordinary softmax.")
    if experts == 1 and drop.latent:
        raise ValueError(
            f"Dropout 'latent' must be 0 unless experts is at least 2, got {drop.latent} with experts=1. Leave it out "
            "or raise experts."
        )
    if sizes["tied"] and experts == 1 and sizes["embedding"] != widths[-1]:
        raise ValueError(
            "With tied weights, embedding must equal the width of the last layer, got embedding="
            f"{sizes['embedding']} and width {widths[-1]}. Make them equal or set tied = false."
        )


def _recurrent_layers(sizes: Mapping[str, Any], widths: Sequence[int], drop: Dropouts) -> nn.Module:
    """Return one module of torch if it supports the sizes and dropouts, otherwise a `Stack` of single layers."""
    cell, locked = sizes["cell"], isinstance(sizes["dropout"], Mapping)
    if cell in CELLS and not locked and isinstance(sizes["hidden"], int):
        dropout = drop.hidden if len(widths) > 1 else 0.0
        return CELLS[cell](sizes["embedding"], sizes["hidden"], len(widths), dropout=dropout)
    layer: Callable[[int, int], nn.Module] = LAYERS[cell]
    if cell not in CELLS:
        layer = partial(LAYERS[cell], depth=sizes["depth"], dropout=drop.state)
    elif drop.weight:
        layer = partial(WeightDropLSTM, weight_drop=drop.weight)
    function = locked_dropout if locked else functional.dropout
    return Stack(stacked_layers(layer, sizes["embedding"], widths), dropout=drop.hidden, dropout_function=function)


def _decoder(sizes: Mapping[str, Any], hidden: int, vocabulary: int, dropout: float) -> nn.Linear:
    if sizes["experts"] == 1:
        return nn.Linear(hidden, vocabulary)
    return MixtureOfSoftmaxes(hidden, sizes["embedding"], vocabulary, experts=sizes["experts"], dropout=dropout)


def repackage_hidden(state: Any) -> Any:
    """Return the state detached from the graph: truncated BPTT carries values over, but no gradients."""
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
