"""Executors of ours pass the suite of an executor, and one that breaks a promise fails it."""

import tempfile
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from hyperpruning.search.executors import process_pool
from hyperpruning.testing import check_executor


def test_two_processes():
    with process_pool(2) as pool:
        check_executor(pool)
        assert pool.submit(int, "3").result() == 3  # still open


def test_one_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ThreadPoolExecutor(1) as pool:
        check_executor(pool)
    assert not list(tmp_path.iterdir())


class Changed(Executor):
    """Carries jobs out at once, changed."""

    def __init__(self, change=None, job=lambda job: job):
        self.change, self.job = change, job

    def submit(self, fn, job):
        future = Future()
        future.set_result(self.change(fn(self.job(job))))
        return future


def rounded(result):
    return replace(result, records=tuple(replace(one, valid_loss=round(one.valid_loss, 6)) for one in result.records))


def fails(result):
    raise OSError("no space left")


@pytest.mark.parametrize(
    ("executor", "says"),
    [
        (Changed(rounded), "The ledger must be the same as without an executor, got line 4 "),
        (Changed(lambda result: None), "must carry out every job and return its result, got AttributeError"),
        (Changed(lambda result: result, lambda job: replace(job, sparsity=job.sparsity / 2)), "must be the same"),
        (Changed(fails), "got OSError: no space left"),
    ],
)
def test_a_faulty_executor_fails(executor, says):
    with pytest.raises(AssertionError, match=says):
        check_executor(executor)
