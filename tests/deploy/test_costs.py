"""What networks cost: multiply-adds of a step by hand, and bytes that are those of the files."""

import json
import shutil
from functools import partial

import pytest
import torch
from test_decoder import VOCABULARY, language_model, pruned
from torch import nn
from typer.testing import CliRunner

import hyperpruning as hp
from hyperpruning.cli import app
from hyperpruning.deploy.benchmark import step_microseconds
from hyperpruning.deploy.costs import compact_bytes, multiply_adds, stored_tensors
from hyperpruning.deploy.model_folder import describe, save_folder
from hyperpruning.experiment import read_experiment
from hyperpruning.exports import plan_of, read_search
from hyperpruning.models.language_model import LanguageModel
from hyperpruning.models.rhn import RHNLayer
from hyperpruning.models.sequence_model import SequenceClassifier
from hyperpruning.network_costs import record_costs, step_times
from hyperpruning.report.costs import COSTS, Costs, read_costs, write_costs
from hyperpruning.search.ledger import read
from small import small, write_text


def test_multiply_adds_are_the_nonzeros_of_what_a_step_multiplies():
    hidden, width = 6, 5
    layers = 4 * hidden * (width + hidden) + 4 * hidden * 2 * hidden
    network = LanguageModel(VOCABULARY, embedding=width, hidden=hidden, layers=2)
    assert multiply_adds(network) == layers + VOCABULARY * hidden  # the embedding is looked up
    tied = LanguageModel(VOCABULARY, embedding=hidden, hidden=hidden, layers=1, tied=True)
    assert multiply_adds(tied) == 4 * hidden * 2 * hidden + VOCABULARY * hidden
    assert multiply_adds(nn.GRU(3, hidden)) == 3 * hidden * (3 + hidden)
    assert multiply_adds(RHNLayer(3, hidden, depth=4)) == 2 * hidden * (3 + 4 * hidden)
    sparse = pruned(LanguageModel(VOCABULARY, embedding=width, hidden=hidden), sparsity=0.8)
    assert multiply_adds(sparse) == sum(
        int(value.count_nonzero())
        for name, value in sparse.named_parameters()
        if value.ndim == 2 and name != "encoder.weight"
    )


def test_a_mixture_multiplies_its_decoder_once_for_each_softmax():
    network = LanguageModel(VOCABULARY, embedding=5, hidden=6, experts=3)
    decoder = network.decoder
    recurrent = sum(value.numel() for value in network.rnn.parameters() if value.ndim == 2)
    others = decoder.prior.weight.numel() + decoder.latent.weight.numel()
    assert multiply_adds(network) == recurrent + others + 3 * decoder.weight.numel()


def test_an_unknown_network_counts_each_matrix_once():
    own = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 4), nn.Linear(4, 2))
    assert multiply_adds(own) == 12 + 8
    assert multiply_adds(nn.Sequential(nn.Conv1d(2, 3, 5))) is None
    assert hp.costs(nn.LSTM(2, 3, bidirectional=True)).multiply_adds == 2 * 60


@pytest.mark.parametrize("precision", ["exact", "int8"])
@pytest.mark.parametrize("tied", [False, True])
def test_bytes_are_those_of_the_model_folder(tmp_path, precision, tied):
    network = language_model(embedding=16, hidden=16, tied=tied)
    save_folder(tmp_path, stored_tensors(network), {}, precision=precision)
    size = (tmp_path / "weights.bin").stat().st_size
    assert compact_bytes(network, precision) == size
    assert getattr(hp.costs(network), f"{precision}_bytes") == size


def test_buffers_are_in_the_file_and_so_in_the_bytes():
    network = SequenceClassifier(3, 4, hidden=5)
    assert {"mean", "scale"} <= stored_tensors(network).keys()
    assert compact_bytes(network, "exact") > sum(
        compact_bytes(nn.ParameterList([one]), "exact") for one in network.parameters()
    )


def test_weights_that_no_file_holds_have_no_bytes():
    network = nn.Linear(2, 2)
    with torch.no_grad():
        network.weight[0, 0] = torch.inf
    assert hp.costs(network).int8_bytes is None
    assert hp.costs(network).exact_bytes > 0


