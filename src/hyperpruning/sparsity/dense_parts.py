"""Dense parts: weights that no update prunes.

A dense part is a function `(parameter) -> mask` of one `PrunableParameter`: bool of its shape, True where a weight must
stay active, or None if all of its weights may be pruned. These weights count as active ones of the budget. Where blocks
are pruned, a block with such a weight stays active.

To add one, write the function and add a line to DENSE_PARTS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from hyperpruning.sparsity.parameter import PrunableParameter, PrunableParameters
from hyperpruning.sparsity.scopes import RankingGroup, choose
from hyperpruning.sparsity.selection import LazyAbs, count_true

DensePart = Callable[[PrunableParameter], Tensor | None]


def recurrent_diagonal(parameter: PrunableParameter) -> Tensor | None:
    """Keep the weights from each hidden unit to itself: the diagonal of every gate of a recurrent matrix.

    Source: the sparse GRUs of LPCNet (Valin & Skoglund 2019), section 3.3.

    Raises:
        ValueError: the gates of a recurrent matrix are not square, as in an LSTM with a projection.
    """
    if not parameter.recurrent:
        return None
    rows, columns = parameter.mask.shape
    if rows != columns * parameter.row_groups:
        raise ValueError(
            f"Each gate of a recurrent matrix must be square when its diagonal stays dense, got {rows} x {columns} "
            f"with {parameter.row_groups} gates in {parameter.name!r}. Set dense_part = 'none'."
        )
    return torch.eye(columns, dtype=torch.bool, device=parameter.mask.device).repeat(parameter.row_groups, 1)


def dense_blocks(part: DensePart | None, parameters: PrunableParameters) -> dict[str, Tensor]:
    """Return which blocks stay active: bool (n_blocks,) by parameter name; without parameters that have none."""
    masks = {} if part is None else {name: part(parameter) for name, parameter in parameters.items()}
    return {name: parameters[name].grid.sums(mask.int()) > 0 for name, mask in masks.items() if mask is not None}


def choose_with(
    dense: Mapping[str, Tensor],
    group: RankingGroup,
    scores: Mapping[str, Tensor | LazyAbs | None],
    eligible: Mapping[str, Tensor],
    count: int,
    generator: Generator,
) -> dict[str, Tensor]:
    """Choose as `scopes.choose`, but all dense blocks of a group first."""
    inside = {name: eligible[name] & dense[name] for name, _, _ in group if name in dense}
    needed = sum(count_true(inside[name][span]) for name, span, _ in group if name in inside)
    if not needed:
        return choose(group, scores, eligible, count, generator)
    rest = {name: eligible[name] & ~inside[name] if name in inside else eligible[name] for name, _, _ in group}
    chosen = choose(group, scores, rest, max(0, count - needed), generator)
    return {name: chosen[name] | inside[name][span] if name in inside else chosen[name] for name, span, _ in group}


def check_room(dense: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
    """Check that the budget of every tensor has room for its dense part.

    Args:
        dense: from `dense_blocks`.
        counts: the number of active blocks at the end, by parameter name.

    Raises:
        ValueError: one has none.
    """
    for name, blocks in dense.items():
        if (needed := count_true(blocks)) > counts[name]:
            raise ValueError(
                f"sparsity must leave room for the dense part of every tensor, got {counts[name]} active blocks in "
                f"{name!r}, whose dense part has {needed}. Lower the sparsity, or set dense_part = 'none'."
            )


DENSE_PARTS: dict[str, DensePart] = {"recurrent_diagonal": recurrent_diagonal}
