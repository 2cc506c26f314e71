"""Scopes: which weights are ranked against each other when weights are dropped or grown.

A scope is a function `(parameters) -> partitions`. A partition splits some whole tensors into ranking groups. A ranking
group is a list of parts, each of which is a parameter's name, a slice of its flat blocks, and a bool tensor over that
slice (None for all of it). The number of weights of a partition is split between its ranking groups, and within a group
the weights with the largest scores are chosen.

To add one, write the function and add a line to DROP_SCOPES (groups share a number in proportion to their active
weights) or GROW_SCOPES (groups get equal parts).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from hyperpruning.sparsity.parameter import PrunableParameters
from hyperpruning.sparsity.selection import LazyAbs, largest, sample

Part = tuple[str, slice, Tensor | None]
RankingGroup = list[Part]
Partition = list[RankingGroup]
Scope = Callable[[PrunableParameters], list[Partition]]


def tensor(parameters: PrunableParameters) -> list[Partition]:
    """Rank the weights of each tensor against each other; in a recurrent matrix those of all gates."""
    return [[[(name, slice(0, parameter.n_blocks), None)]] for name, parameter in parameters.items()]


def global_(parameters: PrunableParameters) -> list[Partition]:
    """Rank all weights of the network against each other ("global")."""
    return [[[(name, slice(0, parameter.n_blocks), None) for name, parameter in parameters.items()]]]


def gate(parameters: PrunableParameters) -> list[Partition]:
    """Rank the weights of each gate against each other, i.e. of each of the parameter's equal row groups."""
    partitions: list[Partition] = []
    for name, parameter in parameters.items():
        size = parameter.n_blocks // parameter.row_groups
        partitions.append([[(name, slice(i * size, (i + 1) * size), None)] for i in range(parameter.row_groups)])
    return partitions


def sign(parameters: PrunableParameters) -> list[Partition]:
    """Rank the positive weights of each tensor against each other, and the negative ones; zero counts as positive.

    Source: SET, Mocanu et al. 2018. (Later recurrent implementations drop the most negative weights instead.)
    """
    partitions: list[Partition] = []
    for name, parameter in parameters.items():
        positive = parameter.weight.reshape(-1) >= 0
        partitions.append([[(name, slice(0, parameter.n_blocks), side)] for side in (positive, ~positive)])
    return partitions


def choose(
    group: RankingGroup,
    scores: Mapping[str, Tensor | LazyAbs | None],
    eligible: Mapping[str, Tensor],
    count: int,
    generator: Generator,
) -> dict[str, Tensor]:
    """Choose the `count` blocks of a ranking group with the largest scores.

    Args:
        group: one ranking group of a scope.
        scores: (n_blocks,) by parameter name; None for a random choice.
        eligible: bool (n_blocks,) by parameter name: the blocks to choose from.
        count: how many blocks to choose.
        generator: for random choices.

    Returns:
        for each part of the group, by parameter name, bool (blocks of the part,).

    Raises:
        ValueError: some tensors of the group have scores and others have none.
    """
    allowed = [eligible[name][span] if side is None else eligible[name][span] & side for name, span, side in group]
    names = [name for name, _, _ in group]
    known: list[Tensor | LazyAbs] = [score for name in names if (score := scores[name]) is not None]
    if not known and len(group) == 1:
        return {names[0]: sample(allowed[0], count, generator)}
    if not known:
        known = [torch.rand(len(eligible[name]), generator=generator).to(allowed[0].device) for name in names]
    if len(known) < len(group):
        without = next(name for name in names if scores[name] is None)
        raise ValueError(
            f"All tensors that are ranked against each other must have scores, got none for {without!r}. "
            "Use the scope 'tensor', or leave that parameter dense."
        )
    values = [
        score.part(span) if isinstance(score, LazyAbs) else score[span]
        for score, (_, span, _) in zip(known, group, strict=True)
    ]
    return dict(zip(names, largest(values, allowed, count), strict=True))


DROP_SCOPES: dict[str, Scope] = {"tensor": tensor, "global": global_, "gate": gate, "sign": sign}
GROW_SCOPES: dict[str, Scope] = {"tensor": tensor, "global": global_, "gate_equal": gate}
MASK_INIT_SCOPES: dict[str, Scope] = {"tensor": tensor, "global": global_}
