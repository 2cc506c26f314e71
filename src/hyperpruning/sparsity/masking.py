"""Masks on a model's parameters. Weights and optimizer state outside the masks are zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hyperpruning.sparsity.selection import CHUNK


class Masking:
    """The masks of a model's prunable parameters, and the multiplication that keeps pruned weights at zero.

    Each mask is stored twice: as bools, and as factors in the dtype of the tensor that it multiplies, which is 5 times
    faster.

    Args:
        model: the model that holds the parameters.
        parameters: the prunable parameters by name.
        soft_shrinkage: the factor on pruned weights while `soft_shrinking`.

    Attributes:
        masks: bool tensors by parameter name, True where a weight is active; `set` changes them in place.
        ever_active_masks: likewise, True where a weight is or has been active.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter], soft_shrinkage: float) -> None:
        self.masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in parameters.items()}
        self.ever_active_masks = {name: torch.zeros_like(mask) for name, mask in self.masks.items()}
        self._soft_shrinkage = soft_shrinkage
        self._factors: dict[tuple[str, torch.dtype, bool], Tensor] = {}
        split = {name: name.rpartition(".") for name in parameters}
        self._owned = [
            (name, parameters[name], model.get_submodule(path), key) for name, (path, _, key) in split.items()
        ]

    @torch.no_grad()
    def apply(self, optimizer: Optimizer | None, *, soft_shrinking: bool) -> None:
        """Multiply the weights by the masks, and the optimizer state of their shape except during soft shrinkage.

        Raises:
            RuntimeError: a parameter of the model was replaced.
        """
        values: list[Tensor] = []
        factors: list[Tensor] = []
        for name, parameter, owner, key in self._owned:
            if owner._parameters.get(key) is not parameter:
                raise RuntimeError(
                    f"The model must keep the parameters that the Sparsifier was created with, got a new "
                    f"one at {name!r}. Create the Sparsifier after the parameters are replaced."
                )
            masked = [parameter.data]
            if not soft_shrinking and optimizer is not None and parameter in optimizer.state:
                states = optimizer.state[parameter].values()
                masked += [s for s in states if isinstance(s, Tensor) and s.shape == parameter.shape]
            factors_of_each = [self._factor(name, value.dtype, soft_shrinking) for value in masked]
            for value, factor in _chunk_pairs(masked, factors_of_each):
                values.append(value)
                factors.append(factor)
        torch._foreach_mul_(values, factors)

    @contextmanager
    def masked(self) -> Iterator[None]:
        """Set pruned weights to zero within the `with` block, and restore them afterwards."""
        saved = {parameter: parameter.detach().clone() for _, parameter, _, _ in self._owned}
        self.apply(None, soft_shrinking=False)
        try:
            yield
        finally:
            for parameter, values in saved.items():
                parameter.data.copy_(values)

    def set(self, masks: Mapping[str, Tensor]) -> None:
        """Set the masks in place, so that references to them see the change."""
        for name, mask in self.masks.items():
            mask.copy_(masks[name])
            self.ever_active_masks[name] |= mask
        for (name, _, soft_shrinking), factor in self._factors.items():
            self._fill(factor, name, soft_shrinking)

    def check_shapes(self, masks: Mapping[str, Tensor]) -> None:
        """Check that saved masks are of this model.

        Raises:
            ValueError: a name or a shape differs.
        """
        ours, theirs = ({name: tuple(mask.shape) for name, mask in of.items()} for of in (self.masks, masks))
        if ours != theirs:
            name = min(name for name in ours | theirs if ours.get(name) != theirs.get(name))
            raise ValueError(
                f"The masks of the state must have the model's names and shapes: {name!r} must be "
                f"{ours.get(name, 'absent')}, got {theirs.get(name, 'absent')}. Load it into the "
                "model it was saved from."
            )

    def _factor(self, name: str, dtype: torch.dtype, soft_shrinking: bool) -> Tensor:
        key = name, dtype, soft_shrinking
        if key not in self._factors:
            self._factors[key] = self._fill(torch.empty_like(self.masks[name], dtype=dtype), name, soft_shrinking)
        return self._factors[key]

    def _fill(self, factor: Tensor, name: str, soft_shrinking: bool) -> Tensor:
        factor.copy_(self.masks[name])
        return factor.clamp_(min=self._soft_shrinkage) if soft_shrinking else factor


def _chunk_pairs(values: list[Tensor], factors: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pair values with their factors. Large tensors are split, so that a chunk of factors stays in cache."""
    split = len(values) > 1 and values[0].numel() > CHUNK and all(value.is_contiguous() for value in values)
    if not split:
        yield from zip(values, factors, strict=True)
        return
    pieces = (
        zip(torch.split(v.view(-1), CHUNK), torch.split(f.view(-1), CHUNK), strict=True)
        for v, f in zip(values, factors, strict=True)
    )
    for pairs in zip(*pieces, strict=True):
        yield from pairs


def density(masks: Mapping[str, Tensor], row_groups: Mapping[str, int] | None = None) -> dict[str, list[float]]:
    """Return the fraction of active weights of each tensor, separately for equal groups of its rows.

    Args:
        masks: bool tensors by parameter name.
        row_groups: the number of groups by parameter name, default 1; 4 for the stacked gates of an LSTM, 3 for a GRU.

    Returns:
        the density of each group, by parameter name.

    Raises:
        ValueError: the rows of a tensor do not divide into its groups.
    """
    densities = {}
    for name, mask in masks.items():
        groups = (row_groups or {}).get(name, 1)
        if groups < 1 or len(mask) % groups:
            raise ValueError(f"The rows of {name!r} must divide into {groups} equal groups, got {len(mask)} rows.")
        active = mask.view(groups, -1).count_nonzero(dim=1)  # (groups,)
        densities[name] = [count / (mask.numel() // groups) for count in active.tolist()]
    return densities
