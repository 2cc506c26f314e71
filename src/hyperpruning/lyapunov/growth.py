"""Growth of volumes under products of Jacobians, measured on the nested subspaces that the Jacobians transport.

With an orthonormal frame Q and the QR decomposition J Q = Q' R, ln |r_ii| is the growth of the i-th direction (Benettin
et al. 1980). Only the subspaces matter, i.e. the spans of the first 1, 2, ..., k columns; any other basis B of them
gives the same result. With J B = B' U, U upper triangular, the growth is ln |u_ii| plus the change of ln v_i, where
v_i is the distance of the i-th column of B from the span of the columns before it. `LUFrame` uses the basis of a
row-pivoted LU decomposition, which costs half of a QR, mostly in large matrix products. It computes v, by a QR of B,
only where the growth is measured. Two measures keep it accurate on trained networks:

- Pivoting selects long rows first. Jacobians whose rows differ by orders of magnitude (saturated gates) then lose no
  accuracy, and B is unit lower triangular with entries of at most 1 and well conditioned. In this row order
  Householder's QR is accurate row by row (Cox and Higham 1998).
- Dead units (a zero row or column) are removed: their exponent is -inf, and no other exponent changes. Directions that
  the pruned weights lose in other ways are found in advance and not tracked; otherwise their growth would be rounding
  errors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PANEL = 128  # columns of a triangular basis per matrix product; products skip most of its zeros


def live_units(support: Tensor) -> Tensor:
    """Return the indices that remain after removing units with an all-zero row or column until there are none.

    support: (D, D) bool, the entries of the Jacobians that can differ from zero.
    """
    live = torch.ones(support.shape[0], dtype=torch.bool, device=support.device)
    while True:
        linked = support & live & live[:, None]
        remaining = linked.any(0) & linked.any(1)
        if bool((remaining == live).all()):
            return live.nonzero().flatten()
        live = remaining


def independent_columns(matrix: Tensor) -> Tensor:
    """Return the indices of the columns that are linearly independent of the columns before them in every power.

    matrix: (D, D), with entries at random and of similar size at the non-zero positions; its rank is then the rank of
    products of matrices with the same zero pattern.
    """
    matrix = matrix.detach().double()
    columns, power = torch.arange(len(matrix), device=matrix.device), matrix
    while True:
        reflectors, tau = torch.geqrf(power)
        new = reflectors.diagonal().abs() > 1e-10 * torch.linalg.vector_norm(power, dim=0)
        if bool(new.all()):
            return columns
        columns, power = columns[new], matrix @ torch.linalg.householder_product(reflectors, tau)[:, new]


class LUFrame:
    """The spans of the first 1, 2, ..., k of some unit vectors, transported by Jacobians, with a basis from LU.

    chains: N independent frames. size: their dimension D. units (k,): indices of the unit vectors, increasing.
    like: a tensor with the dtype and device to use.
    """

    def __init__(self, chains: int, size: int, units: Tensor, like: Tensor) -> None:
        k = len(units)
        # Preallocated: at every step, new memory would cost more than small products. LAPACK's matrices are
        # column-major, hence the transposes.
        self._next, self._basis = (like.new_empty(chains, k, size).mT for _ in range(2))
        self._basis.copy_(torch.eye(size, device=like.device)[:, units])
        self._row_numbers = torch.arange(size, dtype=like.dtype, device=like.device)[:, None]
        self._rows = torch.arange(size, device=like.device).expand(chains, size)  # state entry of each row of the basis
        self._permutation = like.new_empty(chains, size, size), like.new_empty(0), like.new_empty(0)
        self._narrow = 2 * k <= size
        self._reordered = like.new_empty(chains, k if self._narrow else size, size)
        self._volumes = like.new_zeros(chains, k, dtype=torch.float64)

    def advance(self, jacobians: Tensor, measured: Sequence[bool]) -> Tensor:
        """Multiply by the Jacobians of S steps, (S, N, D, D); return each step's contribution to the growth, (S, N, k).

        measured: whether the growth is measured after each step. The sum up to a measured step is the growth up to it;
        single contributions in between depend on the basis.
        """
        if self._basis.numel() == 0:  # no live unit
            return self._volumes.expand(len(jacobians), -1, -1)
        pivots, volumes = [], {}
        for step, (jacobian, is_measured) in enumerate(zip(jacobians, measured, strict=True)):
            pivots.append(self._eliminate(self._multiply(jacobian)))
            if is_measured:
                distances = torch.geqrf(self._basis)[0].diagonal(dim1=-2, dim2=-1)
                volumes[step] = distances.double().abs().log()
        added = torch.stack(pivots).double().abs().log()
        for step, now in volumes.items():
            added[step] += now - self._volumes
            self._volumes = now
        return added

    def _multiply(self, jacobian: Tensor) -> Tensor:
        """Return J B, (N, D, k)."""
        product, (size, k) = self._next.mT, self._basis.shape[1:]
        if self._narrow:  # few columns: permute the rows of B to the order of J's columns
            order = self._rows.argsort(-1)[:, None].expand(-1, k, size)
            basis = torch.gather(self._basis.mT, -1, order, out=self._reordered)
            return torch.bmm(basis, jacobian.mT, out=product).mT
        reordered = torch.gather(jacobian, -1, self._rows[:, None].expand_as(jacobian), out=self._reordered)
        width = PANEL if size >= 2 * PANEL else k
        for left in range(0, k, width):  # the rows of the basis above `left` are zero
            panel = slice(left, left + width)
            torch.bmm(self._basis[:, left:, panel].mT, reordered[..., left:].mT, out=product[:, panel])
        return product.mT

    def _eliminate(self, product: Tensor) -> Tensor:
        """Set the basis to the unit lower triangular factor of a row-pivoted LU; return the pivots, (N, k)."""
        pivots = torch.empty(0, dtype=torch.int32, device=product.device)
        torch.linalg.lu_factor_ex(product, out=(product, pivots, torch.empty_like(pivots)))  # in place
        growth = product.diagonal(dim1=-2, dim2=-1).clone()
        product.mT.triu_(1).diagonal(dim1=-2, dim2=-1).fill_(1)
        ones, _, _ = torch.lu_unpack(product, pivots, unpack_data=False, out=self._permutation)
        self._rows = ones.mul_(self._row_numbers).amax(-2).long()  # for each column, the number of the row with its 1
        self._next, self._basis = self._basis, product
        return growth


class QRFrame:
    """The same with a QR at every step; slower, but autograd can record it.

    steps_before_qr: number of steps that are only multiplied before the first QR; their growth is zero.
    """

    def __init__(self, chains: int, size: int, units: Tensor, like: Tensor, steps_before_qr: int = 0) -> None:
        self._q = torch.eye(size, dtype=like.dtype, device=like.device)[:, units].expand(chains, -1, -1)
        self._rows = torch.arange(size, device=like.device).expand(chains, size)
        self._steps_before_qr = steps_before_qr

    def advance(self, jacobians: Tensor, measured: Sequence[bool]) -> Tensor:
        """Multiply by the Jacobians of S steps, (S, N, D, D), and return the growth in each step, (S, N, k)."""
        growth = []
        for jacobian in jacobians:
            product = jacobian.gather(-1, self._rows[:, None].expand_as(jacobian)) @ self._q
            self._rows = torch.linalg.vector_norm(product.detach(), dim=-1).argsort(-1, descending=True)
            self._q = product.gather(1, self._rows[..., None].expand_as(product))
            factors = torch.ones_like(self._q[:, 0])
            if self._steps_before_qr <= 1:
                self._q, factors = self._orthonormalised(self._q)
            self._steps_before_qr -= 1
            growth.append(factors)
        return torch.stack(growth).double().abs().log()

    def _orthonormalised(self, product: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next frame and its growth factors, (N, D, k), (N, k)."""
        frame, r = torch.linalg.qr(product)
        return frame, r.diagonal(dim1=-2, dim2=-1)
