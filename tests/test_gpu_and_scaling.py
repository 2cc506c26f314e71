"""benchmarks/gpu.py refuses a machine without a GPU, and notices differences; benchmarks/scaling.py measures parts."""

import json
import sys
from dataclasses import replace

import gpu
import pytest
import scaling
import torch

from hyperpruning.search.history import Epoch, History
from hyperpruning.testing.executor import _plan
from hyperpruning.training.record import EpochRecord


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_machine_without_a_gpu_is_refused_in_one_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 2
    assert capsys.readouterr().out == (
        "A CUDA GPU must be there for this check, got none that torch sees. Run it on a machine with one.\n"
    )
    assert not list(tmp_path.iterdir())


def history():
    found = History()
    for name in ("dense", "c01"):
        for epoch in (0, 1):
            record = EpochRecord(epoch, None, 2.0 - epoch, 4, {}, 0.0, spectrum=(-0.5, -1.0))
            found.add(Epoch(name, record))
    return found


def test_differences_beyond_the_tolerances_fail():
    def with_record(epoch, **changes):
        found = history()
        found.add(Epoch("c01", replace(found.epochs["c01"][epoch], **changes)))
        return gpu.compared(history(), found)

    assert with_record(0)["ok"]
    assert with_record(0, valid_loss=2.0001)["ok"]
    assert not with_record(0, valid_loss=2.001)["ok"]
    assert with_record(1, valid_loss=1.01)["ok"]
    assert not with_record(1, valid_loss=1.05)["ok"]
    assert with_record(0, spectrum=(-0.5005, -1.0))["ok"]
    assert not with_record(0, spectrum=(-0.502, -1.0))["ok"]


def test_spectra_agree_with_themselves():
    found = gpu.spectra_of("cpu", 4)
    assert (found["ok"], found["difference"], found["H"]) == (True, 0.0, 4)


def test_the_parts_of_a_search_are_measured_and_put_back(tmp_path):
    before = [getattr(owner, name) for places in scaling.PARTS.values() for owner, name in places]
    found = scaling.shares(_plan(), tmp_path)
    assert [getattr(owner, name) for places in scaling.PARTS.values() for owner, name in places] == before
    assert all(found[part] > 0 for part in scaling.PARTS)
    assert found["together"] == pytest.approx(sum(found[part] for part in scaling.PARTS))
    assert found["together"] < 100


@pytest.mark.slow
def test_a_whole_measurement_of_a_tiny_search(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "plan_of", lambda **_: _plan())
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--workers", "1", "2", "--json", str(tmp_path / "found.json")])
    scaling.main()
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["processes"] for row in found["scaling"]] == [1, 2]
    assert found["scaling"][0]["speed-up"] == 1.0
    assert "candidates/min" in capsys.readouterr().out
