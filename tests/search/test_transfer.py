"""Checkpoints that travel with their jobs: the ledger and the run folder are those of a shared folder."""

import itertools
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from hyperpruning.exports import write_models
from hyperpruning.report.page import write_report
from hyperpruning.search.driver import search
from hyperpruning.search.executors import chosen_executor, dask_executor, stop, transfer_executor, workers_of
from hyperpruning.search.history import DENSE, Epoch
from hyperpruning.search.ledger import LEDGER, RunFolderError
from hyperpruning.search.transfer import MB, pack, run_parcel, unpack
from hyperpruning.search.worker import job_for, run_job
from hyperpruning.testing import check_executor
from hyperpruning.testing.executor import _plan
from hyperpruning.training.checkpoint import intact_checkpoints


class Posted(ThreadPoolExecutor):
    """A worker to which a job goes as bytes, and from which only bytes return; no byte names the run folder."""

    workers = 1

    def __init__(self, folder):
        super().__init__(1)
        self.folder, self.sizes = folder, []

    def submit(self, fn, *args):
        sent = pickle.dumps((fn, args))
        assert str(self.folder).encode() not in sent
        return super().submit(self._done, sent)

    def _done(self, sent):
        fn, args = pickle.loads(sent)
        back = pickle.dumps(fn(*args))
        self.sizes.append(len(back))
        return pickle.loads(back)


def contents(folder: Path) -> dict[str, bytes]:
    """What a run leaves: the ledger, the models, and the name of each network's newest checkpoint."""
    kept = {path.name: path.read_bytes() for path in (*folder.glob("*.safetensors"), folder / LEDGER)}
    newest = {one.name: max(file.name for file in one.iterdir()) for one in folder.glob("networks/*")}
    return kept | {name: file.encode() for name, file in newest.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What a search in process leaves."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    write_models(_plan(), search(_plan(), folder), folder)
    return contents(folder)


def searched(folder, plan=None, *, max_mb=1.0, on_fact=None):
    """A search whose worker is elsewhere, and its models."""
    with transfer_executor(Posted(folder), max_mb=max_mb) as executor:
        history = search(plan or _plan(), folder, executor=executor, on_fact=on_fact)
    write_models(_plan(), history, folder)
    return history


def test_what_a_search_leaves_is_the_same(alone, tmp_path):
    searched(tmp_path / "run")
    assert contents(tmp_path / "run") == alone
    assert write_report(tmp_path / "run").is_file()
    kept = list(intact_checkpoints(tmp_path / "run" / "networks" / DENSE))
    assert [sidecar.epoch for _, sidecar in kept] == [2, 1]


def test_a_driver_that_ends_at_any_fact_continues(alone, tmp_path):
    class Ended(Exception):
        pass

    for count in (1, 5, 9, 13):
        left = [None] * count

        def end(fact, left=left):
            left.pop()
            if not left:
                raise Ended

        folder = tmp_path / str(count)
        with pytest.raises(Ended):
            searched(folder, on_fact=end)
        searched(folder)
        assert contents(folder) == alone


def test_a_search_continues_with_and_without_a_shared_folder(alone, tmp_path):
    class Ended(Exception):
        pass

    def end(fact):
        if isinstance(fact, Epoch) and fact.network == "c02":
            raise Ended

    with pytest.raises(Ended):
        searched(tmp_path / "run", on_fact=end)
    write_models(_plan(), search(_plan(), tmp_path / "run"), tmp_path / "run")
    assert contents(tmp_path / "run") == alone


def done(job, max_mb=1.0):
    """A job, elsewhere and back."""
    return unpack(run_parcel(pack(job, max_mb)), job, max_mb)


def test_of_two_checkpoints_the_intact_one_is_sent(tmp_path):
    job = job_for(_plan(), tmp_path, None, 2)
    done(replace(job, until=1))
    first = done(job)
    (newest, _), (before, _) = intact_checkpoints(job.folder)
    (job.folder / f"{newest.stem}.pt").write_bytes(newest.tensors[:-7])
    assert pack(job, 1.0).checkpoint == before
    assert done(job).final == first.final
    assert next(intact_checkpoints(job.folder))[0].stem == newest.stem


def test_a_checkpoint_that_arrives_damaged_is_not_written(tmp_path):
    job = job_for(_plan(), tmp_path, None, 1)
    reply = run_parcel(pack(job, 1.0))
    damaged = replace(reply.checkpoint, tensors=reply.checkpoint.tensors[:-1] + b"x")
    with pytest.raises(RunFolderError, match="must arrive as it was sent, got a damaged one of dense: its SHA-256"):
        unpack(replace(reply, checkpoint=damaged), job, 1.0)
    assert not job.folder.exists()


def test_a_checkpoint_that_is_too_large_is_said_before_anything_is_trained(tmp_path):
    says = (
        r"must have at most 0.001 MB, got 0\.\d+ MB for dense\. Resume with a larger --transfer-mb \(max_mb of "
        r"transfer_executor\), or without it"
    )
    with pytest.raises(RunFolderError, match=says):
        searched(tmp_path / "run", max_mb=0.001)
    assert not list((tmp_path / "run" / "networks").glob("*/*.pt"))


def test_one_that_grows_too_large_costs_its_epoch_alone(alone, tmp_path):
    job = job_for(_plan(), tmp_path / "one", None, 2)
    reply = run_parcel(pack(job, 1.0))
    assert reply.too_large is None
    sizes = {0: run_parcel(pack(replace(job, until=0), 1.0)).checkpoint.size, 2: reply.checkpoint.size}
    assert sizes[0] < sizes[2]
    limit = (sizes[0] + sizes[2]) / 2 / MB
    with pytest.raises(RunFolderError, match=f"at most {limit:g} MB"):
        searched(tmp_path / "run", max_mb=limit)
    small = next(intact_checkpoints(tmp_path / "run" / "networks" / DENSE))
    assert small[0].size <= limit * MB
    with pytest.raises(RunFolderError, match="got"):  # again: what is there fits, what comes does not
        searched(tmp_path / "run", max_mb=limit)
    searched(tmp_path / "run")
    assert contents(tmp_path / "run") == alone
    with pytest.raises(RunFolderError, match="for dense"):
        pack(replace(job, folder=tmp_path / "run" / "networks" / DENSE), limit)


class AfterThreeSteps:
    """A deadline that is over after three steps of each job."""

    def clock(self):
        asked = itertools.count()
        return lambda: next(asked) >= 3


def test_time_that_is_up_brings_the_running_step_back(tmp_path):
    job = job_for(_plan(), tmp_path / "here", None, 2)
    expected, stems = run_job(job), []
    limited = replace(job, folder=tmp_path / "there" / DENSE, deadline=AfterThreeSteps())
    while (result := done(limited)).paused:
        stems.append(next(intact_checkpoints(limited.folder))[0].stem)
    assert result.final == expected.final
    assert [stem.split("-step-")[0] for stem in stems] == ["epoch-0000", "epoch-0001", "epoch-0001"]


def test_the_option_belongs_to_a_cluster():
    with pytest.raises(ValueError, match="--transfer-mb must come with --dask or --ray, got 5 alone"):
        chosen_executor(2, transfer_mb=5)
    with pytest.raises(ValueError, match="max_mb must be above 0, got 0"):
        transfer_executor(Posted("x"), max_mb=0)
    with transfer_executor(Posted("x"), max_mb=1) as executor:
        assert workers_of(executor) == 1
        assert executor.submit(len, (1, 2)).result() == 2


def blind(folder: Path, elsewhere: Path) -> None:
    """From now on this process works elsewhere, and dies when it touches the run folder."""

    def hook(event, args):
        if any(str(folder) in os.fsdecode(arg) for arg in args if isinstance(arg, str | bytes | os.PathLike)):
            os.kill(os.getpid(), signal.SIGKILL)

    os.chdir(elsewhere)
    sys.addaudithook(hook)


def blind_pool(folder: Path, elsewhere: Path) -> ProcessPoolExecutor:
    elsewhere.mkdir(exist_ok=True)
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=blind, initargs=(folder, elsewhere))


