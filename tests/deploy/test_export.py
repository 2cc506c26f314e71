"""From a finished search to what is deployed: the commands, and what the files say."""

import json
import math

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import hyperpruning as hp
from hyperpruning.api import evaluate_model
from hyperpruning.cli import app
from hyperpruning.deploy.model_folder import describe, save_folder
from hyperpruning.models.sequence_model import SequenceClassifier
from small import small, write_text


def run(*words):
    """A command in this process: exit code and all that it said."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    experiment = small(write_text(folder), search={"as_many_weights": True})
    hp.hyperprune(experiment, folder / "run")
    code, said = run("export", folder / "run", "--out", folder / "model", "--plain")
    assert code == 0, said
    assert "active weights" in said
    return folder


def test_the_folder_holds_the_winner_with_its_sparsity(searched):
    network, winner = hp.load(searched / "model"), hp.load(searched / "run" / "winner.safetensors")
    assert all(value.equal(winner.state_dict()[name]) for name, value in network.state_dict().items())
    plain = load_file(searched / "model" / "state_dict.safetensors")
    assert all(value.equal(plain[name]) for name, value in winner.state_dict().items())


def test_the_card_says_what_a_user_must_know(searched):
    card = describe(searched / "model")
    assert card["vocabulary"] == describe(searched / "run" / "winner.safetensors")["vocabulary"]
    assert {"model", "method", "method_in_words", "sparsity", "vocabulary_sha256", "weights_file_sha256"} <= set(card)
    assert card["metrics"]["metric"] == "perplexity"
    assert card["metrics"]["test"] == pytest.approx(math.exp(card["test_loss"]))
    assert card["dense"]["active"] > card["dense_as_many_weights"]["active"]
    assert len(card["spectrum"]["nats per step"]) == 16
    assert {len(gates) for gates in card["sparsity_of_gates"].values()} == {4}
    assert set(card["versions"]) == {"hyperpruning", "torch", "numpy", "python"}
    assert card["provenance"]["search"]["train"]["epochs"] == 4
    json.dumps(card, allow_nan=False)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_rounded_folder_is_smaller(searched, tmp_path, precision):
    code, said = run("export", searched / "run", "--out", tmp_path / "m", "--precision", precision)
    assert code == 0, said
    sizes = [(folder / "weights.bin").stat().st_size for folder in (tmp_path / "m", searched / "model")]
    assert sizes[0] < sizes[1]
    assert not (tmp_path / "m" / "state_dict.safetensors").exists()


def test_plain_writes_one_file(searched, tmp_path):
    code, said = run("export", searched / "run", "--out", tmp_path / "m.safetensors", "--plain")
    assert code == 0, said
    assert "decoder.weight" in load_file(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--plain"], "plain must be left out without a path to write, got True. Give out (--out)."),
        (
            ["--out", "m.safetensors", "--precision", "int8"],
            "must be exact unless a model folder is written, got 'int8'",
        ),
        (["--out", "m", "--precision", "int4"], "precision must be one of exact, fp16, int8, got 'int4'. Did you mean"),
    ],
)
def test_options_that_do_not_fit_are_refused(searched, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    code, said = run("export", searched / "run", *words)
    assert code == 2
    assert says in said
    assert not list(tmp_path.iterdir())


def test_the_decoder_has_the_perplexity_of_torch(searched):
    model, data = searched / "model", {"data": searched}
    ours, torchs, int8 = (evaluate_model(model, decoder=one, **data) for one in ("exact", None, "int8"))
    assert ours.loss == pytest.approx(torchs.loss, abs=1e-5)
    assert int8.value == pytest.approx(torchs.value, rel=1e-2)
    assert evaluate_model(model, batch=3, decoder="exact", **data).loss == pytest.approx(
        evaluate_model(model, batch=3, **data).loss, abs=1e-5
    )
    code, said = run("evaluate", model, "--data", searched, "--decoder", "int8")
    assert code == 0, said
    assert f"test perplexity {int8.value:.3f}" in said
    assert "The decoder computes, int8, step by step." in said
    code, said = run("evaluate", model, "--data", searched, "--decoder", "int8", "--dynamic")
    assert code == 2
    assert "decoder must be left out with dynamic evaluation" in said


def test_benchmark_shows_dense_ours_and_what_was_chosen(searched):
    code, said = run("benchmark", searched / "model", "--seconds", 0)
    assert code == 0, said
    for word in ("dense fp32", "dense int8", "share of bandwidth", "bytes read", "rnn.weight_hh_l0", "chosen"):
        assert word in said


def test_generate_draws_text(searched):
    words = ["generate", searched / "model", "--tokens", 40, "--prompt", "be"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("be")
    assert len(result.output) == 43
    assert CliRunner().invoke(app, [str(word) for word in words]).output == result.output
    assert run(*words, "--seed", 1)[1] != run(*words)[1]
    assert run(*words[:-1], "?!") == (
        2,
        "A prompt must have tokens of the vocabulary only, got '?'. Leave it out.",
    )
    assert run(*words, "--temperature", 0, "--decoder", "int8")[0] == 0
    assert "temperature at least 0, got 40 and -1.0" in run(*words, "--temperature", -1)[1]


def test_a_model_without_a_vocabulary_generates_nothing(tmp_path):
    network = SequenceClassifier(3, 2, hidden=4)
    save_folder(tmp_path / "m", network.state_dict(), {"kind": "classification", "model": network.sizes})
    code, said = run("generate", tmp_path / "m")
    assert (code, "must have a vocabulary and say what a token is" in said) == (2, True)


def test_c_is_written_from_a_search_and_from_a_model_folder(searched, tmp_path):
    code, said = run("export", searched / "run", "--c", tmp_path / "net.c", "--precision", "int8")
    assert code == 0, said
    assert "bytes of constants" in said
    code, said = run("export", searched / "model", "--c", tmp_path / "again.c", "--precision", "int8")
    assert code == 0, said
    texts = [(tmp_path / name).read_text().replace("-0.0f", "0.0f") for name in ("net.c", "again.c")]
    ours, theirs = (text.split("#include <stdint.h>")[1].partition("_reset(")[0].rsplit("\n", 1)[0] for text in texts)
    assert ours.count("static const") > 10
    assert len(ours.splitlines()) == len(theirs.splitlines())
    code, said = run("export", searched / "model", "--c", tmp_path / "net.c", "--candidate", "c01")
    assert (code, "must be left out for a model, got c01" in said) == (2, True)


def test_onnx_is_written_from_a_search(searched, tmp_path):
    pytest.importorskip("onnx")
    for words in ([], ["--sequences"]):
        code, said = run("export", searched / "run", "--onnx", tmp_path / "m.onnx", *words)
        assert (code, "m.onnx: " in said) == (0, True), said
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as without:
        without.setattr("hyperpruning.deploy.onnx_export.find_spec", lambda name: None)
        code, said = run("export", searched / "model", "--onnx", tmp_path / "m.onnx")
    assert (code, "pip install 'hyperpruning[onnx]'" in said) == (2, True)
