"""Whole searches of the tasks besides language modelling: from Python and from a TOML, to the model files."""

import math

import numpy as np
import pytest
import torch
from test_supervised import Reader, answer_loss, sequences, series
from typer.testing import CliRunner

import hyperpruning as hp
from hyperpruning.api import evaluate_model, model_spectrum
from hyperpruning.cli import app
from hyperpruning.deploy.model_file import ModelFileError, describe_model
from hyperpruning.experiment import Experiment, ExperimentError, read_experiment

SHORT = {"n_candidates": 4, "ask_batch": 2, "rungs": (1,), "keep": (2,)}
SPACE = hp.SearchSpace({"drop_scope": ("tensor", "sign"), "drop_fraction": hp.FloatRange(0.2, 0.6, 0.2)})


def plan(task, **options):
    train = hp.TrainConfig(epochs=3, optimizer="adam", lr=0.01)
    spectrum = hp.SpectrumConfig(warmup=2)
    values = {"task": task, "dense_task": task, "train": train, "sparsity": 0.5, "space": SPACE, "spectrum": spectrum}
    return hp.Plan(**values | SHORT | options)


def write(folder, kind):
    """A folder with data and an experiment."""
    if kind == "classification":
        listed, y = sequences(80)
        lengths = np.array([len(one) for one in listed])
        x = np.zeros((80, lengths.max(), 2))
        for row, one in zip(x, listed, strict=True):
            row[: len(one)] = one
        np.savez(
            folder / "data.npz", x=x, y=y, lengths=lengths, split=np.repeat(["train", "valid", "test"], (50, 15, 15))
        )
    else:
        np.savez(folder / "data.npz", series=series())
    window = "window = 12\nhorizon = 2\n" if kind == "forecasting" else ""
    text = f"""
[task]
kind = "{kind}"
[data]
file = "data.npz"
{window}
[model]
hidden = 6
[training]
epochs = 3
lr = 0.01
[pruning]
sparsity = 0.5
[search]
n_candidates = 4
ask_batch = 2
rungs = [1]
keep = [2]
[spectrum]
warmup = 2
"""
    (folder / "experiment.toml").write_text(text)
    return folder / "experiment.toml"


@pytest.mark.parametrize(
    "task",
    [
        hp.SequenceClassification(data=sequences(), hidden=6, batch=16),
        hp.Forecasting(data=series(), hidden=6, window=12, horizon=2),
        hp.SupervisedTask(Reader, (torch.randn(50, 7, 2), torch.arange(50) % 2), answer_loss),
    ],
    ids=["classification", "forecasting", "of one's own"],
)
def test_a_search_from_python_is_repeatable(task, tmp_path):
    history = hp.hyperprune(plan(task), tmp_path / "one")
    again = hp.hyperprune(plan(task), tmp_path / "two")
    assert (history.finals, history.winners, history.rounds) == (again.finals, again.winners, again.rounds)
    before = (tmp_path / "one" / "ledger.jsonl").read_bytes()
    hp.hyperprune(plan(task), tmp_path / "one")
    assert (tmp_path / "one" / "ledger.jsonl").read_bytes() == before
    final = history.finals[history.winners["ls"]]
    if isinstance(task, hp.SupervisedTask) and task.model is not None:
        with pytest.raises(ModelFileError, match="got a network of another task"):
            hp.load(tmp_path / "one" / "winner.safetensors")
        return
    network = hp.load(tmp_path / "one" / "winner.safetensors")
    evaluated = task.evaluate(network, "test")
    assert evaluated == ((final.test_loss, final.test_metric) if final.test_metric is not None else final.test_loss)
    with pytest.raises(
        ValueError, match=r"The data must be given, got none for .* Give --data FILE; for data of Python"
    ):
        evaluate_model(tmp_path / "one")


