"""The contract suite of an executor."""

from __future__ import annotations

import tempfile
from concurrent.futures import Executor
from itertools import zip_longest
from pathlib import Path

from hyperpruning.lyapunov.config import SpectrumConfig
from hyperpruning.search.dimensions import FloatRange
from hyperpruning.search.driver import search
from hyperpruning.search.ledger import LEDGER
from hyperpruning.search.plan import Plan
from hyperpruning.search.space import SearchSpace
from hyperpruning.testing.comparison import require
from hyperpruning.testing.tiny_task import TinyTask
from hyperpruning.training.config import TrainConfig


def check_executor(executor: Executor) -> None:
    """Check that a small search gives byte for byte the same ledger with an executor as without one.

    Three candidates and the dense reference are trained on the CPU for two epochs, in a temporary folder that the
    workers must see: set the environment variable TMPDIR to a shared folder if they are on other machines.

    Args:
        executor: to be checked; stays open.

    Raises:
        AssertionError: the ledgers differ or a job is not carried out; the message says which, and what to do.

    >>> from hyperpruning.search.executors import process_pool
    >>> with process_pool(2) as pool:  # doctest: +SKIP
    ...     check_executor(pool)
    """
    plan = _plan()
    with tempfile.TemporaryDirectory(prefix="hyperpruning-") as folder:
        alone, together = Path(folder) / "alone", Path(folder) / "together"
        search(plan, alone, lock=False)
        try:
            search(plan, together, executor=executor, lock=False)
        except Exception as error:
            raise AssertionError(
                f"An executor must carry out every job and return its result, got {type(error).__name__}: {error}. See "
                "that its workers can import hyperpruning and write to the run folder."
            ) from error
        expected, found = ((run / LEDGER).read_bytes().splitlines() for run in (alone, together))
    for number, (one, two) in enumerate(zip_longest(expected, found, fillvalue=b"nothing"), start=1):
        require(
            one == two,
            f"The ledger must be the same as without an executor, got line {number} {two.decode()} and without it "
            f"{one.decode()}. Return results unchanged, and run the same versions on the same kind of machine.",
        )


def _plan() -> Plan:
    """A search of a second."""
    task = TinyTask()
    return Plan(
        task=task,
        dense_task=task,
        train=TrainConfig(epochs=2, optimizer="snt_asgd", lr=0.5, updates_per_epoch=1, device="cpu"),
        sparsity=0.5,
        space=SearchSpace({"drop_scope": ("tensor", "sign"), "drop_fraction": FloatRange(0.3, 0.6, 0.1)}),
        n_candidates=3,
        ask_batch=2,
        rungs=(1,),
        keep=(1,),
        spectrum=SpectrumConfig(warmup=2),
    )
