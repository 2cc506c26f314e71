"""Executors that train candidates: processes of this machine, a Dask cluster, a Ray cluster.

Each is a `concurrent.futures.Executor`, and any other one works too. Without an executor a search trains in its own
process. The ledger of a search does not depend on its executor.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from hyperpruning.search.transfer import pack, run_parcel, unpack
from hyperpruning.search.worker import run_job
from hyperpruning.search.worker_pool import WorkerPool

logger = logging.getLogger(__name__)
LOCAL = "local"
ANY = "any"
REACHED_IN = 10.0  # seconds in which the scheduler of a cluster must answer
IN_FLIGHT = 256  # jobs that are handed to a cluster at the same time
TRAVELLING = 32  # the same if their checkpoints travel, which are all in memory then


class ClusterError(RuntimeError):
    """A cluster that cannot be used: its package is missing, it cannot be reached, or its workers do not fit."""


def process_pool(workers: int, *, threads: int | None = None) -> WorkerPool:
    """A pool of processes of this machine, each of which trains one network at a time.

    Args:
        workers: number of processes.
        threads: of the numerical libraries in each process, outside the training, which has its own setting; None: the
            processor's cores divided by the workers, so that they do not share cores.
    """
    return WorkerPool(workers, threads=threads or max(1, (os.cpu_count() or 1) // workers))


def dask_executor(address: str = LOCAL, *, workers: int = 2) -> Executor:
    """An executor over a Dask cluster; a job of a worker that dies is done by another one.

    Args:
        address: of the scheduler, "tcp://host:8786"; "local" starts a cluster of processes on this machine, which
            ends with the executor.
        workers: number of processes of a local cluster.

    Raises:
        ClusterError: the package is missing, the scheduler cannot be reached, or a worker has several threads (all
            networks of a process share torch's settings).
    """
    distributed = _package("distributed", "dask")
    cluster = None
    if address == LOCAL:
        cluster = distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=logging.ERROR
        )
    else:
        check_reachable(address, default_port=8786)
    try:
        client = distributed.Client(cluster or address, timeout=REACHED_IN, set_as_default=False)
    except OSError as error:
        raise _unreachable(address, str(error)) from None
    # checkpoints that travel with jobs are larger than the 10 MB from which on Dask warns
    quiet = _package("dask.config", "dask").set({"distributed.admin.large-graph-warning-threshold": "1TB"})
    running: set[Any] = set()

    def call(function: Callable[..., Any], *args: Any) -> Any:
        future = client.submit(function, *args, pure=False)
        running.add(future)
        try:
            return future.result()
        except distributed.KilledWorker as error:
            raise BrokenExecutor(f"Several workers of Dask died one after the other with a job: {error}") from None
        finally:
            running.discard(future)

    def close(kill: bool) -> None:
        quiet.__exit__(None, None, None)
        if kill:
            with suppress(Exception):  # the scheduler may be gone
                client.cancel(list(running), force=True)
        client.close()
        if cluster is not None:
            cluster.close()

    for worker, found in client.scheduler_info(n_workers=-1)["workers"].items():
        if found["nthreads"] != 1:
            close(kill=False)
            raise ClusterError(
                f"A Dask worker must have one thread, got {found['nthreads']} at {worker}. Start the workers with "
                "--nthreads 1 (and more --nworkers)."
            )
    return ClusterExecutor(call, close, lambda: len(client.scheduler_info(n_workers=-1)["workers"]))


def ray_executor(address: str = LOCAL, *, workers: int = 2, cpus: float = 1, gpus: float = 0) -> Executor:
    """An executor over a Ray cluster; a search does a job of a worker or a node that dies once more.

    Args:
        address: "host:6379" of the head node, "auto" for the cluster that RAY_ADDRESS names or this machine belongs to;
            "local" starts one on this machine, which ends with the executor; "any" does so if there is none to join.
        workers: number of processor cores of a local cluster.
        cpus: cores that a network needs.
        gpus: GPUs that a network needs; 0.25 puts four networks on each.

    Raises:
        ClusterError: the package is missing, or the cluster cannot be reached.
    """
    ray: Any = _package("ray", "ray")
    ours = not ray.is_initialized()
    if ours:
        _join(ray, address, max(workers, cpus))
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_call)
    errors = ray.exceptions  # an object is lost when its node dies before a large result was fetched
    died = (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError, errors.ObjectLostError)
    running: dict[Any, Future[Any]] = {}
    lock, closed = threading.Lock(), threading.Event()

    def call(function: Callable[..., Any], *args: Any) -> Any:
        with lock:  # after ray.shutdown, a call to Ray would start a cluster of its own
            if closed.is_set() or not ray.is_initialized():
                raise CancelledError
            reference = remote.remote(function, args)
            future = running[reference] = reference.future()
        try:
            return future.result()
        except errors.RayTaskError as error:  # its text is a traceback
            raise (error.cause if isinstance(error.cause, BaseException) else error) from None
        except died as error:  # the driver tries the job once more
            raise BrokenExecutor(f"A worker of Ray died ({type(error).__name__}).") from None
        finally:
            running.pop(reference, None)

    def close(kill: bool) -> None:
        with lock:
            closed.set()
            if kill:
                for reference in list(running):
                    ray.cancel(reference, force=True)
            if ours:
                ray.shutdown()
                for future in list(running.values()):
                    future.cancel()  # nobody else ends it now

    def fitting() -> int:
        found = ray.cluster_resources()
        return int(min((found.get(kind, 0) / need for kind, need in (("CPU", cpus), ("GPU", gpus)) if need), default=1))

    return ClusterExecutor(call, close, fitting)


def _join(ray: Any, address: str, cores: float) -> None:
    """Connect to a Ray cluster, or start one with so many cores on this machine."""
    named = os.environ.get("RAY_ADDRESS")
    if address == ANY and named is None:
        try:
            return _join(ray, "auto", cores)
        except ClusterError:  # there is none on this machine
            address = LOCAL
    if address in (ANY, "auto"):
        address = named or "auto"
    if address not in (LOCAL, "auto") and "://" not in address:
        check_reachable(address, default_port=6379)
    new = {"num_cpus": cores, "include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address, **new, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _unreachable(address, str(error)) from None


def transfer_executor(executor: Executor, *, max_mb: float) -> Executor:
    """An executor whose workers need not see the run folder: checkpoints travel with the jobs and back.

    The ledger and the run folder are the same as with a shared folder. A worker that dies costs all epochs of its job,
    since its checkpoints die with it; and the text or the arrays must be on each machine, under the same path.

    Args:
        executor: does the jobs; it is shut down with this one.
        max_mb: largest checkpoint that may travel, in MB (1e6 bytes). At most 32 jobs, or as many as there are workers,
            are under way at the same time, and this process and a Dask scheduler hold the checkpoints of all of them.

    Raises:
        ValueError: max_mb is not positive.
    """
    if not max_mb > 0:
        raise ValueError(f"max_mb must be above 0, got {max_mb}. Give the size of the largest checkpoint in MB.")

    def call(function: Callable[..., Any], *args: Any) -> Any:
        if function is not run_job:
            return executor.submit(function, *args).result()
        (job,) = args
        return unpack(executor.submit(run_parcel, pack(job, max_mb)).result(), job, max_mb)

    def close(kill: bool) -> None:
        if kill:
            stop(executor)
        else:
            executor.shutdown()

    return ClusterExecutor(call, close, lambda: workers_of(executor), in_flight=max(TRAVELLING, workers_of(executor)))


def chosen_executor(
    workers: int,
    *,
    dask: str | None = None,
    ray: str | None = None,
    gpus: float = 0,
    fallback: bool = False,
    transfer_mb: float | None = None,
) -> Executor | None:
    """The executor that the options of the command name; None trains in this process.

    Args:
        workers: networks trained at the same time on this machine.
        dask, ray: address of a cluster, or "local"; for Ray also "auto" and "any".
        gpus: GPUs that a network needs, of a Ray cluster.
        fallback: whether a cluster that cannot be used is replaced by processes of this machine, with a warning.
        transfer_mb: largest checkpoint that travels with a job of the cluster; None: its workers see the run folder.

    Raises:
        ClusterError: the cluster cannot be used.
        ValueError: two clusters are named, or transfer_mb without one.
    """
    if dask is not None and ray is not None:
        raise ValueError(f"A search must run on one cluster, got --dask {dask} and --ray {ray}. Give one of them.")
    if transfer_mb is not None and dask is None and ray is None:
        raise ValueError(
            f"--transfer-mb must come with --dask or --ray, got {transfer_mb:g} alone. Leave it out: processes of this "
            "machine see the run folder."
        )
    try:
        executor = None
        if dask is not None:
            executor = dask_executor(dask, workers=workers)
        elif ray is not None:
            executor = ray_executor(ray, workers=workers, gpus=gpus)
        if executor is not None:
            return executor if transfer_mb is None else transfer_executor(executor, max_mb=transfer_mb)
    except ClusterError as error:
        if not fallback:
            raise
        logger.warning("%s Training in %d processes of this machine.", error, workers)
    return process_pool(workers) if workers > 1 else None


class ClusterExecutor(Executor):
    """An executor over a cluster: for each job, a thread of this process waits for the cluster.

    Args:
        call: does a job on the cluster, and returns its result.
        close: disconnects from the cluster; with True it cancels the running jobs first.
        workers: how many jobs the cluster can do at the same time now.
        in_flight: jobs that are handed to it at the same time.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        close: Callable[[bool], None],
        workers: Callable[[], int],
        *,
        in_flight: int = IN_FLIGHT,
    ) -> None:
        self._call, self._close, self._workers, self._open = call, close, workers, True
        self._waiting = ThreadPoolExecutor(in_flight, thread_name_prefix="hyperpruning-cluster")

    @property
    def workers(self) -> int:
        """The jobs that the cluster can do at the same time now, at least 1: it may wait for its first worker."""
        return max(1, self._workers())

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a job."""
        if kwargs:
            raise TypeError(f"Jobs on a cluster must have positional arguments, got {sorted(kwargs)}.")
        return self._waiting.submit(self._call, fn, *args)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Disconnect; without `wait`, running jobs are cancelled."""
        if not self._open:
            return
        self._open = False
        self._waiting.shutdown(wait=wait, cancel_futures=cancel_futures)
        self._close(not wait)


