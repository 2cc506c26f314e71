"""The weight budget: how many blocks of each tensor are active at each optimizer step."""

import math
import warnings
from collections.abc import Callable, Mapping
from numbers import Real

import torch
from torch import nn

from hyperpruning.sparsity import schedules
from hyperpruning.sparsity.allocations import uniform_except
from hyperpruning.sparsity.blocks import BlockGrid
from hyperpruning.sparsity.checks import check_steps
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.scopes import gate
from hyperpruning.sparsity.selection import apportion


class WeightBudget:
    """The number of active blocks of each tensor at each optimizer step; integers only.

    A block is what the method prunes together: a single weight, a row, a column, or a rectangle of weights. The number
    of active blocks is exact. Blocks at the edge of a padded tensor have fewer weights; the number of blocks is then
    the largest with which no choice of blocks exceeds the budget, so that the active weights can be fewer.

    Args:
        method: its allocation, granularity and schedules are used.
        parameters: the prunable parameters by name.
        costs: the cost of one weight of each parameter, by name.
        sparsity: the fraction of the cost that is pruned, in [0, 1).
        total_steps: the optimizer steps of the training; None if unknown.

    Attributes:
        block_shapes: rows and columns of a block, by parameter name.
        final_blocks: the number of active blocks of each tensor at the end, by parameter name.
        grids: the blocks of each tensor, by parameter name.
        dense_cost: the cost of all weights.
        target_cost: the cost of the active weights at the end: the largest that is at most (1 - sparsity) * dense_cost,
            rounded, and that whole blocks reach. With partial blocks the active weights cost at most that.

    Raises:
        ValueError: the sparsity does not fit the method or the model, or the method needs total_steps.
    """

    def __init__(
        self,
        method: Method,
        parameters: Mapping[str, nn.Parameter],
        costs: Mapping[str, int],
        sparsity: float,
        total_steps: int | None,
    ) -> None:
        self.method, self.costs, self.total_steps = method, costs, total_steps
        self.shapes = {name: parameter.shape for name, parameter in parameters.items()}
        if not self.shapes:
            raise ValueError("At least one parameter must be prunable, got none. Check the filter and the costs.")
        _check_sparsity(sparsity)
        check_steps("total_steps", total_steps)
        if (method.scheduled or method.soft_shrinkage) and (total_steps or 0) < 2:
            raise ValueError(
                "total_steps must be at least 2 when the density falls or soft_shrinkage is above 0, "
                f"got {total_steps}."
            )
        self.block_shapes = {name: self._block_shape(name, shape) for name, shape in self.shapes.items()}
        self.grids = {name: BlockGrid(shape, self.block_shapes[name]) for name, shape in self.shapes.items()}
        self.dense_cost = self.cost({name: shape.numel() for name, shape in self.shapes.items()})
        self._final_density = 1 - sparsity
        self._check_blocks(sparsity)
        self._check_no_tensor_is_empty(sparsity)
        self.final_blocks = self._block_counts(self._final_density)
        self.target_cost = self._cost_of_blocks(self.final_blocks)
        self._final_step = min(math.ceil(method.density_until * (total_steps or 0)), (total_steps or 0) - 1)

    def cost(self, active: Mapping[str, int]) -> int:
        """Return the cost of the given numbers of active weights by parameter name."""
        return sum(count * self.costs[name] for name, count in active.items())

    def is_final(self, blocks: Mapping[str, int]) -> bool:
        """Return whether these numbers of active blocks, by parameter name, cost what they must at the end."""
        return self._cost_of_blocks(blocks) == self.target_cost

    def scheduled_blocks(self, step: int) -> dict[str, int]:
        """Return how many blocks of each tensor the schedule and the allocation make active at this step.

        A falling budget passes through ones at which the allocation leaves a tensor empty that has blocks at the end,
        or below its final number, to which it could not return if no block may move to another tensor. It keeps one
        block, or its final number, and the tensors that are furthest above their final numbers pay for it.
        """
        density = self._density_at(step)
        counts = self._block_counts(density)
        least = dict.fromkeys(counts, 1) if self._equal_blocks else self.final_blocks
        if all(count >= least[name] for name, count in counts.items()):
            return counts
        counts = {name: max(least[name], count) for name, count in counts.items()}
        while self._cost_of_blocks(counts) > round(density * self.dense_cost):
            counts[max(counts, key=lambda name: counts[name] - self.final_blocks[name])] -= 1
        return counts

    def target_blocks(self, step: int, have: Mapping[str, int]) -> dict[str, int]:
        """Return how many blocks of each tensor must be active after an update at this step.

        Args:
            step: the optimizer step, from 1.
            have: the number of active blocks before the update, by parameter name; no tensor gets more than that.
        """
        if not self.method.scheduled:
            return dict(have)
        due = self.scheduled_blocks(step)
        if not self._equal_blocks:  # no block may move to another tensor
            return {name: min(count, have[name]) for name, count in due.items()}
        total = min(sum(due.values()), sum(have.values()))
        return apportion(total, due, dict.fromkeys(have, 0), have)

    def is_update_step(self, step: int, when: Callable[[int], bool]) -> bool:
        """Return whether this step updates the masks: if `when` says so, or if a density becomes final."""
        if self.total_steps is None:
            return when(step)
        if self.method.scheduled and step == self._final_step:
            return True
        return when(step) and step <= self.method.stop * self.total_steps and step < self.total_steps

    def drop_fraction(self, step: int) -> float:
        """Return the fraction of the active weights that an update at this step drops and grows again."""
        if self.total_steps is None:
            return self.method.drop_fraction
        return self.method.drop_fraction * self.method.decay(step, self.method.stop * self.total_steps)

    def soft_shrinking(self, step: int) -> bool:
        """Return whether this step multiplies pruned weights by the soft-shrinkage factor."""
        return self.method.soft_shrinkage > 0 and step <= self.method.stop * (self.total_steps or 0)

    @property
    def start_density(self) -> float:
        """The fraction of the cost of all weights that is active at the start."""
        return self._cost_of_blocks(self.scheduled_blocks(0)) / self.dense_cost

    def check_gates(self, row_groups: Mapping[str, int]) -> None:
        """Check that a method that ranks weights by gate has gates that consist of whole blocks.

        Raises:
            ValueError: no parameter has gates, or the rows of one do not divide into gates of whole blocks.
        """
        used = (self.method.drop_scope, self.method.replace_scope, self.method.grow_scope)
        if gate not in used and not self.method.gate_densities:
            return
        if set(row_groups.values()) == {1}:
            raise ValueError(
                "row_groups must name a prunable parameter when weights are ranked or counted by gate, got none. Give "
                "the Sparsifier row_groups, e.g. {'weight_hh_l0': 4} for an LSTM (in a search: an attribute row_groups "
                "of the cell), or use another scope."
            )
        for name, gates in row_groups.items():
            rows, block_rows = self.shapes[name][0], self.block_shapes[name][0]
            if gates > 1 and rows % (gates * block_rows):
                raise ValueError(
                    f"The rows of {name!r} must divide into {gates} gates of {block_rows}-row blocks, got {rows} rows. "
                    "Change its row_groups, the granularity or the scope."
                )

    def _density_at(self, step: int) -> float:
        method = self.method
        if not method.scheduled:
            return self._final_density
        begin, end = (time * (self.total_steps or 0) for time in (method.density_from, method.density_until))
        progress = 1.0 if step >= self._final_step > 0 else min(1.0, max(0.0, (step - begin) / (end - begin)))
        start = max(method.density_start, self._final_density)
        return min(start, max(self._final_density, method.density(progress, start, self._final_density)))

    def _block_costs(self) -> dict[str, int]:
        """Return the cost of one whole block of each tensor."""
        return {name: math.prod(shape) * self.costs[name] for name, shape in self.block_shapes.items()}

    @property
    def _equal_blocks(self) -> bool:
        """Whether all blocks of the network have the same cost."""
        partial = any(grid.partial for grid in self.grids.values())
        return not partial and len(set(self._block_costs().values())) <= 1

    def _cost_of_blocks(self, counts: Mapping[str, int]) -> int:
        """Return the largest cost of any choice of these numbers of blocks."""
        return self.cost({name: self.grids[name].most_weights(count) for name, count in counts.items()})

    def _block_counts(self, density: float) -> dict[str, int]:
        """Return as many blocks of each tensor as the allocation gives it at this density, and the budget pays for."""
        of, keep, shapes = self.method.granularity.of, self.method.granularity.keep, self.shapes
        if of:
            return {name: shape.numel() * keep // of for name, shape in shapes.items()}
        budget = round(density * self.dense_cost)
        low, high = 0, sum(shape.numel() for shape in shapes.values()) + 1
        if len(set(self.costs.values())) == 1:
            low = budget // next(iter(self.costs.values()))
        else:
            while high - low > 1:  # bisection: the most weights that the budget pays for
                middle = (low + high) // 2
                fits = self.cost(self.method.allocation(shapes, middle)) <= budget
                low, high = (middle, high) if fits else (low, middle)
        weights = self.method.allocation(shapes, low)
        counts = {name: self.grids[name].most_blocks(count) for name, count in weights.items()}
        left = budget - self._cost_of_blocks(counts)
        # rounding down to whole blocks leaves some budget: the tensors that lost most to it get one block each
        for name in sorted(shapes, key=lambda name: counts[name] - weights[name] / math.prod(self.block_shapes[name])):
            grid, count = self.grids[name], counts[name]
            one = (grid.most_weights(count + 1) - grid.most_weights(count)) * self.costs[name]
            if count < grid.n_blocks and one <= left:
                counts[name], left = count + 1, left - one
        return counts

    def _block_shape(self, name: str, shape: torch.Size) -> tuple[int, int]:
        try:
            return self.method.granularity.block_shape(shape)
        except ValueError as error:
            raise ValueError(f"{name!r}: {error} Leave it dense, or use another granularity.") from None

    def _check_blocks(self, sparsity: float) -> None:
        """Refuse a sparsity that N:M cannot have, and blocks of different cost that would change tensors."""
        granularity, equal = self.method.granularity, self._equal_blocks
        if granularity.of and abs(1 - sparsity - granularity.keep / granularity.of) > 1e-9:
            raise ValueError(
                f"sparsity must be {1 - granularity.keep / granularity.of:g} with {granularity.keep}:{granularity.of} "
                f"granularity, got {sparsity}."
            )
        least = {
            name: (grid.most_weights(grid.n_blocks) - grid.most_weights(grid.n_blocks - 1)) * self.costs[name]
            for name, grid in self.grids.items()
        }
        costs = ", ".join(
            f"{least[name]} to {cost} in {name!r}" if self.grids[name].partial else f"{cost} in {name!r}"
            for name, cost in self._block_costs().items()
        )
        if self.method.allocation is uniform_except and self.method.scheduled and not equal:
            raise ValueError(
                "allocation must not be 'uniform_except' when the density falls and blocks differ in cost, "
                f"got {costs}. Use allocation 'uniform' or a constant density."
            )
        if self.method.moves_weights_between_tensors and not equal:
            raise ValueError(
                f"All blocks must have the same cost when they can move between tensors, got {costs}. "
                "Use redistribute 'none' and no global scope, or leave some of the tensors dense."
            )

    def _check_no_tensor_is_empty(self, sparsity: float) -> None:
        """Refuse a sparsity that leaves a tensor without a block; name the tensors and the largest valid sparsity."""
        empty = [name for name, count in self._block_counts(1 - sparsity).items() if count == 0]
        if not empty:
            return
        refused, enough = round((1 - sparsity) * self.dense_cost), self.dense_cost
        while enough - refused > 1:  # bisection: the smallest budget that leaves no tensor empty
            middle = (refused + enough) // 2
            fits = min(self._block_counts(middle / self.dense_cost).values()) > 0
            refused, enough = (refused, middle) if fits else (middle, enough)
        most = math.floor(1e4 * (1 - enough / self.dense_cost)) / 1e4
        left = ", ".join(f"{name!r} ({self.shapes[name].numel()} weights)" for name in empty)
        raise ValueError(
            f"sparsity must leave every tensor at least one active weight, got {sparsity}, with none in {left}. "
            f"Use at most {most}, or leave {'it' if len(empty) == 1 else 'them'} dense."
        )


def _check_sparsity(sparsity: object) -> None:
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real):
        raise ValueError(f"sparsity must be a number, got {sparsity!r}. 0.8 prunes 80 % of the weights.")
    if not 0 <= float(sparsity) < 1:
        raise ValueError(f"sparsity must be at least 0 and below 1, got {sparsity}.")


