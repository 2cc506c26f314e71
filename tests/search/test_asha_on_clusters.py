"""ASHA on clusters of two workers: it ends, also killed and resumed, and its ledger justifies each of its decisions."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest

from hyperpruning.search.actions import Finish, Record
from hyperpruning.search.driver import ask, search
from hyperpruning.search.executors import dask_executor, process_pool, ray_executor, transfer_executor, workers_of
from hyperpruning.search.history import DENSE, Candidate, Epoch, FinalResult, History, Promotion, RoundDecision, Winner
from hyperpruning.search.ledger import LEDGER, LedgerReader
from hyperpruning.search.schedulers import decide, observations
from hyperpruning.testing.executor import _plan

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),
]  # clusters leave sockets


def asha_plan():
    """Eight candidates, rungs after 1, 2 and 4 of 6 epochs, by two criteria."""
    changes = {"scheduler": "asha", "reduction_factor": 2, "n_candidates": 8, "criteria": ("loss", "ls")}
    return replace(_plan(), train=replace(_plan().train, epochs=6), **changes)


def check_decisions(plan, folder):
    """Replay the ledger: each decision is what `decide` says of the lines before it, and each epoch was asked for."""
    history, following, kinds = History(), [*plan.rungs[1:], plan.train.epochs], []
    for fact in list(LedgerReader(folder).new_facts()):
        match fact:
            case Candidate(name, batch) if name not in history.candidates:
                configs = ask(plan, batch, observations(plan, history, batch))
                assert fact.config in configs, f"{name} was not suggested"
            case Promotion() | RoundDecision():
                assert Record(fact) in decide(plan, history), f"{fact} does not follow from what was known"
            case Winner(criterion, network):
                (finish,) = (one for one in decide(plan, history) if isinstance(one, Finish))
                assert finish.winners[criterion] == network
            case Epoch(network, record) if network in history.candidates:
                promoted = [number for (_, number), names in history.promotions.items() if network in names]
                asked = max((following[number] for number in promoted), default=plan.rungs[0])
                assert record.epoch <= asked, f"epoch {record.epoch} of {network} was not asked for"
                assert record.epoch not in history.epochs.get(network, {}), "an epoch is recorded twice"
            case FinalResult(network):
                assert history.trained(network) == plan.train.epochs
        history.add(fact)
        kinds.append(type(fact))
    assert decide(plan, history) == []
    assert set(history.winners) == set(plan.criteria)
    assert kinds.count(Candidate) == len(history.candidates) == plan.n_candidates
    assert kinds.count(Promotion) > len(plan.rungs)
    assert kinds.count(Winner) == len(plan.criteria)
    return history


@contextmanager
def dask_cluster():
    distributed = pytest.importorskip("distributed", reason="needs the extra dask")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


@contextmanager
def ray_cluster():
    pytest.importorskip("ray", reason="needs the extra ray")
    utils = pytest.importorskip("ray.cluster_utils", reason="needs the extra ray")
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


@contextmanager
def processes():
    yield 2


KINDS = {
    "processes": (processes, process_pool),
    "dask": (dask_cluster, dask_executor),
    "ray": (ray_cluster, ray_executor),
}
DRIVER = """
import sys
from pathlib import Path
from hyperpruning.search.driver import search
from test_asha_on_clusters import KINDS, asha_plan, executor_of

if __name__ == "__main__":
    kind, address, transfer, folder = sys.argv[1:]
    with executor_of(kind, int(address) if address.isdigit() else address, transfer == "True") as executor:
        search(asha_plan(), Path(folder), executor=executor)
"""


def executor_of(kind, address, transfer):
    executor = KINDS[kind][1](address)
    return transfer_executor(executor, max_mb=1) if transfer else executor


@pytest.mark.parametrize(
    ("kind", "transfer"), [("processes", False), ("dask", False), ("dask", True), ("ray", False), ("ray", True)]
)
def test_a_search_that_is_killed_and_resumed(kind, transfer, tmp_path):
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    with KINDS[kind][0]() as address:
        command = [sys.executable, "-c", DRIVER, kind, str(address), str(transfer), str(tmp_path)]
        for line in (14, 14):  # killed before this one of the lines that the driver writes
            environment = {**os.environ, "PYTHONPATH": path, "HYPERPRUNE_FAULT": f"ledger.append:{line}:kill"}
            ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert ran.returncode == -signal.SIGKILL, ran.stderr
        before = (tmp_path / LEDGER).read_bytes()
        assert before.count(b"\n") == 26
        with executor_of(kind, address, transfer) as executor:
            assert workers_of(executor) == 2
            search(asha_plan(), tmp_path, executor=executor)
    assert (tmp_path / LEDGER).read_bytes().startswith(before)
    assert check_decisions(asha_plan(), tmp_path).trained(DENSE) == 6
