"""A recurrent language model: an embedding, recurrent layers, a decoder, and dropout between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperpruning.models.dropout import LockedDropout, WeightDropLSTM, WordDropEmbedding, locked_dropout
from hyperpruning.models.softmaxes import MixtureOfSoftmaxes
from hyperpruning.models.stack import CELLS, GATES, LAYERS, Stack, chain


@dataclass(frozen=True)
class Dropouts:
    """Probabilities of the variational dropouts, one mask for all steps of a batch; all 0 unless said.

    Attributes:
        embedding: of whole words.
        input: of what the lowest layer reads.
        hidden: of what each layer reads of the one below.
        state: of a recurrent highway layer's state, as its gates read it.
        weight: of single recurrent weights of an LSTM (DropConnect).
        output: of what the decoder reads.
        latent: of the latents of a mixture of softmaxes.
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
                raise ValueError(f"A dropout is a probability from 0 to below 1, and {name} is {p}: change it.")


class LanguageModel(nn.Module):
    """Predicts the next token. From plain sizes, all of which `sizes` remembers:

    - stacked LSTM, GRU, tanh RNN: a number as `dropout` (Zaremba et al. 2014, arXiv 1409.2329);
    - RHN: `cell` "rhn" with a `depth` (Zilly et al. 2017, arXiv 1607.03474);
    - AWD-LSTM: several widths as `hidden`, several kinds of `dropout` (Merity et al. 2018, arXiv 1708.02182);
    - AWD-LSTM-MoS: `experts` too (Yang et al. 2018, arXiv 1711.03953).

    Args:
        vocabulary: number of tokens V.
        cell: a key of `LAYERS`.
        embedding: size E of the embedding.
        hidden: units H of each layer, or a list of them from the bottom up.
        layers: number of recurrent layers; by default 2, or as many as `hidden` lists.
        depth: micro-steps of a recurrent highway layer; 1 for all others.
        dropout: probability of ordinary dropout on the embedding, between the layers and on the output; or, by the
            names of `Dropouts`, those of variational dropout.
        experts: softmaxes that are mixed (15 in the published settings); 1 is an ordinary softmax.
        tied: the decoder's weight is the embedding's (needs E == H of the top layer, or experts).
        embedding_std: the embedding starts as N(0, embedding_std^2); 1 suits characters, 0.06 words (U(-0.1, 0.1)).
        seed: of the initial weights; the global generator is left as it was.

    Raises:
        ValueError: sizes or kinds of dropout that do not exist or do not go together.
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
                f"Each layer has its width, and layers is {layers} where hidden is {widths}: leave layers out, or make "
                "the two agree."
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
        drop = _dropouts(dropout)
        _check(self.sizes, widths, drop)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.encoder = WordDropEmbedding(vocabulary, embedding, dropout=drop.embedding)
            nn.init.normal_(self.encoder.weight, std=embedding_std)
            self.rnn = _recurrent(self.sizes, widths, drop)
            self.decoder = _decoder(self.sizes, widths[-1], vocabulary, drop.latent)
            nn.init.zeros_(self.decoder.bias)
        kind = LockedDropout if isinstance(dropout, Mapping) else nn.Dropout
        self.input_dropout, self.output_dropout = kind(drop.input), kind(drop.output)
        if tied:
            self.decoder.weight = self.encoder.weight

    def hidden(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Run the recurrent layers: tokens (T, B) -> h of the top one (T, B, H), before its dropout, and the state."""
        embedded = self.input_dropout(self.encoder(tokens))
        with _in_full(embedded.device.type) if self.cell in CELLS else nullcontext():
            hidden, state = self.rnn(embedded, state)
        return hidden, state

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits of the next token.

        Args:
            tokens: (T, B) token numbers.
            state: what the recurrent layer returned before, or None to start at zero.

        Returns:
            logits (T, B, V), of a mixture of softmaxes log-probabilities, and the state after the last token.
        """
        hidden, state = self.hidden(tokens, state)
        return self.decoder(self.output_dropout(hidden)), state

    @property
    def row_groups(self) -> dict[str, int]:
        """Gates stacked in the rows of each recurrent weight matrix, by parameter name."""
        return {f"rnn.{name}": GATES[self.cell] for name, weight in self.rnn.named_parameters() if weight.ndim == 2}


def _in_full(device: str) -> AbstractContextManager[None]:
    """Leave autocast: it would run cuDNN's layers in float16, whatever its dtype, and their gradients underflow."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _dropouts(dropout: float | Mapping[str, float]) -> Dropouts:
    if isinstance(dropout, Mapping):
        known = [field.name for field in fields(Dropouts)]
        if unknown := sorted(set(dropout) - set(known)):
            raise ValueError(f"A dropout is one of {', '.join(known)}, and {unknown[0]!r} is not: choose one of them.")
        return Dropouts(**dropout)
    return Dropouts(input=dropout, hidden=dropout, output=dropout)


def _check(sizes: Mapping[str, Any], widths: Sequence[int], drop: Dropouts) -> None:
    cell, depth, experts = sizes["cell"], sizes["depth"], sizes["experts"]
    if cell not in LAYERS:
        raise ValueError(f"A cell is one of {', '.join(LAYERS)}, and {cell!r} is not: choose one.")
    if not widths or min(widths) < 1:
        raise ValueError(f"A network has one layer at least, each of one unit at least, and these are {widths}.")
    if cell in CELLS and (depth != 1 or drop.state):
        raise ValueError(
            f'A depth and a dropout "state" belong to a recurrent highway layer, and the cell is {cell!r}: leave them '
            'out, or set cell = "rhn".'
        )
    if cell != "lstm" and drop.weight:
        raise ValueError(f'A dropout "weight" belongs to an LSTM, and the cell is {cell!r}: leave it out.')
    if experts < 1 or (experts == 1 and drop.latent):
        raise ValueError(
            'A mixture of softmaxes, to which the dropout "latent" belongs, has 2 experts or more, and 1 is an '
            f"ordinary softmax, but experts = {experts}: change it."
        )
    if sizes["tied"] and experts == 1 and sizes["embedding"] != widths[-1]:
        raise ValueError(
            f"Tied weights need an embedding as wide as the last layer, and {sizes['embedding']} is not {widths[-1]}: "
            "make them equal or set tied = false."
        )


def _recurrent(sizes: Mapping[str, Any], widths: Sequence[int], drop: Dropouts) -> nn.Module:
    """Return torch's module where it can do all that is asked for, and else single layers."""
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
    return Stack(chain(layer, sizes["embedding"], widths), dropout=drop.hidden, dropout_function=function)


def _decoder(sizes: Mapping[str, Any], hidden: int, vocabulary: int, dropout: float) -> nn.Linear:
    if sizes["experts"] == 1:
        return nn.Linear(hidden, vocabulary)
    return MixtureOfSoftmaxes(hidden, sizes["embedding"], vocabulary, experts=sizes["experts"], dropout=dropout)


def repackage_hidden(state: Any) -> Any:
    """The same state, cut from the graph: truncated BPTT carries values, not gradients."""
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
