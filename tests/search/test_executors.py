"""The same search on every executor has the same ledger, also when a worker or a node dies in the middle."""

import importlib
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from hyperpruning.search import shared_folder
from hyperpruning.search.driver import search
from hyperpruning.search.executors import (
    ClusterError,
    ClusterExecutor,
    check_reachable,
    chosen_executor,
    dask_executor,
    process_pool,
    ray_executor,
    stop,
    workers_of,
)
from hyperpruning.search.history import DENSE, Epoch
from hyperpruning.search.ledger import LEDGER, RunFolderError, read
from hyperpruning.search.worker import run_job
from hyperpruning.testing import check_executor
from hyperpruning.testing.executor import _plan

quiet = pytest.mark.filterwarnings("default")  # clusters leave sockets and loops behind


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A small search, and its ledger in process."""
    folder = tmp_path_factory.mktemp("alone")
    search(_plan(), folder)
    return (folder / LEDGER).read_bytes()


def once_a_candidate_is_trained(do):
    """An observer that does something once, while other candidates are being trained."""
    left = [do]

    def on_fact(fact):
        if isinstance(fact, Epoch) and fact.network != DENSE and left:
            left.pop()()

    return on_fact


@pytest.mark.slow
def test_two_processes(alone, tmp_path):
    with process_pool(2) as pool:
        search(_plan(), tmp_path / "run", executor=pool)
    assert (tmp_path / "run" / LEDGER).read_bytes() == alone


@quiet
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_dask_cluster_of_which_a_worker_dies(alone, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs the extra dask")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with dask_executor(cluster.scheduler_address) as executor:
            pids = [nanny.pid for nanny in cluster.workers.values()]
            kill = once_a_candidate_is_trained(lambda: os.kill(pids.pop(), signal.SIGKILL))
            search(_plan(), tmp_path / "run", executor=executor, on_fact=kill)
        assert len(pids) == 1
    assert (tmp_path / "run" / LEDGER).read_bytes() == alone


@quiet
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_ray_cluster_of_which_a_node_is_removed(alone, tmp_path):
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs the extra ray")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1)]
    try:
        with ray_executor(cluster.address) as executor:
            remove = once_a_candidate_is_trained(lambda: cluster.remove_node(nodes.pop()))
            search(_plan(), tmp_path / "run", executor=executor, on_fact=remove)
        assert not ray.is_initialized()
    finally:
        cluster.shutdown()
    assert not nodes
    assert (tmp_path / "run" / LEDGER).read_bytes() == alone


@quiet
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_any_ray_cluster_is_the_running_one_or_a_new_one(monkeypatch):
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs the extra ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_executor("any", workers=3):
        assert ray.cluster_resources()["CPU"] == 3
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 5, "include_dashboard": False})
    address = cluster.address
    monkeypatch.setenv("RAY_ADDRESS", address)
    try:
        with ray_executor("any", workers=3):
            assert ray.cluster_resources()["CPU"] == 5
    finally:
        cluster.shutdown()
    with pytest.raises(ClusterError, match=f"got no connection to {address}"):
        ray_executor("any")


@quiet
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("make", "package"), [(dask_executor, "distributed"), (ray_executor, "ray")])
def test_local_clusters_pass_the_suite(make, package):
    pytest.importorskip(package, reason=f"needs {package}")
    with make(workers=2) as executor:
        check_executor(executor)
        with pytest.raises(ValueError, match="invalid literal"):
            executor.submit(int, "three").result()


@quiet
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("make", "package"), [(dask_executor, "distributed"), (ray_executor, "ray")])
def test_a_stopped_cluster_waits_for_no_job(make, package):
    pytest.importorskip(package, reason=f"needs {package}")
    executor = make(workers=2)
    jobs = [executor.submit(time.sleep, 600) for _ in range(4)]
    started = time.monotonic()
    stop(executor)
    assert time.monotonic() - started < 60
    for job in jobs:  # which may not have reached the cluster yet; Ray would start another one for it
        assert job.cancelled() or job.exception(timeout=60) is not None
    if package == "ray":
        assert not importlib.import_module("ray").is_initialized()


def test_a_stopped_pool_has_no_process_even_if_it_is_frozen():
    pool = process_pool(1)
    pid = pool.submit(os.getpid).result()
    os.kill(pid, signal.SIGSTOP)
    pool.terminate(patience=0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_cores_are_not_shared_between_processes():
    with process_pool(1, threads=1) as pool:
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
        assert pool.submit(torch.get_num_threads).result() == 1


class Elsewhere(ThreadPoolExecutor):
    """Workers for which the run folder is another folder."""

    def __init__(self, folder):
        super().__init__(1)
        self.folder = folder

    def submit(self, fn, job):
        return super().submit(fn, replace(job, folder=self.folder / "networks" / job.name))


def test_a_worker_that_does_not_see_the_run_folder_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_folder, "SEEN_IN", 0.0)
    with (
        Elsewhere(tmp_path / "other") as executor,
        pytest.raises(RunFolderError, match="All workers must see the run folder of the search, got none or another"),
    ):
        search(_plan(), tmp_path / "run", executor=executor)
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "run" / shared_folder.TOKEN).exists()


def test_a_worker_stops_when_its_driver_has_ended(tmp_path):
    jobs = []

    class Kept(ThreadPoolExecutor):
        def submit(self, fn, job):
            jobs.append(job)
            return super().submit(fn, job)

    with Kept(1) as executor:
        search(_plan(), tmp_path / "run", executor=executor)
    (tmp_path / "run" / shared_folder.TOKEN).write_text(jobs[0].token)

    def replace_driver(record):
        (tmp_path / "run" / shared_folder.TOKEN).write_text("another driver's")

    with pytest.raises(RunFolderError, match="whose driver has ended"):
        run_job(jobs[0], on_epoch=replace_driver)
    assert read(tmp_path / "run").winners


def test_workers_that_join_later_are_counted():
    there = [0]
    with ClusterExecutor(lambda function, *args: function(*args), lambda kill: None, lambda: there[0]) as executor:
        assert workers_of(executor) == 1
        there[0] = 3
        assert workers_of(executor) == 3
        assert executor.submit(len, "four").result() == 4


@pytest.mark.parametrize(("make", "package"), [(dask_executor, "distributed"), (ray_executor, "ray")])
def test_a_cluster_that_cannot_be_reached_is_named(make, package):
    pytest.importorskip(package, reason=f"needs {package}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ClusterError, match=rf"got no connection to {address} \(.*refused\)\. Start it, .*--fallback"):
        make(address)


@pytest.mark.parametrize("address", ["", "host:port", "127.0.0.1:99999"])
def test_an_address_that_is_none(address):
    with pytest.raises(ClusterError, match="must be reachable"):
        check_reachable(address, default_port=1)


def test_fallback_only_if_told_to(caplog):
    pytest.importorskip("distributed", reason="needs the extra dask")
    with pytest.raises(ClusterError, match=r"got no connection to 127\.0\.0\.1:1 "):
        chosen_executor(2, dask="127.0.0.1:1")
    assert chosen_executor(1, dask="127.0.0.1:1", fallback=True) is None
    assert "got no connection to 127.0.0.1:1 " in caplog.text
    assert "Training in 1 processes of this machine." in caplog.text
    with pytest.raises(ValueError, match="must run on one cluster, got --dask local and --ray auto"):
        chosen_executor(2, dask="local", ray="auto")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ClusterError, match=r"the package ray, got none. Install it: pip install 'hyperpruning\[ray\]'"):
        ray_executor()
