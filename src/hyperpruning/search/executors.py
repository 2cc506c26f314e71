"""Where candidates are trained: any `concurrent.futures.Executor` will do; this one needs nothing else."""

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
    """Train several networks at the same time, each in a process of its own.

    Args:
        workers: how many.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent)
    with _ctrl_c_ignored():  # inherited by the workers, which are started now
        for _ in range(workers):
            pool.submit(os.getpid)
    return pool


def stop(pool: Executor) -> None:
    """End the pool now, also the jobs under way; the epochs that they have finished are in their checkpoints."""
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


def _follow_parent() -> None:
    """In a worker: leave Ctrl-C to the driver, and end with it (or two would write in one run folder)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