def warn_without_total_steps(method: Method) -> None:
    """Warn that a method is carried out without the end of the training, where that changes what it does."""
    if method.drop is None or (method.decay is schedules.constant and method.stop == 1):
        return
    warnings.warn(
        "total_steps must be given when the drop fraction of a method decays or its updates stop, got None: it does "
        "not decay and they go on, which costs accuracy (rigl-erk at 90 % sparsity: .953 to .913, .936 to .900, "
        ".929 to .858). Give the Sparsifier total_steps=, the optimizer steps of the whole training.",
        stacklevel=3,
    )


def warn_unfinished(budget: WeightBudget, step: int, density: float) -> None:
    """Warn that a training ended before its density schedule.

    Args:
        budget: of the training.
        step: the optimizer steps that were counted.
        density: the fraction of the cost of all weights that is active.
    """
    start = budget.method.density_from * (budget.total_steps or 0)
    what = "never started" if step < start or density == budget.start_density else "has not ended"
    warnings.warn(
        f"The density must fall to {budget.target_cost / budget.dense_cost:.3g} by the end of the training, got "
        f"{density:.3g} after {step} of {budget.total_steps} optimizer steps: its schedule {what}. Call step() after "
        "each optimizer step, and give the Sparsifier as total_steps the steps of this training.",
        stacklevel=3,
    )
