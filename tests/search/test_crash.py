"""kill -9: a search that is killed at any moment and continued is the search that was not killed."""

import multiprocessing
import random
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from hyperpruning.search.driver import search
from hyperpruning.search.executors import process_pool
from hyperpruning.search.history import RoundDecision
from hyperpruning.search.ledger import LEDGER
from small import small, write_text


def _run(text: Path, folder: Path, workers: int) -> None:
    torch.set_num_threads(1)
    with process_pool(workers) if workers > 1 else nullcontext() as pool:
        search(small(text).plan(), folder, executor=pool)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search that nothing happened to, and how long it took."""
    place = tmp_path_factory.mktemp("whole")
    text = place / "text"
    text.mkdir()
    write_text(text)
    started = time.perf_counter()
    _run(text, place / "run", 1)
    return text, place / "run", time.perf_counter() - started


def _same(folder: Path, expected: Path) -> bool:
    """Ledger, and with it ranking, winner and the hash of its weights."""
    return (folder / LEDGER).read_bytes() == (expected / LEDGER).read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_20_random_moments(whole, tmp_path):
    text, expected, seconds = whole
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hyperpruning"])
    draw, killed = random.Random(7), 0
    for trial in range(20):
        folder = tmp_path / str(trial)
        process = context.Process(target=_run, args=(text, folder, 1))
        process.start()
        deadline = time.monotonic() + 30
        while not (folder / LEDGER).exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, seconds))
        killed += process.is_alive()
        process.kill()
        process.join()
        _run(text, folder, 1)
        assert _same(folder, expected), f"trial {trial}"
    assert killed >= 10  # the others had ended before their moment came


def test_a_driver_killed_with_its_workers_at_work_leaves_none_behind(whole, tmp_path):
    text, expected, _ = whole
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_run, args=(text, tmp_path / "run", 2))
    process.start()
    deadline = time.monotonic() + 60
    while not list((tmp_path / "run").glob("networks/*/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    time.sleep(1.0)
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*"))
    time.sleep(1.0)
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")) == before
    _run(text, tmp_path / "run", 1)
    assert _same(tmp_path / "run", expected)


@pytest.mark.parametrize("generations", [1, 2])
def test_checkpoints_damaged_while_the_search_rests_cost_only_time(whole, tmp_path, generations):
    text, expected, _ = whole
    folder = tmp_path / "run"

    def stop(fact):
        if isinstance(fact, RoundDecision) and fact.round == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        search(small(text).plan(), folder, on_fact=stop)
    for network in (folder / "networks").iterdir():
        for path in sorted(network.glob("*.pt"))[-generations:]:
            path.write_bytes(path.read_bytes()[:100])
    _run(text, folder, 1)
    assert _same(folder, expected)