def test_costs_are_read_as_they_were_written(tmp_path):
    found = {"ab" * 32: Costs(12, 34, None), "cd" * 32: Costs(None, 1, 2)}
    write_costs(tmp_path, found)
    assert read_costs(tmp_path) == found
    (tmp_path / COSTS).write_text((tmp_path / COSTS).read_text().replace("34", "35"))
    assert read_costs(tmp_path) == {}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', '{"a": {"multiply_adds": "x"}}', '{"a": {}}'])
def test_a_damaged_file_says_nothing(tmp_path, content):
    assert read_costs(tmp_path) == {}
    (tmp_path / COSTS).write_text(content)
    assert read_costs(tmp_path) == {}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("costs")
    search = {"n_candidates": 3, "rungs": (1,), "keep": (2,), "as_many_weights": True, "criteria": ("loss",)}
    hp.hyperprune(small(write_text(folder), training={"epochs": 2}, search=search), folder / "run")
    return folder / "run"


def test_every_finished_network_of_a_search_has_costs(searched):
    finals, found = read(searched).finals, read_costs(searched)
    assert {"dense", "small"} < finals.keys()
    assert found.keys() == {final.sha256 for final in finals.values()}
    for name, stored in (("dense", "dense"), ("small", "small")):
        assert found[finals[name].sha256] == hp.costs(hp.load(searched / f"{stored}.safetensors"))
    sparse = [found[finals[name].sha256] for name in finals if name not in ("dense", "small")]
    dense = found[finals["dense"].sha256]
    assert all(one.multiply_adds < dense.multiply_adds and one.exact_bytes < dense.exact_bytes for one in sparse)
    assert all(one.int8_bytes < one.exact_bytes for one in found.values())


def test_the_card_of_an_exported_network_has_them(searched, tmp_path):
    result = CliRunner().invoke(app, ["export", str(searched), "--out", str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    card, sha256 = describe(tmp_path / "model"), describe(tmp_path / "model")["exported_from_sha256"]
    assert Costs(**card["costs"]) == read_costs(searched)[sha256]
    assert card["weights_bytes"] == card["costs"]["exact_bytes"]


def test_costs_are_counted_once_and_again_where_the_file_is_lost(searched, monkeypatch):
    content = json.loads((searched / COSTS).read_bytes())
    plan, history = plan_of(read_experiment(searched / "experiment.toml")), read(searched)
    (searched / COSTS).unlink()
    record_costs(plan, history, searched)
    assert json.loads((searched / COSTS).read_bytes()) == content
    monkeypatch.setattr("hyperpruning.network_costs.costs", lambda network: pytest.fail("counted again"))
    record_costs(plan, history, searched)


def test_a_network_without_its_checkpoint_has_no_costs(searched, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(searched, copy)
    shutil.rmtree(copy / "networks" / "dense")
    (copy / COSTS).unlink()
    history = read(copy)
    record_costs(plan_of(read_experiment(copy / "experiment.toml")), history, copy)
    assert read_costs(copy).keys() == read_costs(searched).keys() - {history.finals["dense"].sha256}


def test_a_report_measures_a_step_only_where_it_is_asked(searched, monkeypatch, tmp_path):
    monkeypatch.setattr("hyperpruning.network_costs.step_microseconds", partial(step_microseconds, seconds=0))
    monkeypatch.setenv("COLUMNS", "120")
    page, ledger = tmp_path / "page.html", (searched / "ledger.jsonl").read_bytes()
    for words, timed in (([], False), (["--latency"], True)):
        result = CliRunner().invoke(app, ["report", str(searched), "--out", str(page), *words])
        assert result.exit_code == 0, result.output
        assert ("us a" in result.output) == timed
        assert ("us a step" in page.read_text()) == timed
    assert (searched / "ledger.jsonl").read_bytes() == ledger
    plan, history = read_search(searched)
    times = step_times(plan, history, searched)
    assert times.keys() == history.finals.keys()
    assert all(0 < time < 1e6 for time in times.values())
