"""Blocks of a matrix: weights that are pruned together. Blocks at the lower and right edge may be partial.

A tensor is treated as the matrix (first dimension) x (product of the other dimensions). Where its sizes do not divide
by those of a block, the matrix is padded: a block at the edge then has fewer weights than the others, and only its real
weights count. The padding exists in the numbering of the blocks alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BlockGrid:
    """The blocks of one tensor.

    Attributes:
        shape: of the tensor.
        block: rows and columns of a block.

    >>> grid = BlockGrid((10, 6), (8, 4))  # blocks of 8 x 4, 8 x 2, 2 x 4 and 2 x 2 weights
    >>> grid.n_blocks, grid.most_weights(2), grid.most_blocks(47), grid.most_blocks(48)
    (4, 48, 1, 2)
    """

    shape: Sequence[int]
    block: tuple[int, int]

    @property
    def n_blocks(self) -> int:
        """The number of blocks, partial ones included."""
        return sum(count for _, count in self._sizes())

    @property
    def partial(self) -> bool:
        """Whether some blocks have fewer weights than others."""
        return len(self._sizes()) > 1

    def most_weights(self, count: int) -> int:
        """Return the largest number of weights that `count` blocks can have."""
        weights = 0
        for size, number in self._sizes():
            weights += size * min(count, number)
            count -= min(count, number)
        return weights

    def most_blocks(self, weights: int) -> int:
        """Return the largest number of blocks of which no choice has more than `weights` weights."""
        blocks = 0
        for size, number in self._sizes():
            fitting = min(weights // size, number)
            blocks, weights = blocks + fitting, weights - fitting * size
            if fitting < number:
                break
        return blocks

    def block_mask(self, mask: Tensor) -> Tensor:
        """Reduce a mask that consists of whole blocks: bool of the tensor's shape -> bool (n_blocks,)."""
        return mask.reshape(-1) if self.block == (1, 1) else as_blocks(mask, self.block)[:, 0, :, 0].reshape(-1)

    def sums(self, values: Tensor) -> Tensor:
        """Sum the values of each block: of the tensor's shape -> (n_blocks,)."""
        return values.reshape(-1) if self.block == (1, 1) else as_blocks(values, self.block).sum(dim=(1, 3)).view(-1)

    def scores(self, values: Tensor) -> Tensor:
        """Sum the values of each block, in a partial one times the weights of a whole block per real weight."""
        sums = self.sums(values)
        if not self.partial:
            return sums
        real = self.sums(torch.ones(tuple(self.shape), device=values.device))  # (n_blocks,)
        return sums * (math.prod(self.block) / real).to(sums.dtype)

    def weight_mask(self, block_mask: Tensor) -> Tensor:
        """Give every weight the value of its block, the inverse of `block_mask`: (n_blocks,) -> the tensor's shape."""
        if self.block == (1, 1):
            return block_mask.view(tuple(self.shape))
        (rows, columns), width = self.block, math.prod(self.shape[1:])
        down = -(-self.shape[0] // rows)
        expanded = block_mask.view(down, 1, -1, 1).expand(-1, rows, -1, columns).reshape(down * rows, -1)
        return expanded[: self.shape[0], :width].reshape(tuple(self.shape))

    def _sizes(self) -> list[tuple[int, int]]:
        """Return the weights of a block and the number of such blocks, largest blocks first."""
        (rows, columns), (block_rows, block_columns) = (self.shape[0], math.prod(self.shape[1:])), self.block
        down = [(block_rows, rows // block_rows), (rows % block_rows, 1)]
        across = [(block_columns, columns // block_columns), (columns % block_columns, 1)]
        found = [(r * c, m * n) for r, m in down for c, n in across if r * c * m * n]
        return sorted(found, reverse=True)


def as_blocks(values: Tensor, block: tuple[int, int]) -> Tensor:
    """View a tensor as (rows of blocks, rows, columns of blocks, columns); a padded copy if the sizes do not divide."""
    rows, columns = block
    matrix = values.reshape(len(values), -1)
    missing = -len(matrix) % rows, -matrix.shape[1] % columns
    if any(missing):
        matrix = torch.nn.functional.pad(matrix, (0, missing[1], 0, missing[0]))
    return matrix.view(len(matrix) // rows, rows, matrix.shape[1] // columns, columns)
