"""The spectrum of a stack, layer by layer: its Jacobian is block triangular, so that each layer's block does alone.

Trajectory first, a piece at a time; then each block's Jacobians, a few at a time; then their product. Small
layers share every call, whose overhead counts there; large ones are carried one sequence at a time, on as many threads
as torch may use. What is held in memory does not grow with the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from hyperpruning.lyapunov.growth import Frame, TracedFrame, independent, living
from hyperpruning.lyapunov.layers import DrivenLayer, LinearisedLayer, automatic_jacobian, unroll
from hyperpruning.lyapunov.networks import Driven, finite

PIECE = 64  # steps of the trajectory held at a time
CHUNK_BYTES = 2**21  # Jacobians held at a time: they stay in the cache
SHARED_SIZE = 128  # layers up to this size share calls
PROBES = 8  # steps at which a layer without hand-written Jacobian is looked at for dead units

# Each layer's states before the steps (S, B, D_l), and its inputs (S, B, I_l).
Piece = Sequence[tuple[Tensor, Tensor]]
# Which steps, which sequences -> their Jacobians (s, b, D, D).
Jacobians = Callable[[slice, slice], Tensor]
EVERY = slice(None)


def trajectory(network: Driven) -> Iterator[Piece]:
    """Yield the network's states and inputs, layer by layer, a piece of time after the other."""
    states = list(network.start)
    for inputs in torch.split(network.inputs, PIECE):
        piece = []
        for index, layer in enumerate(network.layers):
            visited = unroll(layer, states[index], inputs)  # (S + 1, B, D_l)
            if not finite(visited):
                raise ValueError("a trajectory stays finite, but this one left its dtype's range: scale the inputs")
            states[index] = visited[-1]
            piece.append((visited[:-1], inputs))
            inputs = visited[1:, :, : layer.hidden_size]
        yield piece


@dataclass(frozen=True)
class Rule:
    """Which product is formed, and how: `traced` so that autograd can follow, `published` as the published code does.

    The published code multiplies transposed Jacobians in forward order, J_t^T Q, and lets `loose` steps pass before it
    first orthonormalises. `probed`: look for dead units where only differentiation can tell.
    """

    traced: bool = False
    probed: bool = True
    published: bool = False
    loose: int = 0


class Revived(Exception):
    """A unit that seemed dead at the steps looked at is alive at another; never leaves this file."""


