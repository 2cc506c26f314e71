"""How volumes grow along a trajectory: products of Jacobians, and the nested subspaces that they carry along.

With an orthonormal frame Q, Z = J Q = Q' R, and ln |r_ii| is the growth of the i-th direction (Benettin et al. 1980).
Only the subspaces matter, the spans of the first 1, 2, ..., k columns, and any other basis B of them tells the same:
with Z = J B = B' U, U upper triangular, the growth is ln |u_ii| and what ln v_i changes by, where v_i is how far the
i-th column of B stands off the span of those before. So the basis here is that of a row-pivoted LU, which costs half
of a QR, and most of that in large matrix products; v, by a QR of B, is only asked for when growth is measured. What
keeps it exact on trained networks:

- Pivoting takes long rows first. Jacobians whose rows differ by orders of magnitude, as those of saturated gates do,
  then lose nothing, and B, unit lower triangular with entries of at most 1, is well conditioned. In this order
  Householder's QR is accurate row by row (Cox and Higham 1998).
- A unit that nothing reads, or that reads nothing, is taken out: its exponent is -inf, and nobody else's changes. What
  else the pruned weights take of rank is known before, so that no direction is followed that is nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PANEL = 128  # columns of a triangular basis that share one matrix product, so that most of its zeros are never touched


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


def independent(matrix: Tensor) -> Tensor:
    """Return the columns of `matrix` (D, D) that do not depend on those before, in it and in all its powers.

    To be asked of a matrix of generic, ungraded entries: what it has of rank, products of its kind have.
    """
    matrix = matrix.detach().double()
    columns, carried = torch.arange(len(matrix), device=matrix.device), matrix
    while True:
        reflectors, tau = torch.geqrf(carried)
        new = reflectors.diagonal().abs() > 1e-10 * torch.linalg.vector_norm(carried, dim=0)
        if bool(new.all()):
            return columns
        columns, carried = columns[new], matrix @ torch.linalg.householder_product(reflectors, tau)[:, new]


class Frame:
    """The spans of the first 1, 2, ... of some unit vectors, carried along by Jacobians.

    chains: N independent spaces. size: their dimension D. units (k,): which unit vectors, in increasing order.
    """

    def __init__(self, chains: int, size: int, units: Tensor, like: Tensor) -> None:
        k = len(units)
        # Room to write to: fresh memory at every step would cost more than small products do. LAPACK's matrices lie
        # column by column, hence the transposes.
        self._next, self._basis = (like.new_empty(chains, k, size).mT for _ in range(2))
        self._basis.copy_(torch.eye(size, device=like.device)[:, units])
        self._counted = torch.arange(size, dtype=like.dtype, device=like.device)[:, None]
        self._rows = torch.arange(size, device=like.device).expand(chains, size)  # where each row of the basis belongs
        self._permutation = like.new_empty(chains, size, size), like.new_empty(0), like.new_empty(0)
        self._narrow = 2 * k <= size
        self._turned = like.new_empty(chains, k if self._narrow else size, size)
        self._volumes = like.new_zeros(chains, k, dtype=torch.float64)

    def push(self, jacobians: Tensor, measured: Sequence[bool]) -> Tensor:
        """Carry the spaces through S steps, (S, N, D, D), and return what each adds to the growth, (S, N, k).

        measured: after which steps the growth is asked for. Sums over steps are the growth up to those; what a single
        step adds between them depends on the basis.
        """
        if self._basis.numel() == 0:  # everything is dead
            return self._volumes.expand(len(jacobians), -1, -1)
        pivots, volumes = [], {}
        for step, (jacobian, asked) in enumerate(zip(jacobians, measured, strict=True)):
            pivots.append(self._eliminated(self._pushed(jacobian)))
            if asked:
                stand_off = torch.geqrf(self._basis)[0].diagonal(dim1=-2, dim2=-1)
                volumes[step] = stand_off.double().abs().log()
        added = torch.stack(pivots).double().abs().log()
        for step, now in volumes.items():
            added[step] += now - self._volumes
            self._volumes = now
        return added

    def _pushed(self, jacobian: Tensor) -> Tensor:
        """Return J B, (N, D, k)."""
        product, (size, k) = self._next.mT, self._basis.shape[1:]
        if self._narrow:  # few columns: put their rows into the order of the Jacobian's columns
            places = self._rows.argsort(-1)[:, None].expand(-1, k, size)
            basis = torch.gather(self._basis.mT, -1, places, out=self._turned)
            return torch.bmm(basis, jacobian.mT, out=product).mT
        turned = torch.gather(jacobian, -1, self._rows[:, None].expand_as(jacobian), out=self._turned)
        width = PANEL if size >= 2 * PANEL else k
        for left in range(0, k, width):  # the rows of the basis above are zero
            panel = slice(left, left + width)
            torch.bmm(self._basis[:, left:, panel].mT, turned[..., left:].mT, out=product[:, panel])
        return product.mT

    def _eliminated(self, pushed: Tensor) -> Tensor:
        """Take the unit lower triangular factor of a row-pivoted LU as the next basis; return the pivots (N, k)."""
        pivots = torch.empty(0, dtype=torch.int32, device=pushed.device)
        torch.linalg.lu_factor_ex(pushed, out=(pushed, pivots, torch.empty_like(pivots)))  # in place
        growth = pushed.diagonal(dim1=-2, dim2=-1).clone()
        pushed.mT.triu_(1).diagonal(dim1=-2, dim2=-1).fill_(1)
        ones, _, _ = torch.lu_unpack(pushed, pivots, unpack_data=False, out=self._permutation)
        self._rows = ones.mul_(self._counted).amax(-2).long()  # in each column the number of the row that has its 1
        self._next, self._basis = self._basis, pushed
        return growth


class TracedFrame:
    """The same with a QR at every step: slower, but autograd can follow it.

    loose: this many steps are only multiplied, before the frame is first orthonormalised; their growth is zero.
    """

    def __init__(self, chains: int, size: int, units: Tensor, like: Tensor, loose: int = 0) -> None:
        self._q = torch.eye(size, dtype=like.dtype, device=like.device)[:, units].expand(chains, -1, -1)
        self._rows = torch.arange(size, device=like.device).expand(chains, size)
        self._loose = loose

    def push(self, jacobians: Tensor, measured: Sequence[bool]) -> Tensor:
        """Carry the frame through S steps, (S, N, D, D), and return how much it grows in each, (S, N, k)."""
        growth = []
        for jacobian in jacobians:
            pushed = jacobian.gather(-1, self._rows[:, None].expand_as(jacobian)) @ self._q
            self._rows = torch.linalg.vector_norm(pushed.detach(), dim=-1).argsort(-1, descending=True)
            self._q = pushed.gather(1, self._rows[..., None].expand_as(pushed))
            r = torch.ones_like(self._q)
            if self._loose <= 1:
                self._q, r = torch.linalg.qr(self._q)
            self._loose -= 1
            growth.append(r.diagonal(dim1=-2, dim2=-1))
        return torch.stack(growth).double().abs().log()
