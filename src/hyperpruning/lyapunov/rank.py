"""Directions that an automatic Jacobian loses: found during the computation, because they are not known in advance.

If J maps a combination of the tracked directions to zero, the growth of the last of them is -inf. Computed, it is a
rounding error, and the new direction consists of rounding errors, which would take part in the volumes of the later
ones. Such a direction moves to the end of the frame, so that the others go on as if it had not been tracked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hyperpruning.lyapunov.growth import LUFrame, QRFrame


class LostDirections:
    """Which columns of N frames are lost, in the order of the columns; the lost ones are at the end.

    A direction is lost where its pivot is at most eps^(3/4) times its row. A unit that is off during the warm-up (a
    zero row or column of the Jacobian) does not count: it can be on where the growth is measured.

    chains, k: number of frames N and of their columns. like: a tensor with the dtype and device to use.
    """

    def __init__(self, chains: int, k: int, like: Tensor) -> None:
        self.smallest = torch.finfo(like.dtype).eps ** 0.75
        self.lost = torch.zeros(chains, k, dtype=torch.bool, device=like.device)
        self._position = torch.arange(k, device=like.device).repeat(chains, 1)  # in the state, of each column
        self._column: Tensor | None = None  # of each position, once a direction is lost
        self._counts = torch.zeros(chains, 1, dtype=torch.bool, device=like.device)  # whether a loss counts
        self._is_warm = False  # whether the growth was measured before

    def before(self, jacobian: Tensor) -> None:
        """Look at the next Jacobian, (N, D, D)."""
        if not self._is_warm:
            support = jacobian.detach() != 0
            self._counts = (support.any(-1) & support.any(-2)).all(-1, keepdim=True)

    def after_measurement(self) -> None:
        """Count every loss from now on."""
        self._is_warm, self._counts = True, torch.ones_like(self._counts)

    def find(self, pivots: Tensor, rows: Tensor) -> Tensor | None:
        """Return the new order of the columns, (N, k), if directions are lost.

        pivots: (N, k). rows: the size of the row that each pivot is from, (N, k).
        """
        lost = (pivots.detach().abs() <= self.smallest * rows) & ~self.lost & self._counts
        if not bool(lost.any()):
            return None
        order: Tensor = (self.lost | lost).long().argsort(dim=-1, stable=True)
        self.lost, self._position = (self.lost | lost).gather(-1, order), self._position.gather(-1, order)
        self._column = self._position.argsort(-1)
        return order

    def by_position(self, growth: Tensor, value: float) -> Tensor:
        """Return the growth of the columns at their positions in the state, (N, k), with a value for the lost ones."""
        return growth if self._column is None else torch.where(self.lost, value, growth).gather(-1, self._column)


class RankLUFrame(LUFrame):
    """An `LUFrame` that finds the directions which a Jacobian loses; their growth is -inf from this step on."""

    def __init__(self, chains: int, size: int, units: Tensor, like: Tensor) -> None:
        super().__init__(chains, size, units, like)
        self._directions = LostDirections(chains, len(units), like)

    def advance(self, jacobians: Tensor, measured: Sequence[bool]) -> Tensor:
        """Advance as an `LUFrame` does."""
        if self._basis.numel() == 0:  # no live unit
            return super().advance(jacobians, measured)
        growth = []
        for jacobian, is_measured in zip(jacobians, measured, strict=True):
            self._directions.before(jacobian)
            added = self._multiply_and_eliminate(jacobian)
            if is_measured:
                added = added + self._directions.by_position(self._measure(), -torch.inf)
                self._directions.after_measurement()
            growth.append(added)
        return torch.stack(growth)

    def _multiply_and_eliminate(self, jacobian: Tensor) -> Tensor:
        """Return the growth in one step at the positions in the state, (N, k)."""
        rows = self._rows
        pivots = self._eliminate(self._multiply(jacobian))
        sizes = jacobian.abs().amax(-1).gather(-1, self._rows[:, : pivots.shape[-1]])
        order = self._directions.find(pivots, sizes)
        if order is None:
            return self._directions.by_position(pivots.double().abs().log(), -torch.inf)
        self._basis, self._next, self._rows = self._next, self._basis, rows  # the basis before this step
        added = self._directions.by_position(self._measure().gather(-1, order), -torch.inf)
        self._basis.copy_(self._basis.gather(-1, order[:, None].expand_as(self._basis)))
        self._measure()
        return added + self._multiply_and_eliminate(jacobian)

    def _measure(self) -> Tensor:
        """Return how much the volumes of the basis have grown since they were measured last, (N, k)."""
        distances = torch.geqrf(self._basis)[0].diagonal(dim1=-2, dim2=-1).double().abs()
        volumes = torch.where(distances > 0, distances, 1.0).log()
        change, self._volumes = volumes - self._volumes, volumes
        return change


class RankQRFrame(QRFrame):
    """A `QRFrame` that finds the directions which a Jacobian loses; their growth is -inf from this step on."""

    def __init__(self, chains: int, size: int, units: Tensor, like: Tensor) -> None:
        super().__init__(chains, size, units, like)
        self._directions = LostDirections(chains, len(units), like)

    def advance(self, jacobians: Tensor, measured: Sequence[bool]) -> Tensor:
        """Advance as a `QRFrame` does."""
        growth = []
        for jacobian, is_measured in zip(jacobians, measured, strict=True):
            self._directions.before(jacobian)
            growth.append(super().advance(jacobian[None], [is_measured]))
            if is_measured:
                self._directions.after_measurement()
        return torch.cat(growth)

    def _orthonormalised(self, product: Tensor) -> tuple[Tensor, Tensor]:
        sizes = torch.linalg.vector_norm(product.detach(), dim=-1)[:, : product.shape[-1]]
        while True:
            frame, growth = super()._orthonormalised(product)
            order = self._directions.find(growth, sizes)
            if order is None:
                return frame, self._directions.by_position(growth, 0.0)
            product = product.gather(-1, order[:, None].expand_as(product))
