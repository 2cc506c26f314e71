"""The spectrum of a stack, layer by layer: its Jacobian is block triangular, so that each layer's block does alone.

Trajectory first, a stretch of time at a time; then each block's Jacobians, a few at a time; then their product. Small
layers share every call, whose overhead counts there; large ones are carried one sequence at a time, on as many threads
as torch may use. What is held in memory does not grow with the sequence, but for the growth itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperpruning.lyapunov.growth import ExplicitFrame, Frame, living, rank
from hyperpruning.lyapunov.layers import DrivenLayer, automatic_jacobian, walk
from hyperpruning.lyapunov.networks import Driven

STRETCH = 64  # steps of the trajectory held at a time
CHUNK_BYTES = 2**20  # Jacobians held at a time: they stay in the cache
SHARED_SIZE = 128  # layers up to this size share calls

# Each layer's states before the steps (S, B, D_l), and its inputs (S, B, I_l).
Stretch = Sequence[tuple[Tensor, Tensor]]


def trajectory(network: Driven) -> Iterator[Stretch]:
    """Yield the network's states and inputs, layer by layer, a stretch of time after the other."""
    states = list(network.start)
    for inputs in torch.split(network.inputs, STRETCH):
        stretch = []
        for index, layer in enumerate(network.layers):
            visited = walk(layer, states[index], inputs)  # (S + 1, B, D_l)
            if not bool(torch.isfinite(visited).all()):
                raise ValueError("a trajectory stays finite, but this one left its dtype's range: scale the inputs")
            states[index] = visited[-1]
            stretch.append((visited[:-1], inputs))
            inputs = visited[1:, :, : layer.hidden_size]
        yield stretch


@dataclass(frozen=True)
class Rule:
    """Which product is formed, and how: `traced` so that autograd can follow, `published` as the published code does.

    The published code multiplies transposed Jacobians in forward order, J_t^T Q, and lets `loose` steps pass before it
    first orthonormalises.
    """

    traced: bool = False
    published: bool = False
    loose: int = 0


class Block:
    """One layer's diagonal block of the Jacobian, without its dead units."""

    def __init__(self, layer: DrivenLayer, size: int, k: int | None, rule: Rule, like: Tensor) -> None:
        self.layer, self.size, self.k, self.rule = layer, size, size if k is None else k, rule
        if not 1 <= self.k <= size:
            raise ValueError(f"k is between 1 and the {size} exponents of a layer, but is {k}")
        self.alive = torch.arange(size, device=like.device)
        self.followed = self.k
        if hasattr(layer, "generic") and not rule.published:
            generic = layer.generic(size)
            self.alive = living(generic != 0)
            self.followed = min(self.k, rank(generic[self.alive[:, None], self.alive]))

    def jacobians(self, states: Tensor, inputs: Tensor) -> Tensor:
        """Return the living part of the Jacobians, (S, B, D_l), (S, B, I_l) -> (S, B, D, D)."""
        arguments = (states.flatten(0, 1), inputs.flatten(0, 1), self.size)
        if hasattr(self.layer, "jacobian"):
            jacobians: Tensor = self.layer.jacobian(*arguments)
        else:
            jacobians = automatic_jacobian(self.layer.step, *arguments)
        if len(self.alive) < self.size:
            jacobians = jacobians[:, self.alive[:, None], self.alive]
        jacobians = jacobians.reshape(*states.shape[:2], *jacobians.shape[1:])
        return jacobians.mT if self.rule.published else jacobians

    def frame(self, chains: int, like: Tensor) -> Frame:
        """Return the start basis of so many of these blocks."""
        shape = (chains, len(self.alive), self.followed, like)
        if self.rule.published:
            return ExplicitFrame(*shape, loose=self.rule.loose)
        return ExplicitFrame(*shape) if self.rule.traced else Frame(*shape)

    def place(self, growth: Tensor) -> Tensor:
        """Return the growth of the living (S, B, followed) at their positions among all, -inf elsewhere: (S, B, k)."""
        if self.followed == self.k:
            return growth
        positions = self.alive[: self.followed] if self.k == self.size else torch.arange(self.followed).to(self.alive)
        everywhere = growth.new_full((*growth.shape[:2], self.k), -torch.inf)
        return everywhere.index_copy(-1, positions, growth)


class Team:
    """Blocks of equal size that are carried along together, for some of the sequences."""

    def __init__(self, blocks: Sequence[Block], layers: Sequence[int], sequences: slice, frame: Frame) -> None:
        self.blocks, self.layers, self.sequences, self.frame = blocks, layers, sequences, frame

    def advance(self, stretch: Stretch) -> Sequence[Tensor]:
        """Carry the frame through a stretch and return each layer's growth, (S, sequences, k) in float64."""
        paths = [[part[:, self.sequences] for part in stretch[layer]] for layer in self.layers]
        steps, batch = paths[0][0].shape[:2]
        numbers = len(self.blocks) * batch * len(self.blocks[0].alive) ** 2
        held = max(1, CHUNK_BYTES // max(1, numbers * paths[0][0].element_size()))
        growth = []
        for first in range(0, steps, held):
            now = slice(first, first + held)
            each = [
                block.jacobians(*(part[now] for part in path)) for block, path in zip(self.blocks, paths, strict=True)
            ]
            growth.append(self.frame.push(torch.cat(each, 1) if len(each) > 1 else each[0]))
        by_layer = torch.split(torch.cat(growth).double(), batch, 1)
        return [block.place(part) for block, part in zip(self.blocks, by_layer, strict=True)]


def teams(blocks: Sequence[Block], batch: int, like: Tensor) -> list[Team]:
    """Return who is carried with whom: small blocks of equal size all together, large ones sequence by sequence."""
    together: dict[tuple[int, int], list[int]] = {}
    found = []
    for index, block in enumerate(blocks):
        if len(block.alive) <= SHARED_SIZE:
            together.setdefault((len(block.alive), block.followed), []).append(index)
        else:
            found += [Team([block], [index], slice(b, b + 1), block.frame(1, like)) for b in range(batch)]
    for layers in together.values():
        members = [blocks[layer] for layer in layers]
        found.append(Team(members, layers, slice(None), members[0].frame(len(layers) * batch, like)))
    return found


def growth(network: Driven, full: bool, k: int | None, rule: Rule) -> tuple[Tensor, tuple[int, ...]]:
    """Return every step's growth (T, B, K), in state order, and how many of K belong to each layer."""
    layers, (_, batch, _) = network.layers, network.inputs.shape
    sizes = [layer.state_size if full else layer.hidden_size for layer in layers]
    large = [layer for layer, size in zip(layers, sizes, strict=True) if size > SHARED_SIZE]
    apart = not rule.traced and not network.inputs.is_cuda and all(hasattr(layer, "jacobian") for layer in large)
    stretches = []
    with threads(len(large) * batch if apart else min(1, len(large))) as each:
        blocks = [Block(layer, size, k, rule, network.inputs) for layer, size in zip(layers, sizes, strict=True)]
        everyone = teams(blocks, batch, network.inputs)
        for stretch in trajectory(network):
            by_layer: list[list[Tensor]] = [[] for _ in blocks]
            for team, parts in zip(everyone, each(lambda team, at=stretch: team.advance(at), everyone), strict=True):
                for layer, part in zip(team.layers, parts, strict=True):
                    by_layer[layer].append(part)
            stretches.append(torch.cat([torch.cat(parts, 1) for parts in by_layer], -1))
    return torch.cat(stretches), tuple(block.k for block in blocks)


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
