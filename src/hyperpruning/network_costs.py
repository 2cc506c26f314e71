"""What the finished networks of a search cost where they run: counts, and times where they are asked for."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from hyperpruning.deploy.benchmark import step_microseconds
from hyperpruning.deploy.costs import compact_bytes, multiply_adds
from hyperpruning.report.costs import Costs, read_costs, write_costs
from hyperpruning.search.driver import job_of
from hyperpruning.search.history import History, candidate_and_seed
from hyperpruning.search.plan import Plan
from hyperpruning.search.worker import narrowed, stored_weights


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
    return step_microseconds({name: one for name, one in networks.items() if one is not None})


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