@pytest.mark.parametrize("kind", ["classification", "forecasting"])
def test_a_search_from_a_toml(kind, tmp_path):
    experiment = read_experiment(write(tmp_path, kind))
    assert Experiment(task={"kind": kind}).task.kind == experiment.task.kind
    history = hp.hyperprune(experiment, tmp_path / "run")
    assert read_experiment(tmp_path / "run" / "experiment.toml") == experiment
    final = min((history.finals[name] for name in history.winners.values()), key=lambda one: one.valid_loss)
    description = describe_model(tmp_path / "run" / "winner.safetensors")
    assert description["kind"] == kind
    found = evaluate_model(tmp_path / "run")
    assert found.loss == final.test_loss
    assert found.count == (15 if kind == "classification" else 30 - 14 + 1)
    network = hp.load(tmp_path / "run" / "winner.safetensors")
    matrices = [weight for weight in network.parameters() if weight.ndim == 2]
    assert sum(int(weight.count_nonzero()) for weight in matrices) <= final.active
    assert final.active == round(0.5 * sum(weight.numel() for weight in matrices))

    command = CliRunner()
    said = command.invoke(app, ["evaluate", str(tmp_path / "run"), "--split", "valid"])
    assert said.exit_code == 0, said.output
    words = {"classification": "accuracy", "forecasting": "mean squared error"}
    assert f"valid {words[kind]}" in said.output
    assert f"{final.valid_loss:.5f} loss" in said.output
    said = command.invoke(app, ["spectrum", str(tmp_path / "run"), "--out", str(tmp_path / "spectrum")])
    assert said.exit_code == 0, said.output
    assert "6 exponents of h" in said.output
    assert len(model_spectrum(tmp_path / "run", steps=3, warmup=1).exponents) == 6
    with pytest.raises(ValueError, match="steps and warmup must be at most the"):
        model_spectrum(tmp_path / "run", steps=60, warmup=20)
    said = command.invoke(
        app, ["search", str(tmp_path / "experiment.toml"), "--dry-run", "--out", str(tmp_path / "dry")]
    )
    assert said.exit_code == 0, said.output

    moved = tmp_path / "elsewhere" / "moved.safetensors"
    moved.parent.mkdir()
    (tmp_path / "run" / "winner.safetensors").rename(moved)
    with pytest.raises(ValueError, match="The data must be given, got none for"):
        evaluate_model(moved)
    assert evaluate_model(moved, data=tmp_path / "data.npz").loss == final.test_loss
    arrays = dict(np.load(tmp_path / "data.npz"))
    first = next(iter(arrays))
    np.savez(tmp_path / "data.npz", **arrays | {first: arrays[first] + 1})
    moved.rename(tmp_path / "run" / "winner.safetensors")
    with pytest.raises(ValueError, match="Without --data the data must be those of the training, got changed ones"):
        evaluate_model(tmp_path / "run")


def test_a_command_writes_a_commented_experiment_of_each_kind(tmp_path):
    for kind in ("classification", "forecasting"):
        path = tmp_path / f"{kind}.toml"
        said = CliRunner().invoke(app, ["init", str(path), "--task", kind, "--data", str(tmp_path / "x.npz")])
        assert said.exit_code == 0, said.output
        assert read_experiment(path) == Experiment(task={"kind": kind}, data={"file": tmp_path / "x.npz"})


def test_an_unknown_kind_or_a_setting_of_another_kind_is_named():
    for kind in ("clasification", ["classification"]):
        with pytest.raises(
            ExperimentError, match=r"^task.kind must be one of language_modelling, classification, forecasting"
        ):
            Experiment(task={"kind": kind}, data={"file": "x"})
    with pytest.raises(ExperimentError, match=r"^data.windw is not a setting. Did you mean 'window'\?$"):
        Experiment(task={"kind": "forecasting"}, data={"windw": 3})
    with pytest.raises(ExperimentError, match=r"^data.folder is not a setting."):
        Experiment(task={"kind": "classification"}, data={"folder": "x"})


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros((9, 4))}, "must have the arrays x and y, got no y"),
        ({"x": np.zeros((9, 4)), "z": np.zeros(9)}, "must be of x, y, lengths, split, got 'z'"),
        ({"x": np.zeros((9, 4)), "y": np.arange(9) % 2, "split": ["train"] * 9}, "and each at least once, got 9 of"),
        ({"x": np.array([None, 1]), "y": np.zeros(2)}, "without objects, got"),
    ],
)
def test_a_file_that_does_not_hold_the_data_is_a_sentence(tmp_path, arrays, says):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(ValueError, match=says):
        hp.SequenceClassification(file=tmp_path / "data.npz").steps(0, 0)


def test_a_file_that_is_none_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"which does not exist. Write one with numpy.savez"):
        hp.Forecasting(file=tmp_path / "data.npz").steps(0, 0)
    (tmp_path / "data.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ValueError, match=r"must be a file of arrays as numpy.savez writes it"):
        hp.Forecasting(file=tmp_path / "data.npz").steps(0, 0)
    np.save(tmp_path / "series.npy", series())
    assert math.isfinite(hp.Forecasting(file=tmp_path / "series.npy", window=9).baseline_loss("valid"))


def test_the_default_learning_rate_suits_a_classifier():
    trained = Experiment(task={"kind": "classification"}).plan().train
    assert trained.optimizer in ("adam", "adamw")
    assert trained.lr < 0.1
    assert Experiment().plan().train.lr == 15.0
