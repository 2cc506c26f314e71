"""Pruning in a training: the cost of a weight, the steps of mask updates, and checks of method and training."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

from hyperpruning.sparsity import mask_inits, redistributions, scopes, scores
from hyperpruning.sparsity.costs import Cost, multiply_adds, weights
from hyperpruning.sparsity.method import Method, MethodError
from hyperpruning.sparsity.serialization import to_config
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.sparsity.weight_budget import WeightBudget
from hyperpruning.training.calibration import calibration
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.optimizers import OPTIMIZERS
from hyperpruning.training.task import AnyTask, row_groups_of

# what sparsity counts: model -> cost of a weight
COSTS: dict[str, Callable[[nn.Module], Cost]] = {"weights": lambda network: weights, "multiply_adds": multiply_adds}
# what can be pruned: (name of a parameter, row groups of the recurrent ones) -> whether it is
SCOPES: dict[str, Callable[[str, Mapping[str, int]], bool]] = {
    "all": lambda name, recurrent: True,
    "recurrent": lambda name, recurrent: name in recurrent,
}


def cost_of(task: AnyTask, network: nn.Module, config: TrainConfig) -> Cost:
    """The cost of a weight of each parameter; 0 if the parameter is not pruned."""
    cost, inside, recurrent = COSTS[config.counts](network), SCOPES[config.scope], row_groups_of(task, network)
    return lambda name, parameter: cost(name, parameter) if inside(name, recurrent) else 0


def prunable_weights(task: AnyTask, network: nn.Module, config: TrainConfig) -> int:
    """Number of prunable weights, i.e. those with a cost above 0; tied weights count once."""
    cost = cost_of(task, network, config)
    return sum(weight.numel() for name, weight in network.named_parameters() if cost(name, weight))


def make_sparsifier(
    task: AnyTask, network: nn.Module, optimizer: Optimizer, config: TrainConfig, method: Method, *, sparsity: float
) -> Sparsifier:
    """Create the Sparsifier of a training, which masks the network.

    Raises:
        MethodError: the method does not fit the network, the sparsity or the training.
    """
    steps = _steps(task, config)
    when = update_schedule(steps[: config.finetune_after], config.updates_per_epoch, method.interval)
    try:
        check_training(method, config, steps)
        return Sparsifier(
            network,
            optimizer,
            method,
            sparsity=sparsity,
            total_steps=sum(steps),
            cost=cost_of(task, network, config),
            row_groups=row_groups_of(task, network),
            calibration=calibration(task, network, method, seed=config.seed),
            when=when.__contains__,
            seed=config.seed,
        )
    except ValueError as error:
        raise MethodError(str(error)) from error


def method_checker(
    task: AnyTask, network: nn.Module, config: TrainConfig, *, sparsity: float
) -> Callable[[Method], None]:
    """Return a function that checks whether a method fits a training, without computing masks.

    It raises the same errors as `make_sparsifier`, but takes less than a millisecond instead of seconds.
    """
    steps, cost, groups = _steps(task, config), cost_of(task, network, config), row_groups_of(task, network)
    costs = {name: paid for name, weight in network.named_parameters() if (paid := cost(name, weight))}
    pruned = {name: weight for name, weight in network.named_parameters() if name in costs}

    def recurrent() -> set[nn.Parameter]:
        return set(task.recurrence(network)[0].parameters())

    def check(method: Method) -> None:
        check_training(method, config, steps)
        calibration(task, network, method, seed=config.seed)
        compete = method.mask_init_scope is scopes.global_
        if compete and method.mask_init is mask_inits.jacobian and not recurrent().issuperset(pruned.values()):
            raise ValueError(
                "Mask initialisation 'jacobian' with a global scope must prune recurrent weights only, got others too. "
                "Use the scope 'tensor', or set scope = \"recurrent\" in [pruning]."
            )
        weight_budget = WeightBudget(method, pruned, costs, sparsity, sum(steps))
        weight_budget.check_gates({name: groups.get(name, 1) for name in pruned})

    return check


def _steps(task: AnyTask, config: TrainConfig) -> list[int]:
    """The optimizer steps of each epoch."""
    return [task.steps(epoch, config.seed) for epoch in range(config.epochs)]


def update_schedule(steps: Sequence[int], updates: int, interval: int) -> Container[int]:
    """The optimizer steps, from 1 on, that may update the masks.

    Args:
        steps: number of steps of each epoch in which masks change.
        updates: number of updates in an epoch, see `update_steps`; 0 updates every `interval` steps.
        interval: number of steps between updates.
    """
    if not updates:
        return range(interval, sum(steps) + 1, interval)
    due, start = set(), 0
    for count in steps:
        due |= {start + step for step in update_steps(count, updates)}
        start += count
    return due


def update_steps(steps: int, updates: int) -> set[int]:
    """The steps of an epoch, from 1 on, that update the masks: in the middle of its equal parts.

    So no update is shortly before an evaluation, when the network has not yet recovered from it.

    >>> sorted(update_steps(steps=100, updates=4))
    [13, 38, 63, 88]
    """
    return {int((part + 0.5) * steps / updates) + 1 for part in range(updates)}


def keeps_momentum(config: TrainConfig) -> bool:
    """Whether the optimizer of a training keeps a momentum."""
    entry = OPTIMIZERS.get(str(config.optimizer))
    return entry is not None and entry.keeps_momentum and config.momentum > 0


def check_training(method: Method, config: TrainConfig, steps: Sequence[int]) -> None:
    """Check that a method fits the averaging, the finetuning and the optimizer.

    Args:
        method: the pruning method.
        config: the training settings.
        steps: number of optimizer steps of each epoch.
    """
    if method.soft_shrinkage and config.average_from is not None and config.average_from < method.stop:
        raise ValueError(
            f"average_from must be at least the method's stop = {method.stop:g} with soft shrinkage, got "
            f"{config.average_from:g}. Raise average_from, or lower stop."
        )
    if (
        method.redistribute is redistributions.momentum
        and method.grow is not scores.gradient_average
        and not keeps_momentum(config)
    ):
        raise ValueError(
            "grow must be 'gradient_average' when redistribute is 'momentum', since the optimizer of the training "
            f"keeps no momentum, got {to_config(method)['grow']!r}. Change one of them."
        )
    if method.final_density_at * sum(steps) > sum(steps[: config.finetune_after]):
        raise ValueError(
            f"finetune_from must not be before the method reaches its final density, got {config.finetune_from:g} with "
            f"the final density at {method.final_density_at:g} of the steps. Raise finetune_from."
        )
