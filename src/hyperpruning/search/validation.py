"""All checks of a plan before anything is written or trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from hyperpruning.lyapunov.config import SpectrumConfig
from hyperpruning.lyapunov.spectrum import check_has_spectrum
from hyperpruning.search.configured import Configured, check_known, configured
from hyperpruning.search.plan import Plan
from hyperpruning.search.references import FrozenDense
from hyperpruning.search.space import settings_of
from hyperpruning.sparsity.costs import multiply_adds
from hyperpruning.sparsity.method import Method
from hyperpruning.training.checks import check_promises, recurrent_part
from hyperpruning.training.device import device_of
from hyperpruning.training.pruning import method_checker
from hyperpruning.training.task import AnyTask

MAX_NETWORKS = 8  # of a space with settings of the task that are built before anything is trained
MAX_CHECKED = 1000  # configs of the space that are checked before anything is trained; larger spaces are sampled


def validate(plan: Plan) -> None:
    """Check a plan before anything is written or trained; all checks are here.

    Raises:
        ValueError: the rounds are invalid, or the space has an unknown name or too few valid methods, or a method does
            not fit the task.
    """
    if plan.task is None or plan.dense_task is None:
        raise ValueError("A plan must have a task and a dense_task, got None (as in a plan from a ledger). Give both.")
    plan.space.check_names()
    check_rounds(n_candidates=plan.n_candidates, rungs=plan.rungs, keep=plan.keep, epochs=plan.train.epochs)
    device_of(plan.train.device)
    for task in (plan.task, plan.dense_task):
        task.steps(0, plan.train.seed)
    if isinstance(plan.dense, Path):
        raise ValueError(f"dense must be weights here, got the file {plan.dense}. Call hp.hyperprune, which reads it.")
    if isinstance(plan.dense, FrozenDense):
        plan.dense.load_into(plan.dense_task.network(plan.train.seed))
    network = check_promises(plan.task, plan.train.seed)
    _check_costs(plan, network)
    _check_spectrum(plan.task, network, plan.spectrum)
    if type(plan.dense_task) is not type(plan.task):  # of one class, they differ in settings such as the dropout
        _check_spectrum(plan.dense_task, check_promises(plan.dense_task, plan.train.seed), plan.spectrum)
    _check_space(plan, network)


def _check_spectrum(task: AnyTask, network: nn.Module, config: SpectrumConfig) -> None:
    """Check that a network has the spectrum that the plan asks for, e.g. that the warm-up is not too long."""
    network.eval()
    with torch.no_grad():
        recurrent, probe = recurrent_part(task, network)
    check_has_spectrum(recurrent, probe, state=config.state, warmup=config.warmup)
    network.train()


def _check_costs(plan: Plan, network: nn.Module) -> None:
    """Check that the second objective and the latency target can be computed for the network."""
    if "multiply_adds" in plan.objectives:
        multiply_adds(network)  # raises an error for convolutions
    if plan.needs_step_times and plan.step_times is None:
        raise ValueError(
            "A plan with a latency must have step_times here, got None. Call hp.hyperprune, which measures them."
        )


def _check_space(plan: Plan, network: nn.Module) -> None:
    """Check that the methods of the space fit the task at each sparsity, and the networks of some of its tasks."""
    assert plan.task is not None
    checks: dict[float, Callable[[Method], None]] = {}
    networks = {canonical_task(plan.task)}
    for one in _valid_configs(plan):
        if one.sparsity not in checks:
            checks[one.sparsity] = method_checker(plan.task, network, plan.train, sparsity=one.sparsity)
        checks[one.sparsity](one.method)
        if len(networks) < MAX_NETWORKS and (key := canonical_task(one.task)) not in networks:
            networks.add(key)
            other = one.task.network(plan.train.seed)
            if plan.step_times is not None and _shapes(other) != _shapes(network):
                raise ValueError(
                    "All networks must have the sizes whose step was measured with a latency, got others in the "
                    "search space. Leave settings of the task that change sizes out of it."
                )
        until = one.train.epochs_in(one.method.final_density_at)
        if until > plan.rungs[0]:
            raise ValueError(
                "Every density schedule must end before the first rung, since candidates are compared at equal "
                f"density, got one that ends after epoch {until} with rungs = {list(plan.rungs)}. Raise rungs, or "
                "leave out methods with a density schedule."
            )


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in network.named_parameters()}


def canonical_task(task: AnyTask) -> str:
    """A text that is equal for equal tasks."""
    return json.dumps(task.identity(), sort_keys=True, default=str)


def _valid_configs(plan: Plan) -> list[Configured]:
    """The valid configs of the space; of a large space, those of a random sample."""
    found, invalid = [], ""
    for config in (*plan.space.fixed, *plan.space.configs(MAX_CHECKED)):
        for owner, of in (("training", plan.train), ("task", plan.task)):
            check_known(settings_of(config, owner), of, owner)
        try:
            if all(constraint(config) for constraint in plan.space.constraints.values()):
                found.append(configured(plan, config))
        except ValueError as error:
            invalid = invalid or f" (first invalid one: {error})"
    if len(found) < (plan.n_candidates if plan.space.size() <= MAX_CHECKED else 1):
        raise ValueError(
            f"The search space must have at least n_candidates = {plan.n_candidates} valid methods, got {len(found)}"
            f"{invalid}. Lower n_candidates or widen [space]."
        )
    return found


def check_rounds(*, n_candidates: int, rungs: Sequence[int], keep: Sequence[int], epochs: int) -> None:
    """Check the rounds of a search.

    Args:
        n_candidates: number of candidates before the first round.
        rungs: epochs after which candidates are compared.
        keep: number of candidates that each criterion keeps at each rung.
        epochs: length of a full training.

    Raises:
        ValueError: a round eliminates all candidates or none, or a rung is not before the last epoch.
    """
    if n_candidates < 2:
        raise ValueError(f"n_candidates must be at least 2, got {n_candidates}. Raise it.")
    if not rungs or len(rungs) != len(keep):
        raise ValueError(
            f"rungs and keep must have one entry for each round, got {len(rungs)} and {len(keep)} entries. "
            "Make them equally long."
        )
    if list(rungs) != sorted(set(rungs)) or rungs[0] < 0 or rungs[-1] >= epochs:
        raise ValueError(
            f"rungs must increase and lie between 0 and epochs - 1 = {epochs - 1}, got {list(rungs)}. "
            "Change rungs or epochs."
        )
    if keep[-1] < 1:
        raise ValueError(f"keep must end with at least 1 finalist, got {list(keep)}. Raise its last entry.")
    if any(after >= before for before, after in pairwise([n_candidates, *keep])):
        raise ValueError(
            f"keep must decrease from below n_candidates = {n_candidates}, got {list(keep)}. "
            "Let every round eliminate at least one candidate."
        )
