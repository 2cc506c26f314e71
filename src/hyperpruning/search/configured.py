"""How each candidate is trained: the plan with the settings of its config."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

from hyperpruning.search.latency import TIMED, StepTimes, target_microseconds, within_latency
from hyperpruning.search.plan import Plan
from hyperpruning.search.space import SPARSITY, Config, SearchSpace, method_config, settings_of
from hyperpruning.settings import did_you_mean
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import from_config
from hyperpruning.training.config import RECIPE, TrainConfig
from hyperpruning.training.own_loop import complete_config
from hyperpruning.training.task import AnyTask

FIXED = ("epochs", "seed", "device", "threads", "half_life")  # of the training: equal for all networks of a search


@dataclass(frozen=True)
class Configured:
    """How one candidate is trained: the plan with the settings of its config."""

    task: AnyTask
    train: TrainConfig
    method: Method
    sparsity: float


def configured(plan: Plan, config: Config) -> Configured:
    """How a candidate with this config is trained.

    If the config chooses the optimizer, the settings that depend on it (`RECIPE`) and are not in the config have the
    values that suit it.

    Raises:
        ValueError: the training or the task has no such setting, or a value is out of its range.
    """
    assert plan.task is not None
    task, train = plan.task, plan.train
    if chosen := settings_of(config, "task"):
        check_known(chosen, task, "task")
        task = replace(cast(Any, task), **chosen)
    if chosen := settings_of(config, "training"):
        check_known(chosen, train, "training")
        others: dict[str, Any] = {name: None for name in RECIPE if "optimizer" in chosen}
        train = complete_config(task, replace(train, **(others | chosen)))
    method, sparsity = from_config(method_config(config)), float(config.get(SPARSITY, plan.sparsity))
    if plan.latency is not None and plan.step_times is not None:
        method, sparsity = within_latency(method, plan.latency, plan.step_times)
    return Configured(task=task, train=train, method=method, sparsity=sparsity)


def timed(plan: Plan, times: StepTimes) -> Plan:
    """A plan with the measured times; with a latency target the space chooses no allocation, which the times give.

    Raises:
        ValueError: sparsity is searched too, or no weights meet the target.
    """
    if plan.latency is None:
        return replace(plan, step_times=times)
    space = plan.space
    if any("sparsity" in config for config in (space.dimensions, *space.fixed)):
        raise ValueError(
            "sparsity must not be in the search space with a latency target, which gives it, got both. Leave one out."
        )
    target = target_microseconds(plan.latency, times)
    lowest = min(TIMED.values(), key=times.floor)  # if single weights cannot meet the target, blocks may
    shown = next((one for one in TIMED.values() if times.floor(one) <= target), lowest)
    _, sparsity = within_latency(Method(granularity=shown), plan.latency, times)
    without: dict[str, Any] = {
        name: {key: value for key, value in getattr(space, name).items() if key != "allocation"}
        for name in ("dimensions", "conditions", "priors")
    }
    return replace(plan, step_times=times, sparsity=sparsity, space=replace(space, **without))


def check_known(names: Iterable[str], owner: object, section: str) -> None:
    """Check that settings of a config exist and may differ between the candidates of a search.

    Raises:
        ValueError: one does not.
    """
    found = [one.name for one in fields(owner)] if is_dataclass(owner) else []
    known = [name for name in found if name not in FIXED]
    for name in names:
        if name not in known:
            raise ValueError(
                f"A dimension {section}.NAME must be a setting of the {section} other than {', '.join(FIXED)}, got "
                f"{section}.{name}.{did_you_mean(name, known)}"
            )


def constrained(plan: Plan) -> SearchSpace:
    """The space with the constraint that a config can be trained."""

    def can_be_trained(config: Config) -> bool:
        try:
            configured(plan, config)
        except ValueError:
            return False
        return True

    return replace(plan.space, constraints={**plan.space.constraints, "can be trained": can_be_trained})
