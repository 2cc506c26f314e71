"""Directions that a Jacobian of incomplete rank loses: found during the computation, for automatic Jacobians.

If J maps a combination of the tracked directions to zero, one volume is zero from then on, and one exponent is -inf.
In floating point numbers it would be a rounding error instead. `RankLUFrame` therefore looks for such combinations: the
right singular vectors of J Q, with an orthonormal basis Q of the tracked directions, whose singular values are rounding
errors. For each it stops tracking one direction, the last one with a share in it; the growth at this position is -inf
from this step on, and the others are tracked as if it had never been. Otherwise a vector of rounding errors would take
part in their volumes.

docs/theory.md gives the reasons for both tolerances.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hyperpruning.lyapunov.growth import LUFrame

SAFETY = 8.0  # singular values up to SAFETY sqrt(D) eps times the largest are rounding errors
SHARE = 0.05  # the last direction with a share in a lost combination: from it on, the norm is at least this
SUSPECTS = 30.0  # the condition is estimated; up to this factor from the tolerance, the singular values are computed


def lost_directions(images: Tensor, eps: float) -> Tensor:
    """Return which columns are lost, (k,) bool.

    images: J Q, (D, k), the images of orthonormal directions in their order.
    eps: the relative rounding error of the images.
    """
    images = images.double()
    longest = images.abs().amax(1, keepdim=True)  # of each row; short rows (saturated gates) are exact in themselves
    _, values, vectors = torch.linalg.svd(images / longest.where(longest > 0, 1.0), full_matrices=False)
    kernel = vectors[values <= SAFETY * len(images) ** 0.5 * eps * values[0]]  # (d, k)
    lost = torch.zeros(images.shape[1], dtype=torch.bool, device=images.device)
    shares = kernel.new_zeros(len(kernel), len(kernel))
    for position in reversed(range(images.shape[1])):
        if not len(kernel):
            break
        shares = shares + torch.outer(kernel[:, position], kernel[:, position])
        squares, mixtures = torch.linalg.eigh(shares)
        if squares[-1] >= SHARE**2:  # at most one: the others are not larger than the largest one before
            lost[position] = True
            kernel, shares = mixtures[:, :-1].T @ kernel, torch.diag(squares[:-1])
    return lost


class RankLUFrame(LUFrame):
    """An `LUFrame` that stops tracking the directions that a Jacobian loses.

    The columns of the basis are the tracked directions in their order, followed by zeros for the lost ones.
    """

    def __init__(self, chains: int, size: int, units: Tensor, like: Tensor) -> None:
        super().__init__(chains, size, units, like)
        self._order = torch.arange(len(units), device=like.device).repeat(chains, 1)  # position of each column
        self._tracked = self._order >= 0  # whether each column is tracked
        signs = torch.randint(2, (size, 4), generator=torch.Generator().manual_seed(0)) * 2 - 1
        self._signs = signs.to(like)

    def advance(self, jacobians: Tensor, measured: Sequence[bool]) -> Tensor:
        """Advance as an `LUFrame` does; the growth of a lost direction is -inf from the step on that loses it."""
        if self._basis.numel() == 0:
            return super().advance(jacobians, measured)
        return torch.stack([self._advance(*step) for step in zip(jacobians, measured, strict=True)])

    def _advance(self, jacobian: Tensor, is_measured: bool) -> Tensor:
        reordered = torch.gather(jacobian, -1, self._rows[:, None].expand_as(jacobian))
        factors, exchanges = self._factor(self._multiply(jacobian))
        added = torch.zeros_like(self._volumes)
        suspects = self._may_lose(jacobian, factors, exchanges).nonzero().flatten().tolist()
        if suspects:
            orthonormal = torch.linalg.qr(self._basis)[0]
            lost = torch.zeros_like(self._tracked)
            for chain in suspects:
                count = int(self._tracked[chain].sum())
                images = reordered[chain].double() @ orthonormal[chain, :, :count].double()
                lost[chain, :count] = lost_directions(images, torch.finfo(self._basis.dtype).eps)
            if bool(lost.any()):
                added = self._measure()
                self._basis, self._volumes = orthonormal, torch.zeros_like(self._volumes)
                self._drop(lost)
                factors, exchanges = self._factor((self._basis.mT @ reordered.mT).mT)
        pivots = self._set_basis(factors, exchanges).double().abs().log()
        self._basis.mul_(self._tracked[:, None])
        added = added + pivots.gather(-1, self._order.argsort(-1))
        return added + self._measure() if is_measured else added

    def _may_lose(self, jacobian: Tensor, factors: Tensor, exchanges: Tensor) -> Tensor:
        """Return for which chains the singular values must be computed, (N,) bool.

        With rows scaled to length one, |Z^-1 b| >= |u b| / s for the smallest singular value s and its left vector u.
        """
        k, size = self._basis.shape[2], self._basis.shape[1]
        scaled = jacobian.abs().amax(-1, keepdim=True) * self._signs  # (N, D, 4)
        rows = self._row_order(factors, exchanges)[:, :k, None].expand(-1, -1, 4)
        upper = factors[:, :k].triu()
        upper.diagonal(dim1=-2, dim2=-1).masked_fill_(~self._tracked, 1)
        half = torch.linalg.solve_triangular(factors[:, :k], scaled.gather(1, rows), upper=False, unitriangular=True)
        found = torch.linalg.solve_triangular(upper, half, upper=True).abs().amax((-2, -1))
        return ~(found * SUSPECTS * SAFETY * size * torch.finfo(factors.dtype).eps < 1)  # also for NaN

    def _measure(self) -> Tensor:
        """Return how much the volumes of the basis have grown since they were measured last, by position, (N, k)."""
        distances = torch.geqrf(self._basis)[0].diagonal(dim1=-2, dim2=-1).double().abs()
        volumes = torch.where(self._tracked, distances, 1.0).log().gather(-1, self._order.argsort(-1))
        change, self._volumes = volumes - self._volumes, volumes
        return change

    def _drop(self, lost: Tensor) -> None:
        """Move the lost columns of each chain to the end, as zeros."""
        self._tracked = self._tracked & ~lost
        new = lost.long().argsort(dim=-1, stable=True)
        self._order, self._tracked = self._order.gather(-1, new), self._tracked.gather(-1, new)
        columns = self._basis.mT  # (N, k, D)
        self._basis = (columns.gather(1, new[..., None].expand_as(columns)) * self._tracked[..., None]).mT
