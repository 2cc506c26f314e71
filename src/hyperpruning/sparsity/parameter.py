"""What the functions of a method know about a parameter, and the granularity in which it is pruned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from hyperpruning.sparsity.blocks import BlockGrid
from hyperpruning.sparsity.selection import LazyAbs

WHOLE = 0  # all rows, or all columns, of the tensor


@dataclass(frozen=True)
class Granularity:
    """Which weights are pruned together: blocks of rows x columns, or N:M.

    A tensor is treated as the matrix (first dimension) x (product of the other dimensions), as it lies in memory.

    Attributes:
        rows: rows of a block; `WHOLE` (0) takes all rows of the tensor.
        columns: columns of a block; `WHOLE` (0) takes all columns.
        keep: of every `of` consecutive weights of a row exactly `keep` are active (N:M sparsity); 0 for no such rule.
        of: see `keep`; 0 for no such rule.
        padded: whether the sizes of a tensor need not divide by those of a block; blocks at its lower and right edge
            then have fewer weights than the others.
    """

    rows: int = 1
    columns: int = 1
    keep: int = 0
    of: int = 0
    padded: bool = False

    def block_shape(self, shape: torch.Size) -> tuple[int, int]:
        """Return the rows and columns of a block in a tensor of this shape.

        Raises:
            ValueError: the tensor does not divide into whole blocks, or into groups of `of` weights.
        """
        rows, columns = shape[0], math.prod(shape[1:])
        block = self.rows or rows, self.columns or columns
        whole = not (rows % block[0] or columns % block[1])
        if not (whole or self.padded) or (self.of and columns % self.of):
            parts = f"{block[0]} x {block[1]} blocks" if not self.of else f"groups of {self.of} weights in a row"
            raise ValueError(f"a tensor must divide into {parts}, got {rows} x {columns}.")
        return block


SINGLE = Granularity()
GRANULARITIES: dict[str, Granularity] = {
    "weight": SINGLE,
    "row": Granularity(1, WHOLE),  # of a recurrent matrix: all weights that one gate of one hidden unit reads
    "column": Granularity(WHOLE, 1),  # all weights that read one input
    "block_4x4": Granularity(4, 4),
    "block_8x4": Granularity(8, 4, padded=True),  # 8 outputs x 4 inputs: a block of the decoder's and the C export's
    "two_of_four": Granularity(keep=2, of=4),
    "one_of_four": Granularity(keep=1, of=4),
}


@dataclass(frozen=True)
class PrunableParameter:
    """A prunable parameter at an update of the masks, as the functions of a method see it.

    Attributes:
        name: the parameter's name in the model.
        tensor: the nn.Parameter with its `.grad`; read only.
        mask: bool, of the parameter's shape: the active weights.
        ever_active: bool, of the parameter's shape: the weights that are or have been active.
        block_shape: rows and columns of a block, the weights that are pruned together; (1, 1) for single weights.
        row_groups: the number of equal groups of rows, e.g. 4 for the stacked gates of an LSTM.
        optimizer: the optimizer's state tensors of this parameter; empty if there is no optimizer.
        average: the running mean of the gradient; None if the method does not use it.
        generator: for scores that are drawn at random.
        step: the optimizer step of the update, from 1; 0 when the first masks are chosen.
        recurrent: whether the matrix multiplies the state of a recurrent layer.
    """

    name: str
    tensor: nn.Parameter
    mask: Tensor
    ever_active: Tensor
    block_shape: tuple[int, int]
    row_groups: int
    optimizer: dict[str, Tensor]
    average: Tensor | None
    generator: Generator
    step: int = 0
    recurrent: bool = False

    @property
    def weight(self) -> Tensor:
        """The weights, without autograd."""
        return self.tensor.detach()

    @cached_property
    def gradient(self) -> Tensor:
        """The gradient of the last batch.

        Raises:
            ValueError: there is none.
        """
        if self.tensor.grad is None:
            raise ValueError(
                f"Every prunable parameter must have a gradient when a method uses gradients, got none for "
                f"{self.name!r}. Call step() after optimizer.step() and before optimizer.zero_grad(), or leave that "
                "parameter dense."
            )
        return self.tensor.grad.to_dense()

    @cached_property
    def momentum(self) -> Tensor:
        """The optimizer's momentum; for Adam m / (sqrt(v) + 1e-8).

        Raises:
            ValueError: the optimizer keeps none.
        """
        state = self.optimizer
        if state.get("momentum_buffer") is not None:
            return state["momentum_buffer"]
        if "exp_avg" in state and "exp_avg_sq" in state:
            return state["exp_avg"] / (state["exp_avg_sq"].sqrt() + 1e-8)
        raise ValueError(
            f"The optimizer must keep a momentum when redistribute is 'momentum', got none for {self.name!r}. "
            "Give SGD a momentum, or use another redistribution."
        )

    @cached_property
    def grid(self) -> BlockGrid:
        """The blocks of the parameter."""
        return BlockGrid(self.mask.shape, self.block_shape)

    @property
    def n_blocks(self) -> int:
        """The number of blocks."""
        return self.grid.n_blocks

    def block_scores(self, scores: Tensor | LazyAbs) -> Tensor | LazyAbs:
        """Sum the scores of each block: of the parameter's shape (`LazyAbs` are flat) -> (n_blocks,).

        The sum of magnitudes is the L1 norm of a group of weights, as Li et al. 2017 (Pruning filters for efficient
        ConvNets) rank filters. A partial block is ranked by the mean of its real weights: its sum is scaled to a whole
        block. By the bare sum, the last rows of a matrix would lose all of their weights first.
        """
        if isinstance(scores, LazyAbs):
            return scores if self.block_shape == (1, 1) else self.grid.scores(scores[:].view(self.mask.shape))
        return self.grid.scores(scores)

    def block_mask(self, mask: Tensor) -> Tensor:
        """Reduce a mask that consists of whole blocks: bool of the parameter's shape -> bool (n_blocks,)."""
        return self.grid.block_mask(mask)

    def weight_mask(self, block_mask: Tensor) -> Tensor:
        """Expand a mask of blocks, the inverse of `block_mask`: bool (n_blocks,) -> bool of the parameter's shape."""
        return self.grid.weight_mask(block_mask)


PrunableParameters = Mapping[str, PrunableParameter]  # by parameter name


def optimizer_state(optimizer: Optimizer | None, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return the optimizer's state tensors that have the parameter's shape, by key; empty if there are none."""
    if optimizer is None or parameter not in optimizer.state:
        return {}
    state = optimizer.state[parameter]
    return {key: value for key, value in state.items() if torch.is_tensor(value) and value.shape == parameter.shape}
