"""What the networks of a search cost where they run: counts, and times on this machine, before and after a search."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import torch
from torch import Generator, nn

from hyperpruning.deploy.benchmark import product_microseconds, step_microseconds
from hyperpruning.deploy.compiler import CompilerError
from hyperpruning.deploy.costs import compact_bytes, multiply_adds
from hyperpruning.report.costs import Costs, read_costs, write_costs
from hyperpruning.search.configured import timed
from hyperpruning.search.driver import job_of
from hyperpruning.search.history import History, candidate_and_seed
from hyperpruning.search.latency import MIN_DENSITY, TIMED, StepTimes
from hyperpruning.search.ledger import LEDGER, read
from hyperpruning.search.plan import Plan, recorded_plan
from hyperpruning.search.worker import narrowed, stored_weights
from hyperpruning.sparsity.parameter import Granularity
from hyperpruning.training.pruning import cost_of

LEVELS = 11  # densities at which steps are measured, from 1 to MIN_DENSITY, each the same part of the one before


def costs(network: nn.Module) -> Costs:
    """What a network costs where it runs: multiply-adds of a step and bytes of its compact files, in exact counts.

    Args:
        network: any module; its weights are what is counted, on the CPU.

    >>> costs(nn.LSTM(2, 3)).multiply_adds  # W (12, 2) and R (12, 3)
    60
    """

    def stored(precision: str) -> int | None:
        try:
            return compact_bytes(network, precision)
        except ValueError:  # inf in int8, or a dtype that no file holds
            return None

    return Costs(multiply_adds(network), stored("exact"), stored("int8"))


def record_costs(plan: Plan, history: History, folder: Path) -> None:
    """Write the costs of the finished networks of a search into its run folder; those that are there stay.

    Args:
        plan: of the search.
        history: the content of its ledger.
        folder: the run folder.
    """
    known, found = read_costs(folder), dict[str, Costs]()
    for name in finished_networks(history):
        sha256 = history.finals[name].sha256
        if sha256 in known:
            found[sha256] = known[sha256]
        elif (network := stored_network(plan, history, folder, name)) is not None:
            found[sha256] = costs(network)
    if found != known:
        write_costs(folder, found)


def step_times(plan: Plan, history: History, folder: Path) -> dict[str, float]:
    """The microseconds of a step of each finished network here, by its name; see `step_microseconds`.

    Args:
        plan, history, folder: as of `record_costs`.

    Raises:
        TypeError: networks that the decoder does not know.
    """
    networks = {name: stored_network(plan, history, folder, name) for name in finished_networks(history)}
    known = {name: one for name, one in networks.items() if one is not None}
    return step_microseconds(known, precision=plan.latency_precision)


def finished_networks(history: History) -> list[str]:
    """The networks that are trained to the end; of a finalist with several seeds the first training."""
    return [name for name in history.finals if candidate_and_seed(name)[1] == 1]


def stored_network(plan: Plan, history: History, folder: Path, name: str) -> nn.Module | None:
    """A finished network with its best weights, in evaluation mode; None if its checkpoint is lost.

    Nothing is trained again.
    """
    job = narrowed(job_of(plan, folder, history, name, plan.train.epochs))
    weights = stored_weights(job, history.finals[name].sha256)
    if weights is None:
        return None
    network = job.task.network(job.train.seed)
    network.load_state_dict(weights)
    return network.eval()


def with_step_times(plan: Plan, folder: Path | None = None) -> Plan:
    """A plan with the measured times that it needs; a plan that needs none, or has them, as it is.

    Args:
        plan: of a search.
        folder: its run folder, whose ledger has the times once the search has begun; else they are measured here.

    Raises:
        ValueError: the decoder does not know the network, or is not compiled, or the target cannot be met.
    """
    if not plan.needs_step_times or plan.step_times is not None:
        return plan
    header = read(folder).header if folder is not None and (folder / LEDGER).exists() else None
    known = None if header is None else recorded_plan(header.identity).step_times
    return timed(plan, measure_step_times(plan) if known is None else known)


def measure_step_times(plan: Plan) -> StepTimes:
    """Measure what a step of the decoder takes with the network of a plan, at several densities, on this machine.

    At each density the network's prunable matrices get random masks, of single weights and of blocks of 8 x 4. Whole
    steps are measured, and the products in them; the products are scaled so that with `StepTimes.rest` they give
    the measured step.

    Args:
        plan: of a search; its task's network must be one that `Decoder` knows.

    Raises:
        ValueError: it is not, or there is no compiled kernel.
    """
    assert plan.task is not None
    network = plan.task.network(plan.train.seed).cpu().eval()
    cost = cost_of(plan.task, network, plan.train)
    prunable = {name: weight for name, weight in network.named_parameters() if cost(name, weight)}
    names = {weight: name for name, weight in prunable.items()}
    matrices = {name: names[one] for name, one in network.named_parameters(remove_duplicate=False) if one in names}
    densities = [MIN_DENSITY ** (level / (LEVELS - 1)) for level in range(LEVELS)]
    copies, generator = [network], Generator().manual_seed(0)
    weights = {name: [max(1, round(one.numel() * density)) for density in densities] for name, one in prunable.items()}
    for granularity, level in product(TIMED.values(), range(1, LEVELS)):
        counts = {name: of[level] for name, of in weights.items()}
        copies.append(randomly_masked(network, counts, granularity, generator))
    try:
        found = product_microseconds(copies, plan.latency_precision)
    except (TypeError, CompilerError) as error:
        raise ValueError(f"A latency must be that of a network in the compiled decoder, got none: {error}") from None
    steps = [step for step, _ in found]
    call = min(time for _, of in found for time in of.values())  # Python's, of a product by itself; a step has one
    products = [{matrices[name]: time - call for name, time in of.items() if name in matrices} for _, of in found]
    rest = max(0.0, min(step - math.fsum(of.values()) for step, of in zip(steps, products, strict=True)))
    scaled = [
        {name: time * (step - rest) / (math.fsum(of.values()) or 1.0) for name, time in of.items()}
        for step, of in zip(steps, products, strict=True)
    ]
    levels = {key: [scaled[0], *scaled[1 + place * (LEVELS - 1) :][: LEVELS - 1]] for place, key in enumerate(TIMED)}
    return StepTimes(
        precision=plan.latency_precision,
        rest=rest,
        weights=weights,
        products={key: {name: _falling([one[name] for one in of]) for name in scaled[0]} for key, of in levels.items()},
    )


def _falling(times: list[float]) -> list[float]:
    """The times, each at least the next one: where noise says that fewer weights take longer, as long as these."""
    return [max(times[place:]) for place in range(len(times))]


@torch.no_grad()
def randomly_masked(
    network: nn.Module, counts: Mapping[str, int], granularity: Granularity, generator: Generator
) -> nn.Module:
    """A copy of a network with about so many weights in some of its matrices, in blocks at random places.

    Args:
        network: any module.
        counts: active weights by the name of the matrix; at least one block is left.
        granularity: of the blocks.
        generator: on the CPU.
    """
    copied, blocks = copy.deepcopy(network), (granularity.rows, granularity.columns)
    for name, count in counts.items():
        weight = copied.get_parameter(name)
        rows, columns = (-(-size // block) for size, block in zip(weight.shape, blocks, strict=True))
        kept = max(1, round(count / weight.numel() * rows * columns))
        places = torch.randperm(rows * columns, generator=generator)[:kept]
        chosen = torch.zeros(rows * columns).index_fill_(0, places, 1)
        mask = chosen.view(rows, columns).repeat_interleave(blocks[0], 0).repeat_interleave(blocks[1], 1)
        weight.mul_(mask[: weight.shape[0], : weight.shape[1]])
    return copied
