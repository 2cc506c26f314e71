"""Networks that read a sequence and answer once: a classifier, and a forecaster of the steps that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperpruning.models.stack import CELLS, LAYERS, Stack, stacked_layers, without_autocast
from hyperpruning.settings import did_you_mean

POOLS = ("last", "mean")


class SequenceModel(nn.Module):
    """Recurrent layers, and a linear layer on the last output of a sequence or on the mean of its outputs.

    The attribute `sizes` keeps the arguments that describe the architecture. The buffers `mean` and `scale` (I,) hold
    what is subtracted from each feature of the inputs, and what it is divided by; they are 0 and 1 until they are set.

    Args:
        inputs: number of features I of a step.
        outputs: number of outputs of the linear layer.
        cell: a key of `LAYERS`.
        hidden: units H of each layer, or a list with the units of each layer from the bottom up.
        layers: number of recurrent layers; default 1, or the length of `hidden`.
        depth: micro-steps of a recurrent highway layer; 1 for all other cells.
        dropout: probability of dropout between the layers and before the linear layer.
        pool: "last": the linear layer reads the top layer's output of a sequence's last step; "mean": the mean over its
            steps.
        seed: of the initial weights; the state of the global generator does not change.

    Raises:
        ValueError: a size or the dropout is out of range, or the arguments do not fit together.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        cell: str = "gru",
        hidden: int | Sequence[int] = 64,
        layers: int | None = None,
        depth: int = 1,
        dropout: float = 0.0,
        pool: str = "last",
        seed: int = 0,
    ) -> None:
        super().__init__()
        widths = [hidden] * (layers or 1) if isinstance(hidden, int) else list(hidden)
        _check_sizes(cell, widths, layers, depth, dropout, pool)
        self.pool = pool
        self.sizes: dict[str, Any] = {
            "inputs": inputs,
            "cell": cell,
            "hidden": hidden if isinstance(hidden, int) else widths,
            "layers": len(widths),
            "depth": depth,
            "dropout": dropout,
            "pool": pool,
        }
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.rnn = _recurrent_layers(self.sizes, widths)
            self.output = nn.Linear(widths[-1], outputs)
        self.dropout = nn.Dropout(dropout)

    def read(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the outputs of the linear layer, (B, outputs).

        Args:
            inputs: (B, T, I) in the units of the data.
            lengths: (B,) steps of each sequence; what follows has no effect. None: all T steps.
        """
        standardized = ((inputs - self.mean) / self.scale).transpose(0, 1)  # (T, B, I)
        with without_autocast(inputs.device.type, self.sizes["cell"]):
            outputs = self.rnn(standardized)[0]  # (T, B, H)
        pooled: Tensor
        if lengths is None:
            pooled = outputs[-1] if self.pool == "last" else outputs.mean(0)
        elif self.pool == "last":
            pooled = outputs[lengths - 1, torch.arange(len(lengths), device=lengths.device)]
        else:
            inside = torch.arange(len(outputs), device=lengths.device)[:, None] < lengths  # (T, B)
            pooled = torch.where(inside[..., None], outputs, 0.0).sum(0) / lengths[:, None]
        answer: Tensor = self.output(self.dropout(pooled))
        return answer


class SequenceClassifier(SequenceModel):
    """Classifies sequences.

    Args:
        inputs: number of features I of a step.
        classes: number of classes C.
        sizes: as of `SequenceModel`.
    """

    def __init__(self, inputs: int, classes: int, **sizes: Any) -> None:
        super().__init__(inputs, classes, **sizes)
        self.sizes["classes"] = classes

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the logits (B, C) of sequences (B, T, I) with lengths (B,), see `SequenceModel.read`."""
        return self.read(inputs, lengths)


class Forecaster(SequenceModel):
    """Predicts the steps that follow a window of a multivariate series, in the units of the series.

    Args:
        inputs: number of features F of the series.
        horizon: number of steps that are predicted.
        sizes: as of `SequenceModel`.
    """

    def __init__(self, inputs: int, horizon: int, **sizes: Any) -> None:
        super().__init__(inputs, horizon * inputs, **sizes)
        self.sizes["horizon"] = horizon

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the next steps (B, horizon, F) of windows (B, T, F)."""
        standardized = self.read(inputs).view(len(inputs), self.sizes["horizon"], self.sizes["inputs"])
        return standardized * self.scale + self.mean


def _check_sizes(cell: str, widths: Sequence[int], layers: int | None, depth: int, dropout: float, pool: str) -> None:
    if cell not in LAYERS:
        raise ValueError(f"cell must be one of {', '.join(LAYERS)}, got {cell!r}.{did_you_mean(cell, LAYERS)}")
    if not widths or min(widths) < 1:
        raise ValueError(
            f"hidden must give at least one layer, each with at least one unit, got {list(widths)}. Give 1 or more."
        )
    if layers not in (None, len(widths)):
        raise ValueError(
            f"layers must equal the number of widths in hidden, got layers={layers} and hidden={list(widths)}. Leave "
            "layers out."
        )
    if cell in CELLS and depth != 1:
        raise ValueError(
            f"depth must be 1 unless the cell is a recurrent highway layer, got depth={depth} and cell={cell!r}. Leave "
            'it out or set cell = "rhn".'
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}. Lower it.")
    if pool not in POOLS:
        raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}.{did_you_mean(pool, POOLS)}")


def _recurrent_layers(sizes: dict[str, Any], widths: Sequence[int]) -> nn.Module:
    """Return one module of torch if it has such layers, otherwise a `Stack` of single layers."""
    cell = sizes["cell"]
    if cell in CELLS and isinstance(sizes["hidden"], int):
        dropout = sizes["dropout"] if len(widths) > 1 else 0.0
        return CELLS[cell](sizes["inputs"], sizes["hidden"], len(widths), dropout=dropout)
    layer: Callable[[int, int], nn.Module] = LAYERS[cell]
    if cell not in CELLS:
        layer = partial(LAYERS[cell], depth=sizes["depth"])
    return Stack(
        stacked_layers(layer, sizes["inputs"], widths), dropout=sizes["dropout"], dropout_function=functional.dropout
    )
