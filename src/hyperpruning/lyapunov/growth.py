"""How volumes grow along a trajectory: products of Jacobians, re-orthonormalised at every step.

With an orthonormal frame Q: Z = J Q, Z = Q' R, and ln |r_ii| is the growth of the i-th direction in that step
(Benettin et al. 1980). Three things make it exact in float32 on trained networks, and cheap:

- Q is never formed: Householder's reflectors are kept and applied to the next Jacobian (`geqrf`, `ormqr`);
- the rows of Z are sorted by decreasing norm before its QR, which makes Householder's method accurate row by row
  (Cox and Higham 1998), and the columns of the next Jacobian in the same order. Because Q is orthogonal, a row of
  Z = J Q is as long as that of J, so that all the orders are known before the first QR;
- a unit that nothing reads, or that reads nothing, is taken out: its exponent is -inf, and nobody else's changes. What
  else the pruned weights leave of rank is known before, so that no direction is followed that is nothing but rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor


def living(support: Tensor) -> Tensor:
    """Return the indices that remain when units with an all-zero row or column are taken out again and again.

    `support` (D, D) bool: which entries of the Jacobians can differ from zero.
    """
    alive = torch.ones(support.shape[0], dtype=torch.bool, device=support.device)
    while True:
        linked = support & alive & alive[:, None]
        remaining = linked.any(0) & linked.any(1)
        if bool((remaining == alive).all()):
            return alive.nonzero().flatten()
        alive = remaining


def rank(matrix: Tensor) -> int:
    """Return how many columns do not depend on those before; to be asked of a matrix of generic, ungraded entries."""
    matrix = matrix.detach().double()
    left = torch.geqrf(matrix)[0].diagonal().abs()  # of each column, beside those before
    return int((left > 1e-10 * torch.linalg.vector_norm(matrix, dim=0)).sum())


class Frame:
    """The first `k` unit vectors of N independent D-dimensional spaces, carried along by Jacobians."""

    def __init__(self, chains: int, size: int, k: int, like: Tensor) -> None:
        self._k, self._upper = k, 2 * k <= size
        self._order = torch.arange(size, device=like.device).expand(chains, size)
        self._reflectors = like.new_zeros(chains, size, k)  # no reflection: the identity
        self._tau = like.new_zeros(chains, k)

    def push(self, jacobians: Tensor) -> Tensor:
        """Carry the frame through S steps, (S, N, D, D), and return each step's ln |r_ii|, (S, N, k)."""
        growth = []
        for jacobian in self._sorted(jacobians):
            self._reflectors, self._tau = torch.geqrf(self._apply(jacobian))
            growth.append(self._reflectors.diagonal(dim1=-2, dim2=-1))
        return torch.stack(growth).abs().log()

    def _apply(self, jacobian: Tensor) -> Tensor:
        """Return J Q, (N, D, k)."""
        if self._upper:  # few columns: forming them is cheaper than reflecting all of J
            pushed: Tensor = jacobian @ torch.linalg.householder_product(self._reflectors, self._tau)
        else:
            pushed = torch.ormqr(self._reflectors, self._tau, jacobian, left=False)[..., : self._k]
        return pushed

    def _sorted(self, jacobians: Tensor) -> Tensor:
        """Return the Jacobians with rows in decreasing order of length, columns in that of the step before.

        The upper half of the spectrum does without: what is lost on short rows is no part of its directions.
        """
        if self._upper:
            return jacobians
        rows = torch.linalg.vector_norm(jacobians, dim=-1).argsort(-1, descending=True)  # (S, N, D)
        columns = torch.cat([self._order[None], rows[:-1]])
        self._order = rows[-1]
        return _take_rows(jacobians, rows).gather(-1, columns[..., None, :].expand_as(jacobians))


class ExplicitFrame(Frame):
    """The same with Q formed: slower, but autograd can differentiate it, which `geqrf` it cannot.

    loose: this many steps are only multiplied, before the frame is first orthonormalised; their growth is zero.
    """

    def __init__(self, chains: int, size: int, k: int, like: Tensor, loose: int = 0) -> None:
        super().__init__(chains, size, k, like)
        self._q = torch.eye(size, k, dtype=like.dtype, device=like.device)
        self._loose = loose

    def push(self, jacobians: Tensor) -> Tensor:
        """Carry the frame through S steps, (S, N, D, D), and return each step's ln |r_ii|, (S, N, k)."""
        growth = []
        for jacobian in self._sorted(jacobians):
            pushed = jacobian @ self._q
            if self._loose > 1:
                self._q, r = pushed, torch.ones_like(pushed)
            else:
                self._q, r = torch.linalg.qr(pushed)
            self._loose -= 1
            growth.append(r.diagonal(dim1=-2, dim2=-1))
        return torch.stack(growth).abs().log()


def _take_rows(matrices: Tensor, rows: Tensor) -> Tensor:
    """Return each matrix's rows in the given order, (S, N, D, D) and (S, N, D) -> (S, N, D, D), copying whole rows."""
    steps, chains, size = rows.shape
    first = torch.arange(0, steps * chains * size, max(1, size), device=rows.device).view(steps, chains, -1)
    every = matrices.reshape(steps * chains * size, size)
    return every.index_select(0, (first + rows).flatten()).view(matrices.shape)
