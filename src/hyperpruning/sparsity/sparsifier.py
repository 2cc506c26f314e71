"""The engine: holds a model's masks, keeps everything outside them at zero, and carries out a method's updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hyperpruning.sparsity import memory, scores
from hyperpruning.sparsity.budget import Budget
from hyperpruning.sparsity.costs import Cost, weights
from hyperpruning.sparsity.mask_inits import Calibration
from hyperpruning.sparsity.masking import Masking, density
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.parameter import PrunableParameter, optimizer_state
from hyperpruning.sparsity.selection import counted
from hyperpruning.sparsity.updates import beginning, exchange


@dataclass(frozen=True)
class Update:
    """What one update of the masks did.

    Attributes:
        step: the optimizer step that it followed, from 1.
        dropped, grown: number of weights by parameter name; what was dropped and grown at once counts in both.
        active: number of weights by parameter name afterwards.
        ever_active: fraction of the prunable weights that have been active so far (R_s of Liu et al. 2021, ITOP).
    """

    step: int
    dropped: dict[str, int]
    grown: dict[str, int]
    active: dict[str, int]
    ever_active: float

    @property
    def churn(self) -> float:
        """The part of the weights before the update that it dropped."""
        before = sum(self.active.values()) - sum(self.grown.values()) + sum(self.dropped.values())
        return sum(self.dropped.values()) / before


class Sparsifier:
    """Makes a model sparse and keeps it so, in the user's own training loop.

    What is active costs `budget` from here on, exactly: as many weights as round((1 - sparsity) * prunable weights),
    where the units that are pruned permit, along the method's density schedule if it has one.

    Args:
        model: on its device already; its prunable weights are masked at once. Tied parameters count once.
        optimizer: whose state is masked with the weights; None if there is none.
        method: how to prune.
        sparsity: fraction of zeros over the prunable weights together, in [0, 1).
        total_steps: optimizer steps of the whole training; without it the drop fraction stays as it starts and updates
            never stop, and a density cannot fall.
        interval: optimizer steps between updates, default the method's.
        when: (step, from 1 on) -> whether that step may update the masks; default every `interval` steps.
        prunable: (name, parameter) -> whether it is pruned, default every one that costs something.
        cost: (name, parameter) -> what a weight of it costs, default 1 in matrices and 0 (not pruned) in vectors; see
            `multiply_adds`. Sparsity and budget are then of the cost.
        row_groups: equal groups of rows of a parameter, by name: 4 for the stacked gates of an LSTM; default 1.
        calibration: gives the scalar that the functions of `mask_inits.py` differentiate.
        seed: of the masks and of random growth.

    Attributes:
        masks: bool tensors by parameter name, True where a weight is active; changed in place.
        ever: the same for what has been active so far.
        budget: what the active weights cost now; by default their number.
        optimizer: as given; assign the new one after changing optimizers.

    Raises:
        ValueError: the sparsity would empty a tensor, the filter lets no parameter pass, or the method does not fit
            the model.

    >>> from hyperpruning.sparsity.catalogue import METHODS
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
        cost: Cost = weights,
        row_groups: Mapping[str, int] | None = None,
        calibration: Calibration | None = None,
        seed: int = 0,
    ) -> None:
        if interval is not None and interval < 1:
            raise ValueError(f"interval must be at least 1, not {interval}; leave it out for the default")
        named = {n: p for n, p in model.named_parameters() if cost(n, p) and (prunable is None or prunable(n, p))}
        held = {p for group in optimizer.param_groups for p in group["params"]} if optimizer is not None else set()
        if held and named and held.isdisjoint(named.values()):
            raise ValueError(
                "the optimizer must hold the model's parameters, and it holds none of those that are pruned; "
                "make it from model.parameters()"
            )
        self.model, self.optimizer, self.method = model, optimizer, method
        self.parameters, self.row_groups = named, {name: (row_groups or {}).get(name, 1) for name in named}
        self.plan = Budget(method, named, {n: cost(n, p) for n, p in named.items()}, sparsity, total_steps)
        self.plan.check_gates(self.row_groups)
        self.interval = method.interval if interval is None else interval
        self.when = when or (lambda step: step % self.interval == 0)
        self._step = 0
        self._generator = torch.Generator().manual_seed(seed)  # on the CPU: the same masks on every device
        self._memory: dict[str, Tensor] = {}
        self._masking = Masking(model, named, method.soft_shrinkage)
        self.masks, self.ever = self._masking.masks, self._masking.ever
        self._masking.set(beginning(method, self._prunable_parameters(), self.plan.units(0), calibration))
        if method.rewind == 0:
            memory.remember(self._memory, self.model)
        self.apply()

    @property
    def budget(self) -> int:
        """What the active weights cost."""
        return self.plan.price({name: counted(mask) for name, mask in self.masks.items()})

    @property
    def at_final_density(self) -> bool:
        """Whether the density has arrived where the method's schedule ends."""
        return not self.method.scheduled or self.budget == self.plan.target

    @property
    def sparsity(self) -> float:
        """The fraction of zeros over the prunable weights, as it is (by cost)."""
        return 1 - self.budget / self.plan.whole

    @property
    def density(self) -> dict[str, float]:
        """The fraction of active weights of each parameter."""
        return {name: parts[0] for name, parts in density(self.masks).items()}

    @property
    def ever_active(self) -> float:
        """The fraction of the prunable weights that have been active so far (R_s of Liu et al. 2021, ITOP)."""
        return sum(counted(ever) for ever in self.ever.values()) / sum(map(torch.numel, self.ever.values()))

    def step(self) -> Update | None:
        """Mask the model again, and every `interval` steps update the masks.

        Call it after optimizer.step() and before the gradients are cleared. The last step of the training never
        updates: nothing would train the new weights.

        Returns:
            what the update did; None in a step without one.

        Raises:
            FloatingPointError: a weight or gradient is not finite at an update; the masks stay as they were.
            RuntimeError: a parameter of the model is not the one that the Sparsifier was made with.
            ValueError: an update needs gradients or momenta, and there are none; the masks stay as they were.
        """
        self._step += 1
        if self.method.grow is scores.gradient_average:
            memory.average(self._memory, self.parameters)
        self._masking.apply(self.optimizer, soft_shrinking=self.soft_shrinking)
        if self._step == self.method.rewind:
            memory.remember(self._memory, self.model)
        due = self.method.drop is not None and self.plan.due(self._step, self.when)
        return self._update() if due else None

    def apply(self) -> None:
        """Zero, outside the masks, the weights and every optimizer state of their shape (momenta, averages, counts).

        During soft shrinkage only `step` changes the weights, and the optimizer's state stays as it is.

        Raises:
            RuntimeError: a parameter of the model is not the one that the Sparsifier was made with.
        """
        if not self.soft_shrinking:
            self._masking.apply(self.optimizer, soft_shrinking=False)

    def restore(self, masks: Mapping[str, Tensor]) -> None:
        """Put masks back as they were at some time (a copy of `masks`); what is outside them becomes zero."""
        self._masking.set(masks)
        self.apply()

    @property
    def soft_shrinking(self) -> bool:
        """Whether pruned weights are multiplied by `Method.soft_shrinkage` instead of set to zero."""
        return self.plan.soft_shrinking(self._step)

    def masked(self) -> AbstractContextManager[None]:
        """Within the block, pruned weights are zero also during soft shrinkage: evaluate the network here."""
        return self._masking.masked() if self.soft_shrinking else nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Copy out masks, step and random state: tensors and plain types, which torch.load(weights_only=True) reads."""
        return {
            "step": self._step,
            "target": self.plan.target,
            "masks": {name: mask.clone() for name, mask in self.masks.items()},
            "ever": {name: ever.clone() for name, ever in self.ever.items()},
            "memory": {name: value.clone() for name, value in self._memory.items()},
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
        if state["target"] != self.plan.target:
            raise ValueError(
                f"masks must keep {self.plan.target} weights, not {state['target']}; "
                "give the sparsity with which they were saved"
            )
        self._step = int(state["step"])
        self._generator.set_state(state["generator"].cpu())
        devices = {name: mask.device for name, mask in self.masks.items()}
        place = next(iter(devices.values()))
        self._memory = {name: value.to(place, copy=True) for name, value in state["memory"].items()}
        self._masking.set({name: mask.to(devices[name]) for name, mask in masks.items()})
        for name, ever in self.ever.items():
            ever.copy_(state["ever"][name])
        self.apply()

    @torch.no_grad()
    def _update(self) -> Update | None:
        """Drop, redistribute, grow; everything is worked out before anything is changed."""
        method = self.method
        before = {name: counted(mask) for name, mask in self.masks.items()}
        targets = self.plan.targets(self._step, before)
        if method.grow is None and not method.soft_shrinkage and targets == self.plan.in_units(before):
            return None  # the density has not fallen since
        self._check_finite()
        parameters = self._prunable_parameters()
        rule = exchange if method.update is None else method.update
        remembered = dict(self._memory)
        kept, grown = rule(method, parameters, targets, self.plan.fraction(self._step), remembered, self._generator)
        begun = {
            name: method.regrowth_init(parameter, kept[name], grown[name]) for name, parameter in parameters.items()
        }

        self._memory = remembered
        masks = {name: kept[name] | grown[name] for name in kept}
        if all(values is None for values in begun.values()):
            self._masking.set(masks)
            self.apply()
        else:
            self._masking.set(kept)
            self.apply()  # what is new begins afresh, also where it was dropped just now
            self._masking.set(masks)
            for name, values in begun.items():
                if values is not None and not (isinstance(values, float) and values == 0):
                    parameter = self.parameters[name].data
                    parameter.copy_(torch.where(grown[name], values, parameter))
        if method.rewind is not None:
            memory.rewind(self._memory, self.model, self.optimizer)
            self.apply()
        active, new = ({n: counted(m) for n, m in each.items()} for each in (masks, grown))
        dropped = {name: before[name] - active[name] + new[name] for name in before}
        return Update(self._step, dropped, new, active, self.ever_active)

    def _prunable_parameters(self) -> dict[str, PrunableParameter]:
        """Show the parameters to the parts of the method."""
        return {
            name: PrunableParameter(
                name,
                parameter,
                self.masks[name],
                self.ever[name],
                self.plan.unit[name],
                self.row_groups[name],
                optimizer_state(self.optimizer, parameter),
                self._memory.get(f"average {name}"),
                self._generator,
            )
            for name, parameter in self.parameters.items()
        }

    def _check_finite(self) -> None:
        """Refuse to update on numbers that cannot be ranked."""
        for name, parameter in self.parameters.items():
            for what, values in (("weight", parameter), ("gradient", parameter.grad)):
                # a sum is ten times faster than looking at each; an overflow of the sum alone is no fault
                if values is None or values.sum().isfinite() or values.to_dense().isfinite().all():
                    continue
                raise FloatingPointError(
                    f"an update needs finite numbers, and a {what} of {name!r} is not at step {self._step}; "
                    "the masks were left as they were: lower the learning rate or clip the gradients"
                )
