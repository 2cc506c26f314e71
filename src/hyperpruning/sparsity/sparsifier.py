"""The Sparsifier: holds a model's masks, keeps pruned weights at zero, and carries out a method's updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hyperpruning.sparsity import buffers, scores
from hyperpruning.sparsity.catalogue import check_is_method
from hyperpruning.sparsity.checks import check_finite, check_model_and_optimizer, check_steps
from hyperpruning.sparsity.costs import Cost, weights
from hyperpruning.sparsity.dense_parts import check_room, dense_blocks
from hyperpruning.sparsity.gates import recurrent_matrices, with_row_groups
from hyperpruning.sparsity.loop import OptimizerSteps, Processes, unwrapped
from hyperpruning.sparsity.mask_inits import Calibration
from hyperpruning.sparsity.masking import Masking, density
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.parameter import PrunableParameter, optimizer_state
from hyperpruning.sparsity.selection import count_true
from hyperpruning.sparsity.updates import Update, drop_and_grow, initial_masks
from hyperpruning.sparsity.weight_budget import WeightBudget, warn_unfinished, warn_without_total_steps


class Sparsifier:
    """Makes a model sparse and keeps it sparse, within the user's own training loop.

    After every update the number of active weights is exactly round((1 - sparsity) * number of prunable weights), or
    what the method's density schedule gives at that step. If whole blocks are pruned, it is the largest number below
    that which whole blocks reach; where the blocks at the edge of a tensor are partial (`block_8x4`), the number of
    active blocks is exact, and the number of active weights is never above that.

    Args:
        model: already on its device; its prunable weights are masked at once. Tied parameters count once. It may be
            wrapped by torch.compile and DistributedDataParallel: names are those of the model inside, and all processes
            have the same masks.
        optimizer: its state is masked with the weights; None if there is no optimizer.
        method: how to prune.
        sparsity: the fraction of zeros over all prunable weights, in [0, 1).
        total_steps: the optimizer steps of the whole training. Without it, the drop fraction does not decay, updates
            never stop, and the density cannot fall; a warning says what this costs.
        interval: optimizer steps between updates; default `method.interval`.
        when: (step, from 1) -> whether this step may update the masks; default every `interval` steps.
        prunable: (name, parameter) -> whether it is pruned; default every parameter whose cost is not 0.
        cost: (name, parameter) -> the cost of one of its weights; default 1 in matrices and 0 (not pruned) in vectors.
            With another cost (see `multiply_adds`), sparsity is the fraction of the cost that is pruned.
        row_groups: the number of equal groups of rows by parameter name, e.g. 4 for the stacked gates of an LSTM. The
            groups of recurrent layers are known (`sparsity.gates.row_groups`); what is given stands in their place, and
            every other parameter has 1.
        calibration: a function that returns the scalar which the functions of `mask_inits.py` differentiate.
        seed: of random masks and random growth.
        state: a `state_dict` to continue from, where model and optimizer already have their own states: masks are
            taken from it, and no weight is lost. Default: new masks.

    Attributes:
        masks: bool tensors by parameter name, True where a weight is active; changed in place.
        ever_active_masks: likewise, True where a weight is or has been active.
        active_cost: the cost of the active weights, by default their number.
        weight_budget: how many weights of each tensor are active at each step.
        optimizer: as given; assign the new optimizer after replacing it.

    Raises:
        ValueError: the sparsity, or a global ranking without `Method.floor`, leaves a tensor without active weights, no
            parameter is prunable, or the method does not fit the model.

    >>> from hyperpruning.sparsity.catalogue import METHODS
    >>> model = nn.Linear(20, 10)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> sparsifier = Sparsifier(model, optimizer, METHODS["rigl"], sparsity=0.9, total_steps=1000)
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
        state: Mapping[str, Any] | None = None,
    ) -> None:
        check_model_and_optimizer(model, optimizer)
        check_steps("interval", interval)
        check_is_method(method)
        self._processes, model = Processes(model), unwrapped(model)
        named = {n: p for n, p in model.named_parameters() if cost(n, p) and (prunable is None or prunable(n, p))}
        in_optimizer = (
            {p for group in optimizer.param_groups for p in group["params"]} if optimizer is not None else set()
        )
        if in_optimizer and named and in_optimizer.isdisjoint(named.values()):
            raise ValueError(
                "The optimizer must hold the model's prunable parameters, got an optimizer without any of them. "
                "Create it from model.parameters()."
            )
        if total_steps is None:
            warn_without_total_steps(method)
        self.model, self.optimizer, self.method = model, optimizer, method
        groups, self._recurrent = with_row_groups(model, row_groups), recurrent_matrices(model)
        self.parameters, self.row_groups = named, {name: groups.get(name, 1) for name in named}
        self.weight_budget = WeightBudget(
            method, named, {n: cost(n, p) for n, p in named.items()}, sparsity, total_steps
        )
        self.weight_budget.check_gates(self.row_groups)
        self.interval = method.interval if interval is None else interval
        self.when = when or (lambda step: step % self.interval == 0)
        self._step = 0
        self._optimizer_steps = OptimizerSteps()
        self._optimizer_steps.watch(optimizer)
        self._generator = torch.Generator().manual_seed(seed)  # on the CPU: the same masks on every device
        self._processes.agree_on_seed(self._generator, next(iter(named.values())).device)
        self._buffers: dict[str, Tensor] = {}
        self._masking = Masking(model, named, method.soft_shrinkage)
        self.masks, self.ever_active_masks = self._masking.masks, self._masking.ever_active_masks
        if state is not None:
            self.load_state_dict(state)
            return
        parameters = self._prunable_parameters()
        check_room(dense_blocks(method.dense_part, parameters), self.weight_budget.final_blocks)
        masks = initial_masks(method, parameters, self.weight_budget.scheduled_blocks(0), calibration)
        self._processes.agree(masks.values())
        self._masking.set(masks)
        if method.weight_init is not None:
            for name, parameter in self._prunable_parameters().items():
                named[name].data.mul_(method.weight_init(parameter))
        if method.rewind == 0:
            buffers.save_rewind_weights(self._buffers, self.model)
        self.apply()

    @property
    def active_cost(self) -> int:
        """The cost of the active weights, by default their number."""
        return self.weight_budget.cost({name: count_true(mask) for name, mask in self.masks.items()})

    @property
    def at_final_density(self) -> bool:
        """Whether the density has its final value."""
        return not self.method.scheduled or self.weight_budget.is_final(self.active_blocks)

    @property
    def active_blocks(self) -> dict[str, int]:
        """The number of active blocks of each prunable parameter, by name; of weights if single weights are pruned."""
        grids = self.weight_budget.grids
        return {name: count_true(grids[name].block_mask(mask)) for name, mask in self.masks.items()}

    @property
    def sparsity(self) -> float:
        """The current fraction of zeros over the prunable weights, by cost."""
        return 1 - self.active_cost / self.weight_budget.dense_cost

    @property
    def density(self) -> dict[str, float]:
        """The fraction of active weights of each prunable parameter, by name."""
        return {name: parts[0] for name, parts in density(self.masks).items()}

    @property
    def ever_active(self) -> float:
        """The fraction of the prunable weights that are or have been active (R_s of Liu et al. 2021, ITOP)."""
        return sum(count_true(ever) for ever in self.ever_active_masks.values()) / sum(
            map(torch.numel, self.ever_active_masks.values())
        )

    def step(self) -> Update | None:
        """Set pruned weights to zero, and every `interval` steps update the masks.

        Call it after optimizer.step() and before optimizer.zero_grad(). Only steps of the optimizer count: a call
        without one, between two steps of gradient accumulation or where a GradScaler skipped the step, changes no mask.
        The last step of the training never updates the masks, because nothing would train the new weights.

        Returns:
            the result of the update; None in a step without an update.

        Raises:
            FloatingPointError: a weight or gradient is not finite, or a score is NaN; the masks do not change.
            MethodError: the update would leave a tensor without active weights; the masks do not change.
            RuntimeError: a parameter of the model was replaced.
            ValueError: an update needs gradients or momenta and there are none; the masks do not change.
        """
        if not self._optimizer_steps.made(self.optimizer):
            self.apply()
            return None
        self._step += 1
        if self.method.grow is scores.gradient_average:
            buffers.update_gradient_average(self._buffers, self.parameters)
        due = self.method.drop is not None and self.weight_budget.is_update_step(self._step, self.when)
        update = self._update() if due and self.soft_shrinking else None  # ISS-P: rank, then shrink by the new masks
        self._masking.apply(self.optimizer, soft_shrinking=self.soft_shrinking)
        if self._step == self.method.rewind:
            buffers.save_rewind_weights(self._buffers, self.model)
        return self._update() if due and not self.soft_shrinking else update

    def apply(self) -> None:
        """Set pruned weights and every optimizer state of their shape (momenta, averages, counts) to zero.

        During soft shrinkage only `step` changes the weights, and the optimizer's state stays as it is.

        Raises:
            RuntimeError: a parameter of the model was replaced.
        """
        if not self.soft_shrinking:
            self._masking.apply(self.optimizer, soft_shrinking=False)

    def restore(self, masks: Mapping[str, Tensor]) -> None:
        """Replace the masks, e.g. by an earlier copy of `masks`, and set pruned weights to zero."""
        self._masking.set(masks)
        self.apply()

    @property
    def soft_shrinking(self) -> bool:
        """Whether pruned weights are multiplied by `Method.soft_shrinkage` instead of set to zero."""
        return self.weight_budget.soft_shrinking(self._step)

    def masked(self) -> AbstractContextManager[None]:
        """Within the `with` block pruned weights are zero also during soft shrinkage: evaluate the network here."""
        return self._masking.masked() if self.soft_shrinking else nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of masks, step and random state: tensors and plain types, for torch.load(weights_only=True)."""
        return {
            "step": self._step,
            "target": self.weight_budget.target_cost,
            "masks": {name: mask.clone() for name, mask in self.masks.items()},
            "ever": {name: ever.clone() for name, ever in self.ever_active_masks.items()},
            "memory": {name: value.clone() for name, value in self._buffers.items()},
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, bit for bit; the model and the optimizer need their own states too.

        Raises:
            ValueError: the state is of another model or another sparsity.
        """
        masks = state["masks"]
        self._masking.check_shapes(masks)
        if state["target"] != self.weight_budget.target_cost:
            raise ValueError(
                f"The masks of the state must keep {self.weight_budget.target_cost} weights, got {state['target']}. "
                "Use the sparsity with which they were saved."
            )
        self._step = int(state["step"])
        self._generator.set_state(state["generator"].cpu())
        devices = {name: mask.device for name, mask in self.masks.items()}
        place = next(iter(devices.values()))
        self._buffers = {name: value.to(place, copy=True) for name, value in state["memory"].items()}
        self._masking.set({name: mask.to(devices[name]) for name, mask in masks.items()})
        for name, ever in self.ever_active_masks.items():
            ever.copy_(state["ever"][name])
        self.apply()

    def warn_if_unfinished(self) -> None:
        """Warn if the density schedule never started, or has not ended: call it when the training is over."""
        if not self.at_final_density:
            warn_unfinished(self.weight_budget, self._step, self.active_cost / self.weight_budget.dense_cost)

    @torch.no_grad()
    def _update(self) -> Update | None:
        """Drop, redistribute, grow; compute everything before anything is changed."""
        method = self.method
        before = {name: count_true(mask) for name, mask in self.masks.items()}
        blocks = before if self.method.granularity.rows == self.method.granularity.columns == 1 else self.active_blocks
        targets = self.weight_budget.target_blocks(self._step, blocks)
        if method.grow is None and not method.soft_shrinkage and targets == blocks:
            return None  # the density has not fallen since the last update
        parameters = self._prunable_parameters()
        check_finite(parameters, self._step)
        rule = drop_and_grow if method.update is None else method.update
        new_buffers = dict(self._buffers)
        kept, grown = rule(
            method, parameters, targets, self.weight_budget.drop_fraction(self._step), new_buffers, self._generator
        )
        self._processes.agree([*kept.values(), *grown.values()])
        starts = {
            name: method.regrowth_init(parameter, kept[name], grown[name]) for name, parameter in parameters.items()
        }

        self._buffers = new_buffers
        masks = {name: kept[name] | grown[name] for name in kept}
        if all(values is None for values in starts.values()):
            self._masking.set(masks)
            self.apply()
        else:
            self._masking.set(kept)
            self.apply()  # new weights start afresh, also where a weight was dropped in this update
            self._masking.set(masks)
            for name, values in starts.items():
                if values is not None and not (isinstance(values, float) and values == 0):
                    parameter = self.parameters[name].data
                    parameter.copy_(torch.where(grown[name], values, parameter))
        if method.rewind is not None:
            buffers.rewind_weights(self._buffers, self.model, self.optimizer)
            self.apply()
        active, new = ({n: count_true(m) for n, m in each.items()} for each in (masks, grown))
        for name in before:  # soft shrinkage can exchange a partial block for a whole one
            new[name] = max(new[name], active[name] - before[name])
        dropped = {name: before[name] - active[name] + new[name] for name in before}
        return Update(self._step, dropped, new, active, self.ever_active)

    def _prunable_parameters(self) -> dict[str, PrunableParameter]:
        """Return the prunable parameters as the functions of the method see them."""
        return {
            name: PrunableParameter(
                name,
                parameter,
                self.masks[name],
                self.ever_active_masks[name],
                self.weight_budget.block_shapes[name],
                self.row_groups[name],
                optimizer_state(self.optimizer, parameter),
                self._buffers.get(f"average {name}"),
                self._generator,
                self._step,
                name in self._recurrent,
            )
            for name, parameter in self.parameters.items()
        }