def workers_of(executor: Executor) -> int:
    """The jobs that an executor does at the same time: its attribute `workers`, else the cores of this machine."""
    workers = getattr(executor, "workers", None)
    return workers if isinstance(workers, int) else os.cpu_count() or 1


def stop(executor: Executor) -> None:
    """Stop an executor; what it has trained is in the checkpoints.

    The processes of a `process_pool` end their steps, and the jobs of a cluster are cancelled. A worker of a cluster
    that goes on nevertheless notices after its epoch that the search has ended.
    """
    if isinstance(executor, WorkerPool):
        executor.terminate()
    else:
        executor.shutdown(wait=False, cancel_futures=True)


def check_reachable(address: str, *, default_port: int) -> None:
    """Check that something listens at an address.

    Raises:
        ClusterError: nothing does, or the address has no form of one.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    host, port = (host, port) if host else (port, str(default_port))
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED_IN):
            pass
    except (OSError, ValueError, OverflowError) as error:
        raise _unreachable(address, str(error)) from None


def _unreachable(address: str, reason: str) -> ClusterError:
    return ClusterError(
        f"The scheduler of a cluster must be reachable, got no connection to {address} ({reason.splitlines()[0]}). "
        "Start it, correct the address, or add --fallback to train in processes of this machine."
    )


def _package(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ClusterError(
            f"This executor must have the package {module}, got none. Install it: pip install 'hyperpruning[{extra}]'."
        ) from None


def _call(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return function(*args)
