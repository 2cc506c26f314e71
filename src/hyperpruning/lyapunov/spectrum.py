"""The Lyapunov spectrum of a recurrent network driven by a sequence.

The network is a map s_t = F(s_{t-1}, x_t). With J_t = dF/ds, an orthonormal Q and the QR decomposition J_t Q = Q' R,
the i-th exponent is the mean over t of ln |r_ii|, in nats per time step: the mean rate at which a small difference in
the i-th direction grows (positive) or is forgotten (negative).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor

from hyperpruning.lyapunov.growth import Frame, living
from hyperpruning.lyapunov.layers import DrivenLayer, automatic_jacobian
from hyperpruning.lyapunov.networks import Driven, driven

State = Literal["h", "full"]
Convention = Literal["forward", "published"]

CHUNK_BYTES = 2**25  # Jacobians held at a time, per layer: what bounds the memory for long sequences


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

    @property
    def per_sequence(self) -> Tensor:
        """Exponents of each sequence, (B, K)."""
        return self.growth.mean(0)

    @property
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


@torch.no_grad()
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
) -> Spectrum:
    """Return the Lyapunov spectrum of `network` driven by `inputs`.

    network: `nn.LSTM`, `nn.GRU`, `nn.RNN` (any depth, one direction); an object with `driven_layers()`, see
        `hyperpruning.lyapunov.layers.DrivenLayer`; or any function `step(state (B, D), input (B, I)) -> state (B, D)`.
    inputs: (T, B, I), or (B, T, I) for a module with `batch_first`; the warm-up steps included.
    state: "h" follows the hidden state alone, an LSTM's cell held fixed within a step, as published; "full" follows
        all of it, (h, c), which is the network's real state. The two agree for a network without a second state.
    start: the state before the first step, in the form that the network itself takes; zeros by default, except for
        a plain step, which has no other way to say how large its state is.
    warmup: steps that turn the directions, each re-orthonormalised, but are not measured.
    k: only the leading k exponents of each layer, exact and cheaper; all by default.
    dtype: what to compute in; by default float64 for "full", whose tail float32 cannot hold, else as the network.

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
    if _checked_convention(convention) == "published":
        raise NotImplementedError("convention 'published' is not there yet: use 'forward'")
    dtype = torch.float64 if dtype is None and state == "full" else dtype
    network_driven = driven(network, inputs, start, dtype)
    steps = network_driven.inputs.shape[0]
    if not 0 <= warmup < steps:
        raise ValueError(f"the sequence is longer than the warm-up, but has {steps} steps and warmup is {warmup}")
    growth, sizes = _growth(network_driven, state, k)
    return Spectrum(growth[warmup:], sizes, warmup, state, convention)


def _growth(network: Driven, state: State, k: int | None) -> tuple[Tensor, tuple[int, ...]]:
    """Return every step's growth (T, B, K) and the number of exponents per layer."""
    batch = network.inputs.shape[1]
    blocks = [_Block(layer, state, k, network.inputs) for layer in network.layers]
    groups: dict[tuple[int, int], list[int]] = {}  # layers of equal size share each call
    for index, block in enumerate(blocks):
        groups.setdefault((len(block.alive), block.followed), []).append(index)
    frames = {key: Frame(len(members) * batch, *key, like=network.inputs) for key, members in groups.items() if key[0]}

    growth: list[Tensor] = []
    for chunk in _trajectory(network, steps=_chunk_length(blocks, network.inputs)):
        parts: list[Tensor] = [block.dead(len(chunk[0][0]), batch) for block in blocks]
        for key, frame in frames.items():
            members = groups[key]
            jacobians = torch.cat([blocks[index].jacobians(*chunk[index]) for index in members], 1)
            logs = frame.push(jacobians).double()  # (S, layers in group * B, k)
            for index, part in zip(members, torch.split(logs, batch, 1), strict=True):
                parts[index] = blocks[index].place(part)
        growth.append(torch.cat(parts, -1))
    return torch.cat(growth), tuple(block.k for block in blocks)


def _chunk_length(blocks: list[_Block], inputs: Tensor) -> int:
    largest = max(block.size for block in blocks)
    return max(1, CHUNK_BYTES // (inputs.shape[1] * largest**2 * inputs.element_size()))


def _trajectory(network: Driven, steps: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield, `steps` at a time, each layer's states before the steps (S, B, D_l) and its inputs (S, B, I_l)."""
    states = list(network.start)
    for inputs in torch.split(network.inputs, steps):
        chunk = []
        for index, layer in enumerate(network.layers):
            path = [states[index]]
            for input in inputs:
                path.append(layer.step(path[-1], input))
            states[index] = path[-1]
            visited = torch.stack(path)  # (S + 1, B, D_l)
            if not bool(torch.isfinite(visited).all()):
                raise ValueError(
                    "a trajectory stays finite, but this one left its dtype's range: scale network or inputs"
                )
            chunk.append((visited[:-1], inputs))
            inputs = visited[1:, :, : layer.hidden_size]
        yield chunk


class _Block:
    """One layer's diagonal block of the Jacobian, without its dead units."""

    def __init__(self, layer: DrivenLayer, state: State, k: int | None, like: Tensor) -> None:
        self.layer = layer
        self.size = layer.hidden_size if state == "h" else layer.state_size
        self.k = self.size if k is None else k
        if not 1 <= self.k <= self.size:
            raise ValueError(f"k is between 1 and the {self.size} exponents of a layer, but is {k}")
        support = layer.support(self.size) if hasattr(layer, "support") else None
        self.alive = torch.arange(self.size, device=like.device) if support is None else living(support)
        self.followed = min(self.k, len(self.alive))

    def jacobians(self, states: Tensor, inputs: Tensor) -> Tensor:
        """Return the living part of the Jacobians, (S, B, D, D)."""
        arguments = (states.flatten(0, 1), inputs.flatten(0, 1), self.size)
        if hasattr(self.layer, "jacobian"):
            jacobians: Tensor = self.layer.jacobian(*arguments)
        else:
            jacobians = automatic_jacobian(self.layer.step, *arguments)
        if len(self.alive) < self.size:
            jacobians = jacobians[:, self.alive[:, None], self.alive]
        return jacobians.reshape(*states.shape[:2], *jacobians.shape[1:])

    def dead(self, steps: int, batch: int) -> Tensor:
        """Return the growth of a layer that has no living unit, (S, B, k)."""
        return torch.full((steps, batch, self.k), -torch.inf, dtype=torch.float64, device=self.alive.device)

    def place(self, growth: Tensor) -> Tensor:
        """Return the growth of the living (S, B, followed) at their positions among all, -inf elsewhere: (S, B, k)."""
        if self.followed == self.k:
            return growth
        positions = self.alive if self.k == self.size else self.alive.new_tensor(range(self.followed))
        return self.dead(*growth.shape[:2]).index_copy(-1, positions, growth)


def _checked_state(state: str) -> State:
    if state in get_args(State):
        return cast(State, state)
    raise ValueError(f"state is 'h' or 'full', but is {state!r}")


def _checked_convention(convention: str) -> Convention:
    if convention in get_args(Convention):
        return cast(Convention, convention)
    raise ValueError(f"convention is 'forward' or 'published', but is {convention!r}")