@pytest.mark.slow
def test_processes_that_die_when_they_touch_the_run_folder(alone, tmp_path):
    pool = blind_pool(tmp_path / "run", tmp_path / "elsewhere")
    with transfer_executor(pool, max_mb=1) as executor:
        write_models(_plan(), search(_plan(), tmp_path / "run", executor=executor), tmp_path / "run")
    assert contents(tmp_path / "run") == alone
    with blind_pool(tmp_path / "run", tmp_path / "elsewhere") as pool, pytest.raises(Exception, match="terminated"):
        pool.submit(os.listdir, tmp_path / "run").result()


DRIVER = """
import sys
from pathlib import Path
from hyperpruning.search.driver import search
from hyperpruning.search.executors import transfer_executor
from hyperpruning.testing.executor import _plan
from test_transfer import Posted

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with transfer_executor(Posted(folder), max_mb=1) as executor:
        search(_plan(), folder, executor=executor)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "point", ["files.replace:9", "checkpoint.sidecar:14", "checkpoint.remove:8", "ledger.append:9"]
)
def test_a_driver_that_is_killed(point, alone, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    for fault, code in ((f"{point}:kill", -signal.SIGKILL), ("", 0)):
        more = {"HYPERPRUNE_FAULT": fault} if fault else {}
        command = [sys.executable, "-c", DRIVER, str(tmp_path / "run")]
        ran = subprocess.run(command, env=environment | more, capture_output=True, text=True, check=False)
        assert ran.returncode == code, ran.stderr
    assert (tmp_path / "run" / LEDGER).read_bytes() == alone[LEDGER]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")  # clusters leave sockets and loops behind
def test_a_dask_cluster_elsewhere_of_which_a_worker_dies(alone, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs the extra dask")
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        elsewhere.mkdir()
        with distributed.Client(cluster) as client:
            client.run(blind, run, elsewhere)
        pids = [nanny.pid for nanny in cluster.workers.values()]

        def kill(fact):
            if isinstance(fact, Epoch) and fact.network != DENSE and len(pids) == 2:
                os.kill(pids.pop(), signal.SIGKILL)

        with transfer_executor(dask_executor(cluster.scheduler_address), max_mb=1) as executor:
            assert workers_of(executor) == 2
            history = search(_plan(), run, executor=executor, on_fact=kill)
        assert len(pids) == 1
    write_models(_plan(), history, run)
    assert contents(run) == alone


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")
def test_a_local_cluster_passes_the_suite():
    pytest.importorskip("distributed", reason="needs the extra dask")
    executor = chosen_executor(2, dask="local", transfer_mb=1)
    check_executor(executor)
    stop(executor)
