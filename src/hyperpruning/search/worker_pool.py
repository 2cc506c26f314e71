"""A pool of processes in which the death of one affects its network alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import wait
from typing import Any

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PATIENCE = 30.0  # seconds in which a process may end its step and write a checkpoint, before it is killed


class WorkerPool(Executor):
    """Processes of which each trains one network at a time; when one dies, its network alone is affected.

    The future of that network raises `BrokenExecutor`, and another process takes the place of the dead one.

    Args:
        workers: number of processes.
        threads: of the numerical libraries in each process.
    """

    def __init__(self, workers: int, *, threads: int = 1) -> None:
        self.workers, self._threads = workers, threads
        self._lock = threading.RLock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._closed = False
        self._processes: dict[ProcessPoolExecutor, Future[int]] = {}  # each has one process; its id
        self._idle = [self._start() for _ in range(workers)]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a function in the next free process."""
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("A pool must be open to take work, got one that was shut down. Make another one.")
            self._waiting.append((future, partial(fn, *args, **kwargs)))
        self._hand_out()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; wait for that which was taken, or leave out what has not begun."""
        cancel_futures = cancel_futures or not wait
        with self._lock:
            self._closed = True
            taken = [future for future, _ in self._waiting]
        for future in taken:
            if cancel_futures:
                future.cancel()
            elif wait:
                with suppress(BaseException):
                    future.exception()
        for process in list(self._processes):
            process.shutdown(wait=wait, cancel_futures=cancel_futures)

    def process_ids(self) -> list[int]:
        """The ids of the processes that have begun."""
        ids = list(self._processes.values())
        return [future.result() for future in ids if future.done() and future.exception() is None]

    def terminate(self, patience: float = PATIENCE) -> None:
        """End the processes: by SIGTERM, after which they write a checkpoint, and after a while by SIGKILL.

        Args:
            patience: seconds.
        """
        self.shutdown(wait=False, cancel_futures=True)
        children = {child.pid: child for child in multiprocessing.active_children()}
        mine = [children[pid] for pid in self.process_ids() if pid in children]
        for child in mine:
            child.terminate()
        deadline = time.monotonic() + patience
        for child in mine:
            child.join(max(0.0, deadline - time.monotonic()))
            child.kill()
            child.join()

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        process = ProcessPoolExecutor(1, mp_context=context, initializer=_exit_with_parent)
        with _ctrl_c_ignored(), _threads_limited(self._threads):  # the process, which starts now, inherits both
            self._processes[process] = process.submit(os.getpid)
        return process

    def _hand_out(self) -> None:
        with self._lock:
            while self._idle and self._waiting:
                future, call = self._waiting.popleft()
                if future.set_running_or_notify_cancel():
                    process, inner = self._begin(self._idle.pop(), call)
                    inner.add_done_callback(partial(self._take_back, process, future))

    def _begin(self, process: ProcessPoolExecutor, call: Callable[[], Any]) -> tuple[ProcessPoolExecutor, Future[Any]]:
        """Call a function in a process, or, if it died while it was idle, in a new one."""
        try:
            return process, process.submit(call)
        except BrokenExecutor:
            process = self._replaced(process)
            return process, process.submit(call)

    def _replaced(self, process: ProcessPoolExecutor) -> ProcessPoolExecutor:
        del self._processes[process]
        return self._start()

    def _take_back(self, process: ProcessPoolExecutor, future: Future[Any], inner: Future[Any]) -> None:
        """Pass a result on, and give the process, or the one in its place, the next work."""
        try:
            error = inner.exception()
        except CancelledError as cancelled:
            error = cancelled
        with self._lock:
            if isinstance(error, BrokenExecutor) and not self._closed:
                process = self._replaced(process)
            self._idle.append(process)
        if error is None:
            future.set_result(inner.result())
        else:
            future.set_exception(error)
        if not self._closed or not isinstance(error, BrokenExecutor):
            self._hand_out()


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


@contextmanager
def _threads_limited(count: int) -> Iterator[None]:
    """Within the block, processes that start have this number of threads in their numerical libraries."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _exit_with_parent() -> None:
    """In a worker: ignore Ctrl-C, and exit when the driver exits (else two drivers could write to one run folder)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
