"""The Lyapunov spectrum of a recurrent network driven by a sequence.

The network is a map s_t = F(s_{t-1}, x_t). With J_t = dF/ds, an orthonormal Q and the QR decomposition J_t Q = Q' R,
the i-th exponent is the mean over t of ln |r_ii|, in nats per time step: the mean rate at which a small difference in
the i-th direction grows (positive) or is forgotten (negative).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor

from hyperpruning.lyapunov.blocks import Rule, growth
from hyperpruning.lyapunov.networks import driven

State = Literal["h", "full"]
Convention = Literal["forward", "published"]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Lyapunov exponents in nats per time step, in state order: layer by layer, each from its first unit vector on.

    `growth` (T, B, K): ln |r_ii| of each measured step, sequence and exponent; all else follows from it.
    `sizes`: how many exponents each layer has. `steps`: T. `warmup`: the steps left out before.
    """

    growth: Tensor
    sizes: tuple[int, ...]
    warmup: int
    state: State = "h"
    convention: Convention = "forward"

    @property
    def steps(self) -> int:
        """Measured time steps T."""
        return self.growth.shape[0]

    @cached_property
    def per_sequence(self) -> Tensor:
        """Exponents of each sequence, (B, K)."""
        return self.growth.mean(0)

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
        """Return the exponents as measured over the first 1, 2, ..., T steps, (T, K): how they converge."""
        counts = torch.arange(1, self.steps + 1, dtype=self.growth.dtype, device=self.growth.device)
        return self.growth.mean(1).cumsum(0) / counts[:, None]

    def standard_error(self, blocks: int = 8) -> Tensor:
        """Return the standard error of the exponents, (K,), from their scatter over sequences and stretches of time.

        blocks: equal stretches into which each sequence is cut; longer ones are less dependent on each other.
        Zero for an exponent of -inf, which is -inf whatever else is measured.
        """
        if not 1 <= blocks <= self.steps or blocks * self.growth.shape[1] < 2:
            raise ValueError(
                f"a standard error needs two stretches of a step or more, but blocks is {blocks} "
                f"for {self.steps} steps of {self.growth.shape[1]} sequences"
            )
        length = self.steps // blocks
        stretches = self.growth[: blocks * length].reshape(blocks, length, *self.growth.shape[1:])
        means = stretches.mean(1).flatten(0, 1)  # (blocks * B, K)
        return torch.where(torch.isneginf(self.exponents), 0.0, means.std(0) / len(means) ** 0.5)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one NumPy archive, without pickle; an older file is replaced at once or not at all."""
        path = Path(path)
        draft = path.with_name(path.name + ".draft")
        with draft.open("wb") as file:
            np.savez(
                file,
                growth=self.growth.detach().cpu().numpy(),
                sizes=np.array(self.sizes, dtype=np.int64),
                warmup=np.int64(self.warmup),
                state=np.str_(self.state),
                convention=np.str_(self.convention),
            )
        draft.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Spectrum:
        """Read what `save` wrote; never executes anything from the file."""
        with np.load(path, allow_pickle=False) as file:
            return cls(
                growth=torch.from_numpy(file["growth"]),
                sizes=tuple(int(size) for size in file["sizes"]),
                warmup=int(file["warmup"]),
                state=_checked_state(str(file["state"])),
                convention=_checked_convention(str(file["convention"])),
            )


def lyapunov_spectrum(
    network: Any,
    inputs: Tensor,
    *,
    state: State = "h",
    start: Any = None,
    warmup: int = 10,
    k: int | None = None,
    dtype: torch.dtype | None = None,
    convention: Convention = "forward",
    differentiable: bool = False,
) -> Spectrum:
    """Return the Lyapunov spectrum of `network` driven by `inputs`.

    network: `nn.LSTM`, `nn.GRU`, `nn.RNN` (any depth, one direction); an object with `driven_layers()`, or a list of
        such layers from the bottom up, see `hyperpruning.lyapunov.layers.DrivenLayer`; or any function
        `step(state (B, D), input (B, I)) -> state (B, D)`.
    inputs: (T, B, I), or (B, T, I) for a module with `batch_first`; the warm-up steps included.
    state: "h" follows the hidden state alone, an LSTM's cell held fixed within a step, as published; "full" follows
        all of it, (h, c), which is the network's real state. The two agree for a network without a second state.
    start: the state before the first step, in the form that the network itself takes; zeros by default, except for
        a plain step, which has no other way to say how large its state is.
    warmup: steps that turn the directions, each re-orthonormalised, but are not measured.
    k: only the leading k exponents of each layer, exact and cheaper; all by default.
    dtype: what to compute in; by default float64 for "full", whose tail float32 cannot hold, else as the network.

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
        if published:
            stack = stack.after(warmup)
        rule = Rule(traced=differentiable, published=published, loose=warmup)
        every, sizes = growth(stack, state == "full", k, rule)
    return Spectrum(every[warmup:], sizes, warmup, state, convention)


def _checked_state(state: str) -> State:
    if state in get_args(State):
        return cast(State, state)
    raise ValueError(f"state is 'h' or 'full', but is {state!r}")


def _checked_convention(convention: str) -> Convention:
    if convention in get_args(Convention):
        return cast(Convention, convention)
    raise ValueError(f"convention is 'forward' or 'published', but is {convention!r}")
