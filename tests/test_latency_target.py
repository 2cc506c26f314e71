"""A search with a latency target, from the command to the exported network; the times are measured here."""

import json
from pathlib import Path
from statistics import fmean

import pytest
from latency import markdown
from typer.testing import CliRunner

import hyperpruning as hp
from hyperpruning.cli import app
from hyperpruning.deploy.compiler import CompilerError
from hyperpruning.deploy.model_folder import describe
from hyperpruning.exports import read_search
from hyperpruning.network_costs import measure_step_times
from hyperpruning.report.run import read_run
from hyperpruning.report.tradeoffs import latency_said
from hyperpruning.search.ledger import LEDGER, read
from small import small, write_text

SPACE = {"granularity": ("weight", "block_8x4"), "redistribute": ("none",), "drop_scope": ("tensor",)}


def experiment(folder, **sections):
    return small(folder, **({"pruning": {"latency": "0.95x"}, "space": SPACE, "model": {"hidden": 40}} | sections))


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished search, by the command."""
    text, folder = write_text(tmp_path_factory.mktemp("text")), tmp_path_factory.mktemp("runs") / "run"
    file = text / "experiment.toml"
    file.write_text(experiment(text).to_toml())
    result = CliRunner().invoke(app, ["search", str(file), "--out", str(folder), "--workers", "1"])
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_every_candidate_has_the_weights_that_the_target_leaves(searched):
    folder, said = searched
    plan, history = read_search(folder)
    assert plan.latency == "0.95x"
    for name, candidate in history.candidates.items():
        counts = plan.step_times.within(0.95 * plan.step_times.dense, candidate.method.granularity)
        record = history.epochs[name][1]
        # whole blocks: a tensor can have one block more or less than its number
        spare = 32 * len(counts) if candidate.method.granularity.rows > 1 else 0
        assert abs(record.active - sum(counts.values())) <= spare
    assert "Latency target 0.95x: " in said.replace("\n", " ")
    assert "is predicted to take" in said.replace("\n", " ")
    assert "here and now" in said.replace("\n", " ")


def test_it_is_continued_and_exported_with_the_recorded_times(searched, tmp_path):
    folder, _ = searched
    before = (folder / LEDGER).read_bytes()
    assert CliRunner().invoke(app, ["resume", str(folder)]).exit_code == 0
    assert (folder / LEDGER).read_bytes() == before
    hp.export(folder, out=tmp_path / "model")
    about = describe(tmp_path / "model")
    assert sum(about["method"]["allocation"].values()) >= about["active"]
    assert hp.Decoder.load(tmp_path / "model").step(0).shape[0] == 1


def test_the_report_says_what_gives_the_allocation(searched):
    folder, _ = searched
    run = read_run(folder)
    assert run.method(run.winner).startswith("latency, ")
    assert "Latency target 0.95x" in (folder / "report.html").read_text()
    assert latency_said(run).endswith(" us.")


def test_latency_as_an_objective(tmp_path):
    space = SPACE | {"sparsity": (0.2, 0.4, 0.55)}
    search = {"objectives": ("loss", "latency"), "n_candidates": 5, "ask_batch": 5, "rungs": (1,), "keep": (2,)}
    history = hp.hyperprune(experiment(write_text(tmp_path), pruning={}, search=search, space=space), tmp_path / "run")
    assert history.winners
    assert read(tmp_path / "run").header.identity["step_times"]["precision"] == "exact"


def test_multiply_adds_as_an_objective_are_those_of_the_network(tmp_path):
    space = SPACE | {"sparsity": (0.2, 0.4, 0.55)}
    search = {"objectives": ("loss", "multiply_adds"), "n_candidates": 5, "ask_batch": 5, "rungs": (1,), "keep": (2,)}
    asked = experiment(write_text(tmp_path), pruning={}, search=search, space=space)
    history = hp.hyperprune(asked, tmp_path / "run")
    network = hp.load(tmp_path / "run" / "winner.safetensors")
    best = min(history.winners.values(), key=lambda name: history.finals[name].valid_loss)
    recorded = history.epochs[best][history.finals[best].best_epoch].multiply_adds
    assert hp.costs(network).multiply_adds == recorded


def test_measured_times_fall_with_the_weights(tmp_path):
    times = measure_step_times(experiment(write_text(tmp_path)).plan())
    assert set(times.weights) == {*times.products["weight"], "encoder.weight"}
    for of in times.products.values():
        for name, falling in of.items():
            assert falling == sorted(falling, reverse=True)
            assert times.weights[name] == sorted(times.weights[name], reverse=True)
    assert 0 < times.floor() < times.dense


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--latency", "0.3"], "pruning.latency must be a part of the dense step"),
        (["--latency", "0.001us"], "latency must be at least"),
        (["--latency", "0.5x", "--sparsity", "0.5"], "--sparsity must be left out with --latency"),
    ],
)
def test_what_is_refused_in_one_sentence(tmp_path, arguments, message):
    (tmp_path / "one.toml").write_text(experiment(write_text(tmp_path), pruning={}).to_toml())
    said = CliRunner().invoke(app, ["search", str(tmp_path / "one.toml"), "--out", str(tmp_path / "run"), *arguments])
    assert said.exit_code == 2
    assert message in said.output
    assert not (tmp_path / "run").exists()


def test_without_a_compiler_there_is_no_latency(tmp_path, monkeypatch):
    def fails(*_):
        raise CompilerError("no compiler")

    monkeypatch.setattr("hyperpruning.deploy.benchmark.Kernel", fails)
    with pytest.raises(ValueError, match="must be that of a network in the compiled decoder, got none: no compiler"):
        measure_step_times(experiment(write_text(tmp_path)).plan())


def test_the_page_has_the_measured_numbers():
    root = Path(__file__).parent.parent
    page = (root / "docs" / "deployment.md").read_text()
    measured = json.loads((root / "benchmarks" / "results" / "latency.json").read_text())
    assert markdown(measured["times"]) in page
    losses = {}
    for row in measured["quality"]:
        losses.setdefault(row["allocation"], []).append(row["valid loss"])
    for name in ("target 0.3", "er", "uniform"):
        of = losses[name]
        assert f"{fmean(of):.3f} ({min(of):.3f} to {max(of):.3f})" in page.replace("\n", " "), name
