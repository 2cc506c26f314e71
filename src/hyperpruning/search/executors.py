"""A process pool that trains candidates; any other `concurrent.futures.Executor` works too."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait


def process_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of processes, each of which trains one network at a time.

    Args:
        workers: number of processes.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_exit_with_parent)
    with _ctrl_c_ignored():  # the workers, which start now, inherit this
        for _ in range(workers):
            pool.submit(os.getpid)
    return pool


def stop(pool: Executor) -> None:
    """Kill the processes of a pool; the epochs that are finished are in the checkpoints."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
        process.join()


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may change this
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _exit_with_parent() -> None:
    """In a worker: ignore Ctrl-C, and exit when the driver exits (else two drivers could write to one run folder)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
