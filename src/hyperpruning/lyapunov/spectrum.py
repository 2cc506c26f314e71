"""The Lyapunov spectrum of a recurrent network driven by a sequence.

The network is a map s_t = F(s_{t-1}, x_t). With J_t = dF/ds, an orthonormal Q and the QR decomposition J_t Q = Q' R,
the i-th exponent is the mean over t of ln |r_ii|, in nats per time step: the mean rate at which a small difference in
the i-th direction grows (positive) or is forgotten (negative).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor

from hyperpruning.kernels import float32_precision
from hyperpruning.lyapunov.blocks import Rule, growth
from hyperpruning.lyapunov.networks import driven

State = Literal["h", "full"]
Convention = Literal["forward", "published"]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Lyapunov exponents in nats per time step, in state order: layer by layer, each from its first unit vector on.

    `growth` (S, B, K): by how much the logarithms of length grow in each segment of time, sequence and exponent.
    `lengths`: the measured time steps of each segment, S in all. `sizes`: how many exponents each layer has.
    `warmup`: the steps left out before.
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
        """Exponents averaged over the sequences, (K,)."""
        return self.per_sequence.mean(0)

    @property
    def infinite(self) -> int:
        """How many exponents are -inf: directions that the network forgets within a step, as those of dead units."""
        return int(torch.isneginf(self.exponents).sum())

    def sorted(self) -> Tensor:
        """Return the exponents in decreasing order, (K,)."""
        return self.exponents.sort(descending=True).values

    def history(self) -> Tensor:
        """Return the exponents as measured up to the end of each segment, (S, K): how they converge."""
        ends = torch.tensor(self.lengths, dtype=self.growth.dtype, device=self.growth.device).cumsum(0)
        return self.growth.mean(1).cumsum(0) / ends[:, None]

    def standard_error(self) -> Tensor:
        """Return the standard error of the exponents, (K,), from their scatter over sequences and segments of time.

        Stretches are taken to be independent: longer ones are more so. Zero for an exponent of -inf, which is -inf
        whatever else is measured.
        """
        lengths = torch.tensor(self.lengths, dtype=self.growth.dtype, device=self.growth.device)
        means = (self.growth / lengths[:, None, None]).flatten(0, 1)  # (S B, K)
        if len(means) < 2:
            raise ValueError(
                "a standard error needs two sequences or segments of time, but this spectrum has one of each: "
                "give lyapunov_spectrum more sequences or more segments"
            )
        return torch.where(torch.isneginf(self.exponents), 0.0, means.std(0) / len(means) ** 0.5)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one NumPy archive, without pickle; an older file is replaced at once or not at all."""
        path = Path(path)
        draft = path.with_name(path.name + ".draft")
        with draft.open("wb") as file:
            np.savez(
                file,
                growth=self.growth.detach().cpu().numpy(),
                lengths=np.array(self.lengths, dtype=np.int64),
                sizes=np.array(self.sizes, dtype=np.int64),
                warmup=np.int64(self.warmup),
                state=np.str_(self.state),
                convention=np.str_(self.convention),
            )
        draft.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Spectrum:
        """Read what `save` wrote; never executes anything from the file.

        Raises: ValueError for another file.
        """
        with np.load(path, allow_pickle=False) as file:
            missing = [field.name for field in fields(cls) if field.name not in file]
            if missing:
                raise ValueError(
                    f"a spectrum's file holds all its parts, and {path} has no {', '.join(missing)}: compute it again "
                    "with this version"
                )
            return cls(
                growth=torch.from_numpy(file["growth"]),
                lengths=tuple(int(length) for length in file["lengths"]),
                sizes=tuple(int(size) for size in file["sizes"]),
                warmup=int(file["warmup"]),
                state=_checked_state(str(file["state"])),
                convention=_checked_convention(str(file["convention"])),
            )


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
    inputs: (T, B, I), or (B, T, I) for a module with `batch_first`; the warm-up steps included.
    state: "h" follows the hidden state alone, an LSTM's cell held fixed within a step, as published; "full" follows
        all of it, (h, c), which is the network's real state. The two agree for a network without a second state.
    start: the state before the first step, in the form that the network itself takes; zeros by default, except for
        a plain step, which has no other way to say how large its state is.
    warmup: steps that turn the directions, but are not measured.
    k: only the leading k exponents of each layer, exact and cheaper; all by default.
    segments: equal parts of the measured time whose growth is kept apart, for the history and the standard error; at
        most one a step. Each costs a QR; the exponents are the same.
    dtype: what to compute in; by default float64 for "full", whose tail float32 cannot hold, else as the network.
        float32 is never TF32 here, whatever torch is set to (but for the way back of `differentiable`).
    convention: "published" multiplies transposed Jacobians and warms up as the published code does (docs/theory.md),
        to compare with its numbers.
    differentiable: record everything for back-propagation to weights, inputs and start: some times slower, and all
        Jacobians are kept.

    The Jacobian of a stack is block triangular, so that its spectrum is that of its layers, each computed alone; it
    equals that of the whole stack with a start basis that lists the top layer first. Units that nothing reads or that
    read nothing have one exponent of -inf each. Exponents at the same position of two spectra can be compared: both
    start from the same unit vector.

    Raises: TypeError, ValueError for inputs that have no spectrum; the message says what to change.

    Sources: Benettin et al. 1980 (the algorithm); Vogt et al. 2022 (recurrent networks); Zheng and Shlizerman 2025.

    >>> rotation = torch.tensor([[0.0, -2.0], [2.0, 0.0]])
    >>> spectrum = lyapunov_spectrum(lambda s, x: s @ rotation.T, torch.zeros(30, 1, 1), start=torch.ones(1, 2))
    >>> [round(float(exponent), 4) for exponent in spectrum.exponents]  # ln 2, twice
    [0.6931, 0.6931]
    """
    _checked_state(state)
    published = _checked_convention(convention) == "published"
    with torch.set_grad_enabled(differentiable):
        stack = driven(network, inputs, start, dtype, full=state == "full")
        steps = len(stack.inputs)
        if not 0 <= warmup < steps:
            raise ValueError(f"a sequence is longer than its warm-up, but has {steps} steps and warmup is {warmup}")
        if segments < 1:
            raise ValueError(f"the measured time has one segment or more, but segments is {segments}")
        measured = steps - warmup
        if published:
            stack, measured = stack.after(warmup), steps
        rule = Rule(traced=differentiable, published=published, loose=warmup)
        sizes = tuple(layer.state_size if state == "full" else layer.hidden_size for layer in stack.layers)
        parts = min(segments, measured)
        lengths = tuple(measured * (part + 1) // parts - measured * part // parts for part in range(parts))
        grown = growth(stack, sizes, k, rule, lengths)
    return Spectrum(grown, lengths, sizes if k is None else (k,) * len(sizes), warmup, state, convention)


def _checked_state(state: str) -> State:
    if state in get_args(State):
        return cast(State, state)
    raise ValueError(f"state is 'h' or 'full', but is {state!r}")


def _checked_convention(convention: str) -> Convention:
    if convention in get_args(Convention):
        return cast(Convention, convention)
    raise ValueError(f"convention is 'forward' or 'published', but is {convention!r}")
