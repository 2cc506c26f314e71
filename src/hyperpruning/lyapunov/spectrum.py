"""The Lyapunov spectrum of a recurrent network driven by a sequence.

The network is a map s_t = F(s_{t-1}, x_t). With J_t = dF/ds, an orthonormal Q and the QR decomposition J_t Q = Q' R,
the i-th exponent is the mean over t of ln |r_ii|, in nats per time step: the mean rate at which a small difference in
the i-th direction grows (positive) or shrinks (negative).
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor

from hyperpruning.files import write_atomic
from hyperpruning.kernels import float32_precision
from hyperpruning.lyapunov.archive import Kind, read_arrays
from hyperpruning.lyapunov.blocks import Algorithm, growth
from hyperpruning.lyapunov.networks import driven_map
from hyperpruning.lyapunov.preparation import DrivenMap
from hyperpruning.tabulation import data_frame, html_table

# what `Spectrum.save` writes
_KINDS = {
    "growth": Kind("f", 3),
    "lengths": Kind("i", 1),
    "sizes": Kind("i", 1),
    "warmup": Kind("i", 0),
    "state": Kind("U", 0),
    "convention": Kind("U", 0),
}
State = Literal["h", "full"]
Convention = Literal["forward", "published"]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Lyapunov exponents in nats per time step, in state order: layer by layer, in the order of the unit vectors.

    growth: logarithmic growth of each segment of time, sequence and exponent, (S, B, K), in nats.
    lengths: measured time steps of each of the S segments.
    sizes: number of exponents of each layer.
    warmup: time steps before the first segment, which are not measured.
    state: "h" or "full", see `lyapunov_spectrum`.
    convention: "forward" or "published", see `lyapunov_spectrum`.
    """

    growth: Tensor
    lengths: tuple[int, ...]
    sizes: tuple[int, ...]
    warmup: int
    state: State = "h"
    convention: Convention = "forward"

    @property
    def steps(self) -> int:
        """Measured time steps T."""
        return sum(self.lengths)

    @cached_property
    def per_sequence(self) -> Tensor:
        """Exponents of each sequence, (B, K)."""
        return self.growth.sum(0) / self.steps

    @cached_property
    def exponents(self) -> Tensor:
        """Exponents averaged over the sequences, (K,), in nats per time step."""
        return self.per_sequence.mean(0)

    @property
    def n_minus_inf(self) -> int:
        """Number of exponents that are -inf: directions that are lost within one step, such as those of dead units."""
        return int(torch.isneginf(self.exponents).sum())

    def sorted(self) -> Tensor:
        """Return the exponents in decreasing order, (K,)."""
        return self.exponents.sort(descending=True).values

    def convergence(self) -> Tensor:
        """Return the exponents measured up to the end of each segment, (S, K)."""
        ends = torch.tensor(self.lengths, dtype=self.growth.dtype, device=self.growth.device).cumsum(0)
        return self.growth.mean(1).cumsum(0) / ends[:, None]

    def standard_error(self) -> Tensor:
        """Return the standard error of the exponents, (K,), from their variation over sequences and segments of time.

        It assumes independent segments, which holds better for longer ones. It is zero for an exponent of -inf.

        Raises: ValueError for a single segment of a single sequence.
        """
        lengths = torch.tensor(self.lengths, dtype=self.growth.dtype, device=self.growth.device)
        means = (self.growth / lengths[:, None, None]).flatten(0, 1)  # (S B, K)
        if len(means) < 2:
            raise ValueError(
                "A standard error must have at least two sequences or segments, got one of each. Give "
                "lyapunov_spectrum more sequences or more segments."
            )
        return torch.where(torch.isneginf(self.exponents), 0.0, means.std(0) / len(means) ** 0.5)

    def layers(self) -> tuple[Tensor, ...]:
        """Return the exponents of each layer, in state order."""
        return torch.split(self.exponents, list(self.sizes))

    def __repr__(self) -> str:
        finite = self.exponents[self.exponents.isfinite()]
        values = f"from {finite.min():.4g} to {finite.max():.4g} nats per step" if len(finite) else "none finite"
        lost = f", {self.n_minus_inf} at -inf" if self.n_minus_inf else ""
        return (
            f"Spectrum({_counted(len(self.exponents), 'exponent')} of {_counted(len(self.sizes), 'layer')}, "
            f"{values}{lost}; {_counted(self.steps, 'step')}, {_counted(self.growth.shape[1], 'sequence')})"
        )

    def _repr_html_(self) -> str:
        """Return a table of the layers, for notebooks."""
        rows = []
        for index, layer in enumerate(self.layers()):
            finite = layer[layer.isfinite()]
            values = [finite.max(), layer.median(), finite.min()] if len(finite) else [layer[0]] * 3
            rows.append([f"{index}", f"{len(layer)}", *(f"{value:.4g}" for value in values)])
            rows[-1].append(f"{len(layer) - len(finite)}")
        return html_table(repr(self), ["layer", "exponents", "largest", "median", "smallest finite", "-inf"], rows)

    def to_frame(self) -> Any:
        """Return a pandas DataFrame with a row for each exponent: layer, position in the layer, exponent.

        Raises: ImportError if pandas is not installed.
        """
        parts = [part.tolist() for part in self.layers()]
        rows = [(layer, position, value) for layer, part in enumerate(parts) for position, value in enumerate(part)]
        return data_frame([dict(zip(("layer", "position", "exponent"), row, strict=True)) for row in rows])

    def plot(self, ax: Any = None) -> Any:
        """Draw the exponents of each layer in decreasing order, and return the matplotlib Axes.

        Exponents of -inf are not drawn; the legend has their number.

        ax: the Axes to draw on; default a new figure's.
        """
        from matplotlib import pyplot as plt

        ax = plt.subplots()[1] if ax is None else ax
        for index, layer in enumerate(self.layers()):
            finite = layer[layer.isfinite()].detach().cpu().sort(descending=True).values
            lost = len(layer) - len(finite)
            label = f"layer {index}" + (f" ({lost} at -inf)" if lost else "")
            ax.plot(range(1, len(finite) + 1), finite.numpy(), marker=".", label=label)
        ax.set(xlabel="rank in the layer", ylabel="exponent, nats per step")
        ax.legend()
        return ax

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the spectrum to a NumPy archive without pickle; an existing file is replaced atomically."""
        file = io.BytesIO()
        np.savez(
            file,
            growth=self.growth.detach().cpu().numpy(),
            lengths=np.array(self.lengths, dtype=np.int64),
            sizes=np.array(self.sizes, dtype=np.int64),
            warmup=np.int64(self.warmup),
            state=np.str_(self.state),
            convention=np.str_(self.convention),
        )
        write_atomic(Path(path), file.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Spectrum:
        """Read a file that `save` wrote; no code of the file is executed.

        Raises: ValueError if the file has other contents; OSError if it cannot be opened.
        """
        file = read_arrays(Path(path), _KINDS)
        found = cls(
            growth=torch.from_numpy(file["growth"]),
            lengths=tuple(file["lengths"].tolist()),
            sizes=tuple(file["sizes"].tolist()),
            warmup=int(file["warmup"]),
            state=_checked_state(str(file["state"])),
            convention=_checked_convention(str(file["convention"])),
        )
        if not _is_consistent(found):
            raise ValueError(
                f"A spectrum file must have growth (S, B, K) without NaN, S lengths of at least 1 and sizes with the "
                f"sum K, got other values in {path}. Compute the spectrum again."
            )
        return found


@float32_precision()
def lyapunov_spectrum(
    network: Any,
    inputs: Tensor,
    *,
    state: State = "h",
    start: Any = None,
    warmup: int = 10,
    k: int | None = None,
    segments: int = 4,
    dtype: torch.dtype | None = None,
    convention: Convention = "forward",
    differentiable: bool = False,
) -> Spectrum:
    """Return the Lyapunov spectrum of `network` driven by `inputs`.

    network: `nn.LSTM`, `nn.GRU`, `nn.RNN` (any depth, one direction); an object with `driven_layers()`, or a list of
        such layers or modules from the bottom up, see `hyperpruning.lyapunov.layers.DrivenLayer`; or any function
        `step(state (B, D), input (B, I)) -> state (B, D)`.
    inputs: (T, B, I), or (B, T, I) for a module with `batch_first`, including the warm-up steps.
    state: "h" follows only the hidden state, with an LSTM's cell state fixed within each step, as published. "full"
        follows (h, c), the complete state. Both are equal for a network without a second state. Default "h".
    start: the state before the first step, in the form that the network takes; default zeros. A plain step requires it,
        because it gives the size of the state.
    warmup: steps that are run before the growth is measured; default 10.
    k: number of leading exponents of each layer (exact, and cheaper than all); default all.
    segments: number of equal parts of the measured time, for `Spectrum.convergence` and `Spectrum.standard_error`;
        default 4, at most one per step. Each costs one QR; the exponents do not depend on it.
    dtype: torch.float32 or torch.float64; default float64 for a second state ("full") and for a plain step, because
        float32 cannot represent their lowest exponents; otherwise the network's. float32 is never TF32, whatever
        torch's settings are, except in the backward pass of `differentiable`.
    convention: "published" multiplies transposed Jacobians and warms up as the published code does (docs/theory.md),
        to compare with its numbers. Default "forward".
    differentiable: record everything for back-propagation to weights, inputs and start. It is several times slower and
        stores all Jacobians. Default False.

    The Jacobian of a stack is block triangular. Its spectrum consists of the spectra of its layers, each computed on
    its own; it equals the spectrum of the whole stack with an initial basis that lists the top layer first. Units with
    a zero row or column in the recurrent weights have one exponent of -inf each. Exponents at the same position of two
    spectra are comparable, because both start from the same unit vector.

    Raises: TypeError or ValueError if the network or the inputs have no spectrum; the message says what to change.

    Sources: Benettin et al. 1980 (the algorithm); Vogt et al. 2022 (recurrent networks); Zheng and Shlizerman 2025.

    >>> rotation = torch.tensor([[0.0, -2.0], [2.0, 0.0]])
    >>> spectrum = lyapunov_spectrum(lambda s, x: s @ rotation.T, torch.zeros(30, 1, 1), start=torch.ones(1, 2))
    >>> [round(float(exponent), 4) for exponent in spectrum.exponents]  # ln 2, twice
    [0.6931, 0.6931]
    """
    _checked_state(state)
    published = _checked_convention(convention) == "published"
    with torch.set_grad_enabled(differentiable):
        stack = driven_map(network, inputs, start, dtype, full=state == "full")
        steps = _checked_steps(stack, warmup)
        measured = steps - warmup
        if segments < 1:
            raise ValueError(f"segments must be at least 1, got {segments}. Raise it.")
        if published:
            stack, measured = stack.with_repeated_start(warmup), steps
        algorithm = Algorithm(differentiable=differentiable, published=published, steps_before_qr=warmup)
        sizes = tuple(layer.state_size if state == "full" else layer.hidden_size for layer in stack.layers)
        parts = min(segments, measured)
        lengths = tuple(measured * (part + 1) // parts - measured * part // parts for part in range(parts))
        by_segment = growth(stack, sizes, k, algorithm, lengths)
    return Spectrum(by_segment, lengths, sizes if k is None else (k,) * len(sizes), warmup, state, convention)


def check_has_spectrum(network: Any, inputs: Tensor, *, state: State, warmup: int) -> None:
    """Check, without computing it, that `lyapunov_spectrum` accepts these arguments.

    Raises:
        TypeError or ValueError: the network or the inputs have no spectrum; the message says what to change.
    """
    with torch.no_grad():
        _checked_steps(driven_map(network, inputs, None, None, full=_checked_state(state) == "full"), warmup)


def _checked_steps(stack: DrivenMap, warmup: int) -> int:
    steps = len(stack.inputs)
    if not 0 <= warmup < steps:
        raise ValueError(
            f"warmup must be from 0 to below the number of steps, {steps}, got {warmup}. Lower it (in a "
            "search: SpectrumConfig(warmup=...), or warmup in [spectrum])."
        )
    return steps


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _is_consistent(spectrum: Spectrum) -> bool:
    growth = spectrum.growth
    return (
        growth.dtype in (torch.float32, torch.float64)
        and min(growth.shape) >= 1
        and len(spectrum.lengths) == len(growth)
        and min(spectrum.lengths) >= 1
        and min(spectrum.sizes, default=0) >= 1
        and sum(spectrum.sizes) == growth.shape[2]
        and spectrum.warmup >= 0
        and not bool((growth.isnan() | growth.isposinf()).any())
    )


def _checked_state(state: str) -> State:
    if state in get_args(State):
        return cast(State, state)
    raise ValueError(f"state must be 'h' or 'full', got {state!r}. Choose one of these.")


def _checked_convention(convention: str) -> Convention:
    if convention in get_args(Convention):
        return cast(Convention, convention)
    raise ValueError(f"convention must be 'forward' or 'published', got {convention!r}. Choose one of these.")
