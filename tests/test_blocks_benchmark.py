"""benchmarks/blocks.py: it goes on where it was stopped, and its table is that of its file."""

import json
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

import blocks

ROOT = Path(__file__).parent.parent


def test_a_run_goes_on_and_prints_its_table(tmp_path, monkeypatch):
    trained = []

    def run(granularity, sparsity, seed, epochs):
        trained.append((granularity, sparsity, seed))
        if len(trained) == 4:
            raise KeyboardInterrupt
        return 10.0 + seed, sparsity

    monkeypatch.setattr(blocks, "TASKS", dict.fromkeys(blocks.TASKS, run))
    with pytest.raises(KeyboardInterrupt):
        blocks.measure(tmp_path / "blocks.json", (0, 1), blocks.EPOCHS)
    assert len(json.loads((tmp_path / "blocks.json").read_text())) == 3
    found = blocks.measure(tmp_path / "blocks.json", (0, 1), blocks.EPOCHS)
    assert len(found) == 20
    assert len(trained) == 21
    assert "| digits, test error % | 80% | 10.50 ± 0.71 | 10.50 ± 0.71 | 10.50 ± 0.71 | 80.0% |" in blocks.markdown(
        found, (0, 1)
    )


@pytest.mark.parametrize("granularity", ["dense", "block_8x4"])
def test_both_tasks_train(granularity, monkeypatch):
    monkeypatch.setattr(blocks, "HIDDEN", 16)
    for run in blocks.TASKS.values():
        metric, sparsity = run(granularity, 0.8, 0, 1)
        assert 0 < metric < 100
        assert (sparsity >= 0.8) == (granularity != "dense")


def test_the_page_has_the_measured_numbers():
    path = ROOT / "benchmarks" / "results" / "blocks.json"
    if not path.exists():
        pytest.skip("not measured")
    table = blocks.markdown(json.loads(path.read_text()), blocks.SEEDS)
    assert table in (ROOT / "docs" / "deployment.md").read_text()
