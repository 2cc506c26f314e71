"""What a budget pays for: how many units of each tensor are active, and when."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from hyperpruning.sparsity.allocations import uniform_except
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.scopes import gate
from hyperpruning.sparsity.selection import apportion


class Budget:
    """How many units of each tensor are active, when; whole numbers only.

    Args:
        method: its allocation, granularity and schedules.
        parameters: that are pruned, by name.
        costs: of one weight of each.
        sparsity: fraction of the cost that is left out, in [0, 1).
        total_steps: optimizer steps of the training, if known.

    Attributes:
        unit: rows and columns of what is pruned together, by name.
        whole: the cost of all weights.
        target: what the active weights cost at the end; the nearest to (1 - sparsity) whole that whole units reach.

    Raises:
        ValueError: the sparsity does not fit the method or the model; the method needs to know the number of steps.
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
            raise ValueError("at least one parameter must be prunable, and the filter lets none pass; check its names")
        if not 0 <= sparsity < 1:
            raise ValueError(f"sparsity must lie in [0, 1), not {sparsity}; it is the fraction of weights left out")
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, not {total_steps}; leave it out for the default")
        if (method.scheduled or method.soft_shrinkage) and (total_steps or 0) < 2:
            raise ValueError(
                "total_steps must be at least 2 when the density falls or soft_shrinkage is above 0, "
                f"got {total_steps}."
            )
        self.unit = {name: self._unit(name, shape) for name, shape in self.shapes.items()}
        self.whole = self.price({name: shape.numel() for name, shape in self.shapes.items()})
        self._density = 1 - sparsity
        self._check_units(sparsity)
        self._check_reach(sparsity)
        self.target = self._cost_of(self._counts(self._density))
        self._arrival = min(math.ceil(method.density_until * (total_steps or 0)), (total_steps or 0) - 1)

    def price(self, active: Mapping[str, int]) -> int:
        """Say what so many active weights of each tensor cost."""
        return sum(count * self.costs[name] for name, count in active.items())

    def in_units(self, active: Mapping[str, int]) -> dict[str, int]:
        """Count weights in units."""
        return {name: count // math.prod(self.unit[name]) for name, count in active.items()}

    def units(self, step: int) -> dict[str, int]:
        """Say how many units each tensor gets at this step, as the allocation shares them."""
        return self._counts(self._density_at(step))

    def targets(self, step: int, active: Mapping[str, int]) -> dict[str, int]:
        """Say how many units each tensor has to have now: no more than it has, shared as the allocation does."""
        have = self.in_units(active)
        if not self.method.scheduled:
            return have
        due = self.units(step)
        if len(set(self._prices().values())) > 1:  # nothing is exchanged between the tensors
            return {name: min(count, have[name]) for name, count in due.items()}
        total = min(sum(due.values()), sum(have.values()))
        return apportion(total, due, dict.fromkeys(have, 0), have)

    def due(self, step: int, when: Callable[[int], bool]) -> bool:
        """Tell whether this step updates the masks; the one at which a density arrives always does."""
        if self.total_steps is None:
            return when(step)
        if self.method.scheduled and step == self._arrival:
            return True
        return when(step) and step <= self.method.stop * self.total_steps and step < self.total_steps

    def fraction(self, step: int) -> float:
        """Say which part of the active weights an update at this step exchanges."""
        if self.total_steps is None:
            return self.method.drop_fraction
        return self.method.drop_fraction * self.method.decay(step, self.method.stop * self.total_steps)

    def soft_shrinking(self, step: int) -> bool:
        """Tell whether pruned weights are still multiplied by the soft-shrinkage factor."""
        return self.method.soft_shrinkage > 0 and step <= self.method.stop * (self.total_steps or 0)

    def check_gates(self, row_groups: Mapping[str, int]) -> None:
        """Refuse a scope of gates where there are none, or where they do not hold whole units."""
        if gate not in (self.method.drop_scope, self.method.grow_scope):
            return
        if set(row_groups.values()) == {1}:
            raise ValueError(
                "a scope of gates needs to know them, and no tensor has any; give the Sparsifier row_groups, e.g. "
                "{'weight_hh_l0': 4} for an LSTM, or another scope"
            )
        for name, gates in row_groups.items():
            rows, unit = self.shapes[name][0], self.unit[name][0]
            if gates > 1 and rows % (gates * unit):
                raise ValueError(
                    f"a gate must hold whole units, and the {rows} rows of {name!r} do not divide into {gates} gates "
                    f"of {unit}-row units; give its row_groups, or another granularity or scope"
                )

    def _density_at(self, step: int) -> float:
        method = self.method
        if not method.scheduled:
            return self._density
        begin, end = (time * (self.total_steps or 0) for time in (method.density_from, method.density_until))
        progress = 1.0 if step >= self._arrival > 0 else min(1.0, max(0.0, (step - begin) / (end - begin)))
        start = max(method.density_start, self._density)
        return min(start, max(self._density, method.density(progress, start, self._density)))

    def _prices(self) -> dict[str, int]:
        """What a unit of each tensor costs."""
        return {name: math.prod(unit) * self.costs[name] for name, unit in self.unit.items()}

    def _cost_of(self, units: Mapping[str, int]) -> int:
        return sum(count * price for count, price in zip(units.values(), self._prices().values(), strict=True))

    def _counts(self, density: float) -> dict[str, int]:
        """Share a density out: as many units of each tensor as the allocation gives it, and as many as are paid for."""
        of, keep, shapes = self.method.granularity.of, self.method.granularity.keep, self.shapes
        if of:
            return {name: shape.numel() * keep // of for name, shape in shapes.items()}
        budget, prices = round(density * self.whole), self._prices()
        low, high = 0, sum(shape.numel() for shape in shapes.values()) + 1
        if len(set(self.costs.values())) == 1:
            low = budget // next(iter(self.costs.values()))
        else:
            while high - low > 1:  # the most weights that the budget pays for
                middle = (low + high) // 2
                fits = self.price(self.method.allocation(shapes, middle)) <= budget
                low, high = (middle, high) if fits else (low, middle)
        share = self.method.allocation(shapes, low)
        counts = self.in_units(share)
        left = budget - self._cost_of(counts)
        # what whole units leave over goes to the tensors that are owed most, one unit each, while it fits
        for name in sorted(shapes, key=lambda name: counts[name] - share[name] / math.prod(self.unit[name])):
            if prices[name] <= left and (counts[name] + 1) * math.prod(self.unit[name]) <= shapes[name].numel():
                counts[name], left = counts[name] + 1, left - prices[name]
        return counts

    def _unit(self, name: str, shape: torch.Size) -> tuple[int, int]:
        try:
            return self.method.granularity.unit(shape)
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}; leave it dense, or give another granularity") from None

    def _check_units(self, sparsity: float) -> None:
        """Refuse a sparsity that N:M does not have, and an exchange of units that cost differently."""
        unit, prices = self.method.granularity, self._prices()
        if unit.of and abs(1 - sparsity - unit.keep / unit.of) > 1e-9:
            raise ValueError(
                f"{unit.keep}:{unit.of} leaves out one part of the weights, and {sparsity} is another; "
                f"give sparsity {1 - unit.keep / unit.of:g}"
            )
        if self.method.allocation is uniform_except and self.method.scheduled and len(set(prices.values())) > 1:
            raise ValueError(
                "units that cost differently change no tensor, and allocation 'uniform_except' gives a tensor more "
                "again once the dense one does not fit a falling density; give allocation 'uniform', or one density"
            )
        if self.method.moves_weights_between_tensors and len(set(prices.values())) > 1:
            raise ValueError(
                "units that change tensors must cost the same, or no budget could hold, and theirs cost "
                f"{', '.join(f'{price} in {name!r}' for name, price in prices.items())}; give redistribute 'none' and "
                "no global scope, or leave some of them dense"
            )

    def _check_reach(self, sparsity: float) -> None:
        """Refuse a sparsity that leaves a tensor without a unit; say which, and the largest that does not."""
        empty = [name for name, count in self._counts(1 - sparsity).items() if count == 0]
        if not empty:
            return
        refused, enough = round((1 - sparsity) * self.whole), self.whole
        while enough - refused > 1:  # the smallest budget that reaches every tensor
            middle = (refused + enough) // 2
            reached = min(self._counts(middle / self.whole).values()) > 0
            refused, enough = (refused, middle) if reached else (middle, enough)
        most = math.floor(1e4 * (1 - enough / self.whole)) / 1e4
        left = ", ".join(f"{name!r} ({self.shapes[name].numel()} weights)" for name in empty)
        raise ValueError(
            f"sparsity must leave every tensor a weight, and {sparsity} leaves none in {left}; "
            f"give at most {most} or leave {'it' if len(empty) == 1 else 'them'} dense"
        )
