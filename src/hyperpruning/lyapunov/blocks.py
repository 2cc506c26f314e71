"""The spectrum of a stack, computed layer by layer: its Jacobian is block triangular, one diagonal block per layer.

For each chunk of time, the trajectory is computed first, then each block's Jacobians, a few at a time, then their
product. Small layers are batched into shared calls, because there the overhead of a call dominates. Large layers are
processed one sequence at a time, on torch's number of threads. Memory use does not grow with the sequence length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from hyperpruning.lyapunov.growth import LUFrame, QRFrame, independent_columns, live_units
from hyperpruning.lyapunov.layers import DrivenLayer, LayerWithJacobian, forward_mode_jacobian, unroll
from hyperpruning.lyapunov.preparation import DrivenMap, all_finite
from hyperpruning.lyapunov.rank import RankLUFrame, RankQRFrame

CHUNK_STEPS = 64  # time steps per chunk of the trajectory
JACOBIAN_BYTES = 2**21  # memory for Jacobians at a time, small enough for the cache
SMALL_BLOCK = 128  # largest block size that is batched with others
PROBE_STEPS = 8  # time steps per chunk at which automatic Jacobians are examined for dead units

# For each layer, the states before the steps (S, B, D_l) and the inputs (S, B, I_l).
TrajectoryChunk = Sequence[tuple[Tensor, Tensor]]
# (slice of steps, slice of sequences) -> their Jacobians (s, b, D, D).
JacobianFunction = Callable[[slice, slice], Tensor]
ALL = slice(None)


def trajectory_chunks(network: DrivenMap) -> Iterator[TrajectoryChunk]:
    """Yield the states and inputs of all layers, one chunk of time after the other."""
    states = list(network.start)
    for inputs in torch.split(network.inputs, CHUNK_STEPS):
        chunk = []
        for index, layer in enumerate(network.layers):
            visited = unroll(layer, states[index], inputs)  # (S + 1, B, D_l)
            if not all_finite(visited):
                raise ValueError("The trajectory must stay finite, got NaN or infinity. Scale inputs or weights.")
            states[index] = visited[-1]
            chunk.append((visited[:-1], inputs))
            inputs = visited[1:, :, : layer.hidden_size]
        yield chunk


@dataclass(frozen=True)
class Algorithm:
    """How the product of Jacobians is computed.

    differentiable: by a QR at every step, which autograd can record.
    probe: examine automatic Jacobians for dead units, which are then left out.
    published: as in the published code, with transposed Jacobians in forward order, J_t^T Q.
    steps_before_qr: for `published`, the number of steps that are multiplied before the first QR.
    """

    differentiable: bool = False
    probe: bool = True
    published: bool = False
    steps_before_qr: int = 0


class UnitNotDead(Exception):
    """A unit that was dead at the probed steps is live at another step; only raised and caught in this file."""


class Block:
    """One layer's diagonal block of the Jacobian, with its live units and the directions that are tracked.

    Dead units are those with a zero row or column. A hand-written Jacobian shows them for any values of the gates. An
    automatic Jacobian is examined at `PROBE_STEPS` steps of the first chunk and checked at all later steps.

    states, inputs: of the first chunk of time, (S, B, D_l), (S, B, I_l).
    """

    def __init__(
        self, layer: DrivenLayer, size: int, k: int | None, algorithm: Algorithm, states: Tensor, inputs: Tensor
    ) -> None:
        self.layer, self.size, self.k, self.algorithm = layer, size, size if k is None else k, algorithm
        if not 1 <= self.k <= size:
            raise ValueError(f"k must be between 1 and the {size} exponents of a layer, got {k}.")
        self.live = self.tracked = torch.arange(size, device=states.device)
        self.with_jacobian = layer if isinstance(layer, LayerWithJacobian) else None
        if self.with_jacobian and not algorithm.published:
            like = self.with_jacobian.jacobian_terms(states[0, :1], inputs[0, :1])
            generator = torch.Generator().manual_seed(0)
            terms = 0.5 + torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like)
            generic = self.with_jacobian.jacobian(terms, size)[0]
            self.live = live_units(generic != 0)
            self.tracked = independent_columns(generic[self.live[:, None], self.live])
        elif algorithm.probe and not algorithm.published:
            probed = slice(None, None, max(1, len(states) // PROBE_STEPS))
            self.support = (self.jacobians(states, inputs)(probed, ALL) != 0).flatten(0, 1).any(0)
            self.live = live_units(self.support)
            self.tracked = torch.arange(len(self.live), device=states.device)
        self.tracked = self.tracked[: self.k]

    def jacobians(self, states: Tensor, inputs: Tensor) -> JacobianFunction:
        """Return a function that computes the Jacobians of the live units at given steps of a chunk.

        The Jacobians of all steps at once would need too much memory.
        """
        if self.with_jacobian is None:
            terms = states
        else:
            terms = self.with_jacobian.jacobian_terms(states.flatten(0, 1), inputs.flatten(0, 1))
            terms = terms.reshape(*states.shape[:2], *terms.shape[1:])

        def at(steps: slice, sequences: slice) -> Tensor:
            here = terms[steps, sequences]  # (s, b, ...)
            if self.with_jacobian is None:
                driving = inputs[steps, sequences].flatten(0, 1)
                jacobians = forward_mode_jacobian(self.layer.step, here.flatten(0, 1), driving, self.size)
                self.check_dead_units(jacobians)
            else:
                jacobians = self.with_jacobian.jacobian(here.flatten(0, 1), self.size)
            if len(self.live) < self.size:
                jacobians = jacobians[:, self.live[:, None], self.live]
            jacobians = jacobians.reshape(*here.shape[:2], *jacobians.shape[1:])
            return jacobians.mT if self.algorithm.published else jacobians

        return at

    def check_dead_units(self, jacobians: Tensor) -> None:
        """Raise UnitNotDead if a Jacobian has a non-zero entry that makes a dead unit live."""
        if len(self.live) < self.size:
            self.support = self.support | (jacobians != 0).any(0)
            if not torch.equal(live_units(self.support), self.live):
                raise UnitNotDead

    def frame(self, chains: int, like: Tensor) -> LUFrame | QRFrame:
        """Return the initial frame for `chains` copies of this block."""
        start = (chains, len(self.live), self.tracked, like)
        if self.with_jacobian is None and not self.algorithm.published:
            return RankQRFrame(*start) if self.algorithm.differentiable else RankLUFrame(*start)
        if self.algorithm.differentiable or self.algorithm.published:
            steps_before_qr = self.algorithm.steps_before_qr if self.algorithm.published else 0
            return QRFrame(*start, steps_before_qr=steps_before_qr)
        return LUFrame(*start)

    def in_state_order(self, growth: Tensor) -> Tensor:
        """Return the growth of the tracked directions at their positions in the state, -inf elsewhere, (S, B, k)."""
        if len(self.tracked) == self.k:
            return growth
        positions = self.live[self.tracked] if self.k == self.size else torch.arange(len(self.tracked)).to(self.live)
        all_positions = growth.new_full((*growth.shape[:2], self.k), -torch.inf)
        return all_positions.index_copy(-1, positions, growth)


class BlockGroup:
    """Blocks of equal size that are processed in shared calls, for some of the sequences."""

    def __init__(self, blocks: Sequence[Block], layers: Sequence[int], sequences: range, like: Tensor) -> None:
        self.blocks, self.layers, self.sequences = blocks, layers, slice(sequences.start, sequences.stop)
        chains, size = len(blocks) * len(sequences), len(blocks[0].live)
        self.frame = blocks[0].frame(chains, like)
        self.steps = max(1, JACOBIAN_BYTES // max(1, chains * size**2 * like.element_size()))

    def advance(self, jacobians: Sequence[JacobianFunction], measured: Sequence[bool]) -> Sequence[Tensor]:
        """Advance the frame by a chunk; return each step's contribution to each layer's growth, (S, sequences, k).

        jacobians: the functions of all layers. measured: whether the growth is measured after each step.
        """
        growth = []
        for first in range(0, len(measured), self.steps):
            now = slice(first, first + self.steps)
            batch = concatenated([jacobians[layer](now, self.sequences) for layer in self.layers])
            growth.append(self.frame.advance(batch, measured[now]))
        by_layer = torch.cat(growth).chunk(len(self.layers), 1)
        return [block.in_state_order(part) for block, part in zip(self.blocks, by_layer, strict=True)]


def concatenated(jacobians: Sequence[Tensor]) -> Tensor:
    """Concatenate the Jacobians (S, B, D, D) of several blocks to (S, blocks * B, D, D)."""
    if len(jacobians) == 1:
        return jacobians[0]
    if jacobians[0].requires_grad:
        return torch.cat(list(jacobians), 1)
    batch = jacobians[0].shape[1]  # copies: torch.cat takes ten times as long for tensors of this memory layout
    result = jacobians[0].new_empty(len(jacobians[0]), len(jacobians) * batch, *jacobians[0].shape[2:])
    for index, part in enumerate(jacobians):
        result[:, index * batch : (index + 1) * batch].copy_(part)
    return result


def group_blocks(blocks: Sequence[Block], batch: int, like: Tensor) -> list[BlockGroup]:
    """Group small blocks with the same shape for all sequences; split large blocks by sequence."""
    small: dict[tuple[int, ...], list[int]] = {}
    groups = []
    for index, block in enumerate(blocks):
        if len(block.live) <= SMALL_BLOCK:
            small.setdefault((block.with_jacobian is None, len(block.live), *block.tracked.tolist()), []).append(index)
        else:
            groups += [BlockGroup([block], [index], range(b, b + 1), like) for b in range(batch)]
    for layers in small.values():
        groups.append(BlockGroup([blocks[layer] for layer in layers], layers, range(batch), like))
    return groups


def growth(
    network: DrivenMap, sizes: Sequence[int], k: int | None, algorithm: Algorithm, lengths: Sequence[int]
) -> Tensor:
    """Return the growth over each segment at the end of the inputs, (S, B, K) in state order.

    sizes: number of leading entries of each layer's state that are followed.
    k: number of leading exponents per layer; None for all.
    lengths: time steps of each segment; all steps before the first segment are warm-up.
    """
    try:
        return _growth(network, sizes, k, algorithm, lengths)
    except UnitNotDead:
        return _growth(network, sizes, k, replace(algorithm, probe=False), lengths)


def _growth(
    network: DrivenMap, sizes: Sequence[int], k: int | None, algorithm: Algorithm, lengths: Sequence[int]
) -> Tensor:
    layers, (steps, batch, _) = network.layers, network.inputs.shape
    large = [layer for layer, size in zip(layers, sizes, strict=True) if size > SMALL_BLOCK]
    hand_written = all(isinstance(layer, LayerWithJacobian) for layer in large)
    threaded = hand_written and not algorithm.differentiable and not network.inputs.is_cuda
    lengths = [steps - sum(lengths), *lengths]  # segment 0 is the warm-up
    segment_of = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    is_last = [*(segment_of.diff() > 0).tolist(), True]  # whether a step ends its segment
    with thread_map(len(large) * batch if threaded else min(1, len(large))) as map_groups:
        chunks = trajectory_chunks(network)
        first_chunk = next(chunks)
        each_layer = zip(layers, sizes, first_chunk, strict=True)
        blocks = [Block(layer, size, k, algorithm, *at) for layer, size, at in each_layer]
        groups = group_blocks(blocks, batch, network.inputs)
        total = network.inputs.new_zeros(len(lengths), batch, sum(block.k for block in blocks), dtype=torch.float64)
        for first, chunk in zip(range(0, steps, CHUNK_STEPS), chain([first_chunk], chunks), strict=True):
            now = slice(first, first + CHUNK_STEPS)
            jacobians = [block.jacobians(*at) for block, at in zip(blocks, chunk, strict=True)]
            by_layer: list[list[Tensor]] = [[] for _ in blocks]
            advanced = map_groups(lambda group, at=jacobians, ends=is_last[now]: group.advance(at, ends), groups)
            for group, parts in zip(groups, advanced, strict=True):
                for layer, part in zip(group.layers, parts, strict=True):
                    by_layer[layer].append(part)
            added = torch.cat([torch.cat(parts, 1) for parts in by_layer], -1)  # (steps, B, K)
            total = total.index_add(0, segment_of[now].to(added.device), added)
    return total[1:]


@contextmanager
def thread_map(large: int) -> Iterator[Callable[..., Iterable[Sequence[Tensor]]]]:
    """Provide a `map` over block groups: on torch's number of threads, one group per thread, if several are large.

    Without large groups it runs on one thread, because several threads are many times slower on small matrices.

    large: number of large groups.
    """
    before = torch.get_num_threads()

    def start_thread() -> None:  # torch keeps both settings per thread, MKL does not: hence `before` again at the end
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)

    try:
        if min(before, large) > 1:
            with ThreadPoolExecutor(min(before, large), initializer=start_thread) as pool:
                yield pool.map
        else:
            if not large:
                torch.set_num_threads(1)
            yield map
    finally:
        torch.set_num_threads(before)
