"""The engine: holds a model's masks, keeps everything outside them at zero, and carries out a method's updates."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hyperpruning.sparsity.exact import sample
from hyperpruning.sparsity.methods import Method
from hyperpruning.sparsity.redistributions import growth_quotas


@dataclass(frozen=True)
class Update:
    """What one update of the masks did.

    Attributes:
        step: the optimizer step that it followed, from 1.
        dropped, grown: number of weights by parameter name; what was dropped and grown at once counts in both.
        active: number of weights by parameter name afterwards.
    """

    step: int
    dropped: dict[str, int]
    grown: dict[str, int]
    active: dict[str, int]


def matrices(name: str, parameter: nn.Parameter) -> bool:
    """Tell what is pruned by default: every parameter with at least two dimensions, so that biases stay dense."""
    return parameter.ndim >= 2


class Sparsifier:
    """Makes a model sparse and keeps it so, in the user's own training loop.

    The number of active weights is round((1 - sparsity) * prunable weights) from here on, to the weight.

    Args:
        model: on its device already; its prunable weights are masked at once. Tied parameters count once.
        optimizer: whose state is masked with the weights; None if there is none.
        method: how to prune.
        sparsity: fraction of zeros over the prunable weights together, in [0, 1).
        total_steps: optimizer steps of the whole training; without it the drop fraction stays as it starts and updates
            never stop.
        interval: optimizer steps between updates, default the method's.
    when: (step, from 1 on) -> whether that step may update the masks; default every `interval` steps.
        prunable: (name, parameter) -> whether it is pruned, default every one with at least two dimensions.
        seed: of the masks and of random growth.

    Attributes:
        masks: bool tensors by parameter name, True where a weight is active; changed in place.
        budget: number of active weights.
        optimizer: as given; assign the new one after changing optimizers.

    Raises:
        ValueError: the sparsity would empty a tensor, or the filter lets no parameter pass.

    >>> from hyperpruning.sparsity.methods import METHODS
    >>> model = nn.Linear(20, 10)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> sparsifier = Sparsifier(model, optimizer, METHODS["rigl"], sparsity=0.9)
    >>> _ = model(torch.ones(20)).sum().backward(), optimizer.step(), sparsifier.step()
    >>> int(model.weight.count_nonzero())
    20
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        method: Method,
        *,
        sparsity: float,
        total_steps: int | None = None,
        interval: int | None = None,
        when: Callable[[int], bool] | None = None,
        prunable: Callable[[str, nn.Parameter], bool] | None = None,
        seed: int = 0,
    ) -> None:
        for rule, steps in {"total_steps": total_steps, "interval": interval}.items():
            if steps is not None and steps < 1:
                raise ValueError(f"{rule} must be at least 1, not {steps}; leave it out for the default")
        chosen = prunable or matrices
        self.parameters = {name: p for name, p in model.named_parameters() if chosen(name, p)}
        held = {p for group in optimizer.param_groups for p in group["params"]} if optimizer is not None else set()
        if held and self.parameters and held.isdisjoint(self.parameters.values()):
            raise ValueError(
                "the optimizer must hold the model's parameters, and it holds none of those that are pruned; "
                "make it from model.parameters()"
            )
        self.optimizer = optimizer
        self.method = method
        self.total_steps = total_steps
        self.interval = method.interval if interval is None else interval
        counts = _allocated(method, {name: p.shape for name, p in self.parameters.items()}, sparsity)
        self.budget = sum(counts.values())
        self.when = when or (lambda step: step % self.interval == 0)
        self._step = 0
        self._generator = torch.Generator().manual_seed(seed)  # on the CPU: the same masks on every device
        self.masks = {
            name: sample(p.numel(), counts[name], self._generator).view(p.shape).to(p.device)
            for name, p in self.parameters.items()
        }
        self._factors: dict[tuple[str, torch.dtype], Tensor] = {}
        self.apply()

    @property
    def sparsity(self) -> float:
        """The fraction of zeros over the prunable weights, as it is."""
        return 1 - self.budget / sum(mask.numel() for mask in self.masks.values())

    @property
    def density(self) -> dict[str, float]:
        """The fraction of active weights of each parameter."""
        return {name: parts[0] for name, parts in density(self.masks).items()}

    def step(self) -> Update | None:
        """Mask the model again, and every `interval` steps update the masks.

        Call it after optimizer.step() and before the gradients are cleared. The last step of the training never
        updates: nothing would train the new weights.

        Returns:
            what the update did; None in a step without one.

        Raises:
            FloatingPointError: a weight or gradient is not finite at an update; the masks stay as they were.
            ValueError: growth by gradient finds no gradients; the masks stay as they were.
        """
        self._step += 1
        self.apply()
        return self._update() if self._due() else None

    @torch.no_grad()
    def apply(self) -> None:
        """Zero, outside the masks, the weights and every optimizer state of their shape (momenta, averages, counts)."""
        for name, parameter in self.parameters.items():
            self._mask(name, parameter)
            if self.optimizer is not None and parameter in self.optimizer.state:
                for state in self.optimizer.state[parameter].values():
                    if isinstance(state, Tensor) and state.shape == parameter.shape:
                        self._mask(name, state)

    def state_dict(self) -> dict[str, Any]:
        """Copy out masks, step and random state: tensors and plain types, which torch.load(weights_only=True) reads."""
        return {
            "step": self._step,
            "masks": {name: mask.clone() for name, mask in self.masks.items()},
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, bit for bit, beside the model's and the optimizer's own.

        Raises:
            ValueError: the masks belong to another model or sparsity.
        """
        masks = state["masks"]
        ours, theirs = ({name: tuple(mask.shape) for name, mask in of.items()} for of in (self.masks, masks))
        if ours != theirs:
            name = min(name for name in ours | theirs if ours.get(name) != theirs.get(name))
            raise ValueError(
                f"masks must have the model's names and shapes: {name!r} is {ours.get(name, 'absent')} in the model "
                f"and {theirs.get(name, 'absent')} in the state; load it into the model that it was saved from"
            )
        active = sum(int(mask.count_nonzero()) for mask in masks.values())
        if active != self.budget:
            raise ValueError(
                f"masks must keep {self.budget} weights, not {active}; give the sparsity with which they were saved"
            )
        self._step = int(state["step"])
        self._generator.set_state(state["generator"].cpu())
        self._set_masks({name: mask.to(self.masks[name].device) for name, mask in masks.items()})
        self.apply()

    def _due(self) -> bool:
        """Tell whether this step updates the masks."""
        if self.method.drop is None or not self.when(self._step):
            return False
        if self.total_steps is None:
            return True
        return self._step <= self.method.stop * self.total_steps and self._step < self.total_steps

    @torch.no_grad()
    def _update(self) -> Update:
        """Drop, redistribute, grow; everything is worked out before anything is changed."""
        method = self.method
        assert method.drop is not None
        assert method.grow is not None
        self._check_finite()
        fraction = method.drop_fraction
        if self.total_steps is not None:
            fraction *= method.decay(self._step, method.stop * self.total_steps)

        kept = method.drop(self.parameters, self.masks, fraction)
        dropped = {
            name: int(mask.count_nonzero()) - int(kept[name].count_nonzero()) for name, mask in self.masks.items()
        }
        shares = method.redistribute(self.parameters, kept, dropped)
        quotas = growth_quotas(shares, kept, dropped, floor=method.floor, ceiling=method.ceiling)
        grown = {}
        for name, parameter in self.parameters.items():
            grown[name] = method.grow(parameter, kept[name], quotas[name], self._generator)

        self._set_masks(kept)
        self.apply()  # what is new starts at zero, also where it was dropped just now
        self._set_masks({name: kept[name] | grown[name] for name in kept})
        active = {name: int(mask.count_nonzero()) for name, mask in self.masks.items()}
        return Update(self._step, dropped, quotas, active)

    def _check_finite(self) -> None:
        """Refuse to update on numbers that cannot be ranked."""
        for name, parameter in self.parameters.items():
            for what, values in (("weight", parameter), ("gradient", parameter.grad)):
                if values is not None and not values.to_dense().isfinite().all():
                    raise FloatingPointError(
                        f"an update needs finite numbers, and a {what} of {name!r} is not at step {self._step}; "
                        "the masks were left as they were: lower the learning rate or clip the gradients"
                    )

    def _set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Change the masks in place, so that whoever holds one sees the change."""
        for name, mask in self.masks.items():
            mask.copy_(masks[name])
        for (name, _), factor in self._factors.items():
            factor.copy_(self.masks[name])

    def _mask(self, name: str, values: Tensor) -> None:
        """Zero what is off the mask, in place."""
        key = name, values.dtype
        if key not in self._factors:  # a factor of the same dtype is 6 times faster than the bool mask
            self._factors[key] = self.masks[name].to(values.dtype)
        values.mul_(self._factors[key])


def density(masks: Mapping[str, Tensor], row_groups: Mapping[str, int] | None = None) -> dict[str, list[float]]:
    """Measure the fraction of active weights of each tensor, by equal groups of rows.

    Args:
        masks: bool tensors by parameter name.
        row_groups: number of groups by parameter name, default 1: 4 for the stacked gates of an LSTM, 3 for a GRU.

    Returns:
        one density for each group, by parameter name.

    Raises:
        ValueError: the rows do not divide into the groups.
    """
    densities = {}
    for name, mask in masks.items():
        groups = (row_groups or {}).get(name, 1)
        if groups < 1 or len(mask) % groups:
            raise ValueError(f"row groups must be equal: the {len(mask)} rows of {name!r} do not divide into {groups}")
        active = mask.view(groups, -1).count_nonzero(dim=1)  # (groups,)
        densities[name] = [count / (mask.numel() // groups) for count in active.tolist()]
    return densities


def _allocated(method: Method, shapes: Mapping[str, torch.Size], sparsity: float) -> dict[str, int]:
    """Allocate the budget, and refuse a sparsity that leaves a tensor without a weight."""
    if not shapes:
        raise ValueError("at least one parameter must be prunable, and the filter lets none pass; check its names")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must lie in [0, 1), not {sparsity}; it is the fraction of weights left out")
    total = sum(shape.numel() for shape in shapes.values())
    budget = round((1 - sparsity) * total)
    counts = method.allocation(shapes, budget)
    empty = [name for name, count in counts.items() if count == 0]
    if not empty:
        return counts
    refused, enough = budget, total  # bisect for the smallest budget that reaches every tensor
    while enough - refused > 1:
        middle = (refused + enough) // 2
        if min(method.allocation(shapes, middle).values()) == 0:
            refused = middle
        else:
            enough = middle
    most = math.floor(1e4 * (1 - enough / total)) / 1e4
    raise ValueError(
        f"sparsity must leave every tensor a weight, and {sparsity} leaves {empty[0]!r} none of its "
        f"{shapes[empty[0]].numel()}; give at most {most} or leave that tensor dense"
    )
