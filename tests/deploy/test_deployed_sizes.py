"""The last lines of the demo: what the dense network and the winner weigh, and how long a token takes."""

import pytest
import torch
from test_decoder import VOCABULARY, language_model, pruned
from typer.testing import CliRunner

from hyperpruning import cli
from hyperpruning.deploy.benchmark import DeployedSize, deployed_sizes
from hyperpruning.deploy.model_file import save_model
from hyperpruning.deploy.model_folder import save_folder
from hyperpruning.models.language_model import LanguageModel


@pytest.fixture
def demo(tmp_path):
    dense = pruned(LanguageModel(VOCABULARY, embedding=32, hidden=64), sparsity=0.0)
    for name, network in {"dense": dense, "winner": language_model(embedding=32, hidden=64)}.items():
        words = [f"w{number}" for number in range(VOCABULARY)]
        description = {"model": network.sizes, "vocabulary": words}
        save_model(tmp_path / f"{name}.safetensors", dict(network.named_parameters()), description)
        if name == "winner":
            for precision in ("exact", "int8"):
                weights = dict(network.named_parameters())
                save_folder(tmp_path / precision, weights, description, precision=precision)
    return tmp_path


def test_bytes_are_those_of_the_files(demo):
    dense, exact, int8 = deployed_sizes(demo / "dense.safetensors", demo / "winner.safetensors", seconds=0)
    assert [one.name for one in (dense, exact, int8)] == ["dense, float32", "winner, float32", "winner, int8"]
    whole = sum(4 * one.numel() for one in LanguageModel(VOCABULARY, embedding=32, hidden=64).parameters())
    assert dense.bytes == whole
    assert exact.bytes == (demo / "exact" / "weights.bin").stat().st_size < 0.25 * whole
    assert int8.bytes == (demo / "int8" / "weights.bin").stat().st_size < 0.5 * exact.bytes
    assert all(0 < one.microseconds < 1e6 for one in (dense, exact, int8))


def test_the_demo_ends_with_them(demo, monkeypatch):
    found = [
        DeployedSize("dense, float32", 320_000, 24.0),
        DeployedSize("winner, float32", 64_000, 16.0),
        DeployedSize("winner, int8", 16_000, 8.0),
    ]
    asked = []
    monkeypatch.setattr(cli, "_search", lambda *words: None)
    monkeypatch.setattr(cli, "deployed_sizes", lambda *paths: asked.append(paths) or found)
    result = CliRunner().invoke(cli.app, ["demo", "--out", str(demo), "--workers", "1"])
    assert result.exit_code == 0
    assert asked == [(demo / "dense.safetensors", demo / "winner.safetensors")]
    lines = [line.split() for line in result.output.splitlines() if "float32" in line or "int8" in line]
    assert lines[0] == ["dense,", "float32", "312", "KiB", "24.0"]
    assert lines[1] == ["winner,", "float32", "62", "KiB", "20.0%", "16.0", "1.5"]
    assert lines[2] == ["winner,", "int8", "16", "KiB", "5.0%", "8.0", "3.0"]
    assert result.output.splitlines()[-1] == f"Deploy it: hyperprune export {demo} --out model --precision int8"


def test_torch_computes_the_same_lines_without_a_compiler(demo, monkeypatch):
    monkeypatch.setenv("HYPERPRUNING_CC", "no-such-compiler")
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="computes in torch"):
        found = deployed_sizes(demo / "dense.safetensors", demo / "winner.safetensors", seconds=0)
    assert len(found) == 3