class Block:
    """One layer's diagonal block of the Jacobian: which units live, and which of their directions are not lost at once.

    path: states and inputs of a piece of time, (S, B, D_l), (S, B, I_l). What the weights say of dead units holds
    at any gates; a layer that is differentiated is looked at here and there, unless `probed` is False, and watched.
    """

    def __init__(self, layer: DrivenLayer, size: int, k: int | None, rule: Rule, path: tuple[Tensor, Tensor]) -> None:
        self.layer, self.size, self.k, self.rule = layer, size, size if k is None else k, rule
        if not 1 <= self.k <= size:
            raise ValueError(f"k is between 1 and the {size} exponents of a layer, but is {k}")
        states, inputs = path
        self.alive = self.followed = torch.arange(size, device=states.device)
        self.linearised = layer if isinstance(layer, LinearisedLayer) else None
        if self.linearised and not rule.published:
            like = self.linearised.jacobian_terms(states[0, :1], inputs[0, :1])
            generator = torch.Generator().manual_seed(0)
            terms = 0.5 + torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like)
            generic = self.linearised.jacobian(terms, size)[0]
            self.alive = living(generic != 0)
            self.followed = independent(generic[self.alive[:, None], self.alive])
        elif rule.probed and not rule.published:
            here_and_there = slice(None, None, max(1, len(states) // PROBES))
            self.support = (self.jacobians(states, inputs)(here_and_there, EVERY) != 0).flatten(0, 1).any(0)
            self.alive = living(self.support)
            self.followed = torch.arange(len(self.alive), device=states.device)
        self.followed = self.followed[: self.k]

    def jacobians(self, states: Tensor, inputs: Tensor) -> Jacobians:
        """Return what forms the living part of the Jacobians along a path; all of them at once would be large."""
        if self.linearised is None:
            varying = states
        else:
            varying = self.linearised.jacobian_terms(states.flatten(0, 1), inputs.flatten(0, 1))
            varying = varying.reshape(*states.shape[:2], *varying.shape[1:])

        def formed(steps: slice, sequences: slice) -> Tensor:
            here = varying[steps, sequences]  # (s, b, ...)
            if self.linearised is None:
                driving = inputs[steps, sequences].flatten(0, 1)
                jacobians = self.watched(automatic_jacobian(self.layer.step, here.flatten(0, 1), driving, self.size))
            else:
                jacobians = self.linearised.jacobian(here.flatten(0, 1), self.size)
            if len(self.alive) < self.size:
                jacobians = jacobians[:, self.alive[:, None], self.alive]
            jacobians = jacobians.reshape(*here.shape[:2], *jacobians.shape[1:])
            return jacobians.mT if self.rule.published else jacobians

        return formed

    def watched(self, jacobians: Tensor) -> Tensor:
        """Return the Jacobians as they are, unless one shows a dead unit alive."""
        if len(self.alive) < self.size:
            self.support = self.support | (jacobians != 0).any(0)
            if not torch.equal(living(self.support), self.alive):
                raise Revived
        return jacobians

    def frame(self, chains: int, like: Tensor) -> Frame | TracedFrame:
        """Return the start basis of so many of these blocks."""
        start = (chains, len(self.alive), self.followed, like)
        if self.rule.traced or self.rule.published:
            return TracedFrame(*start, loose=self.rule.loose if self.rule.published else 0)
        return Frame(*start)

    def place(self, growth: Tensor) -> Tensor:
        """Return the growth of those followed at their positions among all, -inf elsewhere: (S, B, k)."""
        if len(self.followed) == self.k:
            return growth
        positions = (
            self.alive[self.followed] if self.k == self.size else torch.arange(len(self.followed)).to(self.alive)
        )
        everywhere = growth.new_full((*growth.shape[:2], self.k), -torch.inf)
        return everywhere.index_copy(-1, positions, growth)


class Team:
    """Blocks of equal size that are carried along together, for some of the sequences."""

    def __init__(self, blocks: Sequence[Block], layers: Sequence[int], sequences: range, like: Tensor) -> None:
        self.blocks, self.layers, self.sequences = blocks, layers, slice(sequences.start, sequences.stop)
        chains, size = len(blocks) * len(sequences), len(blocks[0].alive)
        self.frame = blocks[0].frame(chains, like)
        self.held = max(1, CHUNK_BYTES // max(1, chains * size**2 * like.element_size()))

    def advance(self, forms: Sequence[Jacobians], measured: Sequence[bool]) -> Sequence[Tensor]:
        """Carry the frame through a piece; return what each step adds to each layer's growth, (S, sequences, k).

        forms: of all layers. measured: after which steps the growth is asked for.
        """
        growth = []
        for first in range(0, len(measured), self.held):
            now = slice(first, first + self.held)
            jacobians = together([forms[layer](now, self.sequences) for layer in self.layers])
            growth.append(self.frame.push(jacobians, measured[now]))
        by_layer = torch.cat(growth).chunk(len(self.layers), 1)
        return [block.place(part) for block, part in zip(self.blocks, by_layer, strict=True)]


def together(jacobians: Sequence[Tensor]) -> Tensor:
    """Return (S, B, D, D) of several blocks side by side, (S, blocks * B, D, D)."""
    if len(jacobians) == 1:
        return jacobians[0]
    if jacobians[0].requires_grad:
        return torch.cat(list(jacobians), 1)
    batch = jacobians[0].shape[1]  # copied one by one: torch.cat takes ten times as long for what lies like these
    side_by_side = jacobians[0].new_empty(len(jacobians[0]), len(jacobians) * batch, *jacobians[0].shape[2:])
    for index, part in enumerate(jacobians):
        side_by_side[:, index * batch : (index + 1) * batch].copy_(part)
    return side_by_side


def teams(blocks: Sequence[Block], batch: int, like: Tensor) -> list[Team]:
    """Return who is carried with whom: small blocks of equal size all together, large ones sequence by sequence."""
    small: dict[tuple[int, ...], list[int]] = {}
    found = []
    for index, block in enumerate(blocks):
        if len(block.alive) <= SHARED_SIZE:
            small.setdefault((len(block.alive), *block.followed.tolist()), []).append(index)
        else:
            found += [Team([block], [index], range(b, b + 1), like) for b in range(batch)]
    for layers in small.values():
        found.append(Team([blocks[layer] for layer in layers], layers, range(batch), like))
    return found


def growth(network: Driven, sizes: Sequence[int], k: int | None, rule: Rule, lengths: Sequence[int]) -> Tensor:
    """Return the growth over the last segments of the inputs, of so many steps each, (S, B, K) in state order.

    sizes: how many leading entries of each layer's state are followed.
    """
    try:
        return _growth(network, sizes, k, rule, lengths)
    except Revived:
        return _growth(network, sizes, k, replace(rule, probed=False), lengths)


def _growth(network: Driven, sizes: Sequence[int], k: int | None, rule: Rule, lengths: Sequence[int]) -> Tensor:
    layers, (steps, batch, _) = network.layers, network.inputs.shape
    large = [layer for layer, size in zip(layers, sizes, strict=True) if size > SHARED_SIZE]
    apart = (
        not rule.traced and not network.inputs.is_cuda and all(isinstance(layer, LinearisedLayer) for layer in large)
    )
    lengths = [steps - sum(lengths), *lengths]  # the warm-up before the first
    belongs = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    last = [*(belongs.diff() > 0).tolist(), True]  # a segment ends here
    with threads(len(large) * batch if apart else min(1, len(large))) as each:
        unrolled = trajectory(network)
        beginning = next(unrolled)
        each_layer = zip(layers, sizes, beginning, strict=True)
        blocks = [Block(layer, size, k, rule, path) for layer, size, path in each_layer]
        everyone = teams(blocks, batch, network.inputs)
        grown = network.inputs.new_zeros(len(lengths), batch, sum(block.k for block in blocks), dtype=torch.float64)
        for first, piece in zip(range(0, steps, PIECE), chain([beginning], unrolled), strict=True):
            now = slice(first, first + PIECE)
            forms = [block.jacobians(*path) for block, path in zip(blocks, piece, strict=True)]
            by_layer: list[list[Tensor]] = [[] for _ in blocks]
            advanced = each(lambda team, at=forms, ends=last[now]: team.advance(at, ends), everyone)
            for team, parts in zip(everyone, advanced, strict=True):
                for layer, part in zip(team.layers, parts, strict=True):
                    by_layer[layer].append(part)
            added = torch.cat([torch.cat(parts, 1) for parts in by_layer], -1)  # (steps, B, K)
            grown = grown.index_add(0, belongs[now].to(added.device), added)
    return grown[1:]


@contextmanager
def threads(large: int) -> Iterator[Callable[..., Iterable[Sequence[Tensor]]]]:
    """Provide a `map` over teams, of which so many are large: on torch's number of threads, one team each.

    Where none is large, one thread does all: on small matrices several only wait for each other, for many times longer.
    """
    before = torch.get_num_threads()

    def alone() -> None:  # both settings are a thread's own; that of MKL is not, hence `before` again at the end
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)

    try:
        if min(before, large) > 1:
            with ThreadPoolExecutor(min(before, large), initializer=alone) as pool:
                yield pool.map
        else:
            if not large:
                torch.set_num_threads(1)
            yield map
    finally:
        torch.set_num_threads(before)
