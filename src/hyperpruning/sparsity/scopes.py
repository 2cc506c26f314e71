"""Scopes: which weights are ranked against each other when weights are dropped or grown.

A scope is a function `(parameters) -> partitions`. A partition splits some whole tensors into ranking groups. A ranking
group is a list of parts, each of which is a parameter's name, a slice of its flat units, and a bool tensor over that
slice (None for all of it). The number of weights of a partition is split between its ranking groups, and within a group
the weights with the largest scores are chosen.

To add one, write the function and add a line to DROP_SCOPES (groups share a number in proportion to their active
weights) or GROW_SCOPES (groups get equal parts).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from hyperpruning.sparsity.parameter import PrunableParameters
from hyperpruning.sparsity.selection import Sizes, largest, sample

Part = tuple[str, slice, Tensor | None]
Pool = list[Part]
Scope = Callable[[PrunableParameters], list[list[Pool]]]


def tensor(parameters: PrunableParameters) -> list[list[Pool]]:
    """Let the weights of each tensor compete: all gates of a recurrent matrix together."""
    return [[[(name, slice(0, parameter.units), None)]] for name, parameter in parameters.items()]


def global_(parameters: PrunableParameters) -> list[list[Pool]]:
    """Let all weights of the network compete ("global")."""
    return [[[(name, slice(0, parameter.units), None) for name, parameter in parameters.items()]]]


def gate(parameters: PrunableParameters) -> list[list[Pool]]:
    """Let the weights of each gate compete: of each of the equal groups of rows that the Sparsifier was told of."""
    families: list[list[Pool]] = []
    for name, parameter in parameters.items():
        size = parameter.units // parameter.gates
        families.append([[(name, slice(i * size, (i + 1) * size), None)] for i in range(parameter.gates)])
    return families


def sign(parameters: PrunableParameters) -> list[list[Pool]]:
    """Let the positive weights of each tensor compete, and the negative; a zero counts as positive.

    Source: SET, Mocanu et al. 2018. (The recurrent codes published since drop the most negative weights instead.)
    """
    families: list[list[Pool]] = []
    for name, parameter in parameters.items():
        positive = parameter.weight.reshape(-1) >= 0
        families.append([[(name, slice(0, parameter.units), side)] for side in (positive, ~positive)])
    return families


def choose(
    pool: Pool,
    scores: Mapping[str, Tensor | Sizes | None],
    eligible: Mapping[str, Tensor],
    count: int,
    generator: Generator,
) -> dict[str, Tensor]:
    """Choose `count` units of a pool.

    Args:
        pool: of a scope.
        scores: by parameter name, (units,); None has no preference.
        eligible: by parameter name, bool (units,).
        count: how many.
        generator: of what is drawn.

    Returns:
        bool (units of the part,) for each part, by parameter name.
    """
    allowed = [eligible[name][span] if side is None else eligible[name][span] & side for name, span, side in pool]
    names = [name for name, _, _ in pool]
    known: list[Tensor | Sizes] = [score for name in names if (score := scores[name]) is not None]
    if not known and len(pool) == 1:
        return {names[0]: sample(allowed[0], count, generator)}
    if not known:
        known = [torch.rand(len(eligible[name]), generator=generator).to(allowed[0].device) for name in names]
    if len(known) < len(pool):
        silent = next(name for name in names if scores[name] is None)
        raise ValueError(
            f"weights that compete need scores on one scale, and nothing is known of those of {silent!r}; "
            "choose within each tensor, or leave that parameter dense"
        )
    values = [
        score.part(span) if isinstance(score, Sizes) else score[span]
        for score, (_, span, _) in zip(known, pool, strict=True)
    ]
    return dict(zip(names, largest(values, allowed, count), strict=True))


DROP_SCOPES: dict[str, Scope] = {"tensor": tensor, "global": global_, "gate": gate, "sign": sign}
GROW_SCOPES: dict[str, Scope] = {"tensor": tensor, "global": global_, "gate_equal": gate}
MASK_INIT_SCOPES: dict[str, Scope] = {"tensor": tensor, "global": global_}
