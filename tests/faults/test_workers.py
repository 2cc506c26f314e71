"""What happens to worker processes: killed, frozen, out of memory, out of time; one network is affected, no other."""

import logging
import os
import resource
import signal
import threading
import time
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import hyperpruning.search.driver as driver
from hyperpruning.report.run import read_run
from hyperpruning.search.driver import KILLED, search
from hyperpruning.search.executors import process_pool, stop
from hyperpruning.search.ledger import LEDGER, RunFolderError, locked, read
from hyperpruning.search.worker import NO_MEMORY, job_for, run_job
from hyperpruning.testing.executor import _plan
from hyperpruning.testing.tiny_task import TinyTask
from hyperpruning.training.checkpoint import newest_records


def kill_self_once(marker: Path) -> str:
    """Die, when it is called for the first time."""
    if not marker.exists():
        marker.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return "lives"


def limited(job):
    """Train with at most 200 MiB more memory than now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 200 * 2**20, before[1]))
    try:
        return run_job(job)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@dataclass(frozen=True)
class Harmful(TinyTask):
    """A task that harms the process that trains a pruned network of the given candidate, in the given way."""

    marker: str = ""
    harm: str = ""

    def loss(self, network, batch, carry):
        if self.harm == "slow":
            time.sleep(0.2)
        elif self.harm and (network.rnn.weight_hh_l0 == 0).any() and not self._done():
            Path(self.marker).write_text("")
            if self.harm == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            torch.empty(2**46)
        return super().loss(network, batch, carry)

    def _done(self):
        return self.harm in ("killed", "memory") and Path(self.marker).exists()

    def identity(self):
        return {"task": "harmful"}


def harmful(**options):
    task = Harmful(**options)
    return replace(_plan(), task=task, dense_task=Harmful(), as_many_weights=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The ledger of the search without harm."""
    folder = tmp_path_factory.mktemp("whole")
    search(harmful(), folder)
    return (folder / LEDGER).read_bytes()


@pytest.fixture(scope="module")
def pool():
    with process_pool(2) as pool:
        yield pool


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_its_call_alone_fails(pool, tmp_path):
    slow = pool.submit(time.sleep, 0.5)
    with pytest.raises(BrokenExecutor):
        pool.submit(kill_self_once, tmp_path / "marker").result()
    assert slow.result() is None
    assert {pool.submit(kill_self_once, tmp_path / "marker").result() for _ in range(3)} == {"lives"}


def test_a_network_whose_process_was_killed_is_trained_once_more(pool, whole, tmp_path, caplog):
    plan = harmful(harm="killed", marker=str(tmp_path / "marker"))
    with caplog.at_level(logging.WARNING):
        search(plan, tmp_path / "run", executor=pool)
    assert "was killed. It is started once more." in caplog.text
    assert (tmp_path / "run" / LEDGER).read_bytes() == whole


def test_killed_twice_a_candidate_fails_alone(tmp_path):
    class Deadly(driver.Executor):
        def submit(self, fn, job):
            future = driver.Future()
            if job.name == "c02":
                future.set_exception(BrokenExecutor())
            else:
                future.set_result(fn(job))
            return future

    history = search(harmful(), tmp_path / "run", executor=Deadly())
    assert history.failures == {"c02": KILLED}
    assert history.winners


def test_a_dense_network_whose_process_is_killed_twice_is_said_and_not_recorded(tmp_path):
    class Deadly(driver.Executor):
        def submit(self, fn, job):
            future = driver.Future()
            future.set_exception(BrokenExecutor())
            return future

    with pytest.raises(ValueError, match="Its worker process was killed twice, possibly because memory was full"):
        search(_plan(), tmp_path / "run", executor=Deadly())
    assert not read(tmp_path / "run").failures


def test_frozen_and_thawed_processes_change_nothing(pool, whole, tmp_path):
    ids = pool.process_ids()

    def freeze():
        for pid in ids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1.0)
        for pid in ids:
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=freeze)

    def begin(fact):
        if not thread.ident and type(fact).__name__ == "Epoch":
            thread.start()

    search(harmful(), tmp_path / "run", executor=pool, on_fact=begin)
    thread.join()
    assert (tmp_path / "run" / LEDGER).read_bytes() == whole


def test_a_candidate_that_exhausts_the_memory_fails_alone(tmp_path):
    history = search(harmful(harm="memory", marker=str(tmp_path / "marker")), tmp_path / "run")
    assert list(history.failures.values()) == [NO_MEMORY]
    assert len(history.candidates) == 3
    assert history.winners


def test_a_memory_limit_of_a_process_is_a_failure_of_the_network(pool, tmp_path):
    plan = replace(_plan(), task=TinyTask(length=20_000_000), dense_task=TinyTask(length=20_000_000))
    result = pool.submit(limited, job_for(plan, tmp_path, None, 1)).result()
    assert result.failure == NO_MEMORY


def test_a_budget_of_time_holds_in_processes_and_the_ledger_stays_in_order(pool, whole, tmp_path):
    folder = tmp_path / "run"
    search(replace(harmful(), max_hours=0.02 / 3600), folder, executor=pool)  # 0.2 s were enough on a fast machine
    assert not read_run(folder).finished
    assert whole.startswith((folder / LEDGER).read_bytes())
    search(harmful(), folder, executor=pool)
    assert (folder / LEDGER).read_bytes() == whole


def test_two_drivers_of_one_folder_exclude_each_other(tmp_path):
    with locked(tmp_path), pytest.raises(RunFolderError, match="must be used by one search at a time"):
        search(_plan(), tmp_path)
    search(_plan(), tmp_path)


def test_a_stopped_pool_has_saved_the_running_steps(pool, tmp_path):
    """A network of which each step takes 0.2 seconds: SIGTERM comes within an epoch. The last test of the pool."""
    ids = pool.process_ids()
    plan = replace(_plan(), task=Harmful(harm="slow"), dense_task=Harmful(harm="slow"))
    job = job_for(plan, tmp_path, None, 2)
    pool.submit(run_job, job)
    deadline = time.monotonic() + 60
    while not newest_records(job.folder) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    stop(pool)
    assert list(job.folder.glob("epoch-000?-step-*.pt"))
    assert ids
    assert not any(Path(f"/proc/{pid}").exists() for pid in ids)
