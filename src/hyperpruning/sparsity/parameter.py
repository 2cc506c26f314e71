"""What the parts of a method get to see of a parameter, and in which units it is pruned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from hyperpruning.sparsity.selection import Sizes

WHOLE = 0  # as many rows, or columns, as the tensor has


@dataclass(frozen=True)
class Granularity:
    """What is pruned together.

    A tensor counts as the matrix (first dimension) x (all others), as it lies in memory.

    Attributes:
        rows, columns: of a unit; `WHOLE` takes all.
        keep, of: of every `of` consecutive weights `keep` are active, wherever the rest of a method may put them;
            0 and 0 for no such rule.
    """

    rows: int = 1
    columns: int = 1
    keep: int = 0
    of: int = 0

    def unit(self, shape: torch.Size) -> tuple[int, int]:
        """Return rows and columns of a unit in a tensor of this shape.

        Raises:
            ValueError: the sizes do not divide.
        """
        whole = shape[0], math.prod(shape[1:])
        unit = self.rows or whole[0], self.columns or whole[1]
        if whole[0] % unit[0] or whole[1] % unit[1] or (self.of and whole[1] % self.of):
            parts = f"{unit[0]} x {unit[1]} blocks" if not self.of else f"groups of {self.of} in a row"
            raise ValueError(f"a tensor must divide into {parts}, and {whole[0]} x {whole[1]} does not")
        return unit


SINGLE = Granularity()
GRANULARITIES: dict[str, Granularity] = {
    "weight": SINGLE,
    "row": Granularity(1, WHOLE),  # of a recurrent matrix: all that one gate of one unit reads
    "column": Granularity(WHOLE, 1),  # all that reads one input
    "block_4x4": Granularity(4, 4),
    "two_of_four": Granularity(keep=2, of=4),
    "one_of_four": Granularity(keep=1, of=4),
}


@dataclass(frozen=True)
class PrunableParameter:
    """A prunable parameter at an update.

    Attributes:
        name: of the parameter.
        tensor: the nn.Parameter with its `.grad`; nothing changes it.
        mask: bool, of its shape: what is active.
        ever: bool, of its shape: what has been active.
        unit: rows and columns of what is pruned together.
        gates: equal groups of rows, stacked.
        optimizer: its state of this parameter; empty without one.
        average: running mean of the gradient; None where the method keeps none.
        generator: for scores that are drawn.
    """

    name: str
    tensor: nn.Parameter
    mask: Tensor
    ever: Tensor
    unit: tuple[int, int]
    gates: int
    optimizer: dict[str, Tensor]
    average: Tensor | None
    generator: Generator

    @property
    def weight(self) -> Tensor:
        """The values."""
        return self.tensor.detach()

    @cached_property
    def gradient(self) -> Tensor:
        """The gradient of the last batch.

        Raises:
            ValueError: there is none.
        """
        if self.tensor.grad is None:
            raise ValueError(
                f"an update by gradient needs the gradients of the last batch, and {self.name!r} has none; "
                "call step() after optimizer.step() and before optimizer.zero_grad(), or leave that parameter dense"
            )
        return self.tensor.grad.to_dense()

    @cached_property
    def momentum(self) -> Tensor:
        """The optimizer's momentum; of Adam m / (sqrt(v) + 1e-8).

        Raises:
            ValueError: the optimizer keeps none.
        """
        state = self.optimizer
        if state.get("momentum_buffer") is not None:
            return state["momentum_buffer"]
        if "exp_avg" in state and "exp_avg_sq" in state:
            return state["exp_avg"] / (state["exp_avg_sq"].sqrt() + 1e-8)
        raise ValueError(
            f"an update by momentum needs an optimizer that keeps one, and there is none for {self.name!r}; "
            "give SGD a momentum, or take another redistribution"
        )

    @property
    def units(self) -> int:
        """How many there are to choose from."""
        return self.mask.numel() // math.prod(self.unit)

    def pooled(self, scores: Tensor | Sizes) -> Tensor | Sizes:
        """Add up the scores of each unit: of the parameter's shape (sizes are flat) -> (units,)."""
        if self.unit == (1, 1):
            return scores if isinstance(scores, Sizes) else scores.reshape(-1)
        whole = scores[:].view(self.mask.shape) if isinstance(scores, Sizes) else scores
        return self._blocks(whole).sum(dim=(1, 3)).view(-1)

    def chosen(self, mask: Tensor) -> Tensor:
        """Reduce a mask of whole units: of the parameter's shape -> bool (units,)."""
        return mask.reshape(-1) if self.unit == (1, 1) else self._blocks(mask)[:, 0, :, 0].reshape(-1)

    def spread(self, units: Tensor) -> Tensor:
        """Undo `chosen`: bool (units,) -> bool of the parameter's shape."""
        if self.unit == (1, 1):
            return units.view(self.mask.shape)
        rows, columns = self.unit
        blocks = units.view(len(self.mask) // rows, 1, -1, 1)
        return blocks.expand(-1, rows, -1, columns).reshape(self.mask.shape)

    def _blocks(self, values: Tensor) -> Tensor:
        """PrunableParameter a tensor of the parameter's shape as (block rows, rows, block columns, columns)."""
        rows, columns = self.unit
        matrix = values.reshape(len(values), -1)
        return matrix.view(len(matrix) // rows, rows, matrix.shape[1] // columns, columns)


PrunableParameters = Mapping[str, PrunableParameter]  # by parameter name


def optimizer_state(optimizer: Optimizer | None, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return what the optimizer keeps of a parameter, element by element."""
    if optimizer is None or parameter not in optimizer.state:
        return {}
    state = optimizer.state[parameter]
    return {key: value for key, value in state.items() if torch.is_tensor(value) and value.shape == parameter.shape}
