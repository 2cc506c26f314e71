"""No wrong answer in silence: each wrong input is one sentence, from Python too, before anything is trained."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import hyperpruning as hp
from hyperpruning.search.driver import search
from hyperpruning.testing.tiny_task import TinyTask

LOWER = "Lower it (in a search: SpectrumConfig(warmup=...), or warmup in [spectrum])."


def plan(**settings):
    """A plan with settings that replace those of a small search; `train` and `spectrum` as dicts of settings."""
    task = TinyTask()
    values = {"n_candidates": 2, "ask_batch": 2, "rungs": (1,), "keep": (1,), "sparsity": 0.5} | settings
    values["train"] = hp.TrainConfig(**{"epochs": 2, "updates_per_epoch": 1, "device": "cpu"} | values.get("train", {}))
    values["spectrum"] = hp.SpectrumConfig(**{"warmup": 2} | values.get("spectrum", {}))
    return hp.Plan(**{"task": task, "dense_task": task, "space": space((0.3, 0.5))} | values)


def space(choices, name="drop_fraction"):
    return hp.SearchSpace({name: choices})


def sparsifier(method=hp.METHODS["rigl"], **settings):
    return hp.Sparsifier(nn.Linear(20, 10), None, method, **{"sparsity": 0.5, "total_steps": 10} | settings)


def spectrum(warmup):
    return hp.lyapunov_spectrum(nn.LSTM(3, 5), torch.zeros(50, 2, 3), warmup=warmup)


PRESENT = f"one of the {torch.cuda.device_count()} CUDA devices that torch sees"
ABSENT = f"cuda:{torch.cuda.device_count() + 7}"
NAMES = ", ".join(hp.METHODS)
STEPS = "must be a whole number of at least 1 optimizer step, got {}. Correct it, or leave it out."
CHOICES = "must be a tuple, a FloatRange or an IntRange, got"
# what is wrong (a number in the name: another way to say the same) -> a call that takes `run`, and its sentence
WRONG = {
    "a warm-up longer than the sequence": (
        lambda run: run(plan(spectrum={"warmup": 6})),
        "warmup must be from 0 to below the number of steps, 6, got 6. " + LOWER,
    ),
    "a warm-up longer than the sequence 2": (
        lambda run: spectrum(60),
        "warmup must be from 0 to below the number of steps, 50, got 60. " + LOWER,
    ),
    "a warm-up longer than the text": (
        lambda run: run(hp.Experiment(spectrum={"warmup": 80}, training={"device": "cpu"})),
        "warmup must be from 0 to below the number of steps, 80, got 80. " + LOWER,
    ),
    "half a step of warm-up": (
        lambda run: plan(spectrum={"warmup": 2.5}),
        "warmup must be a whole number, got 2.5.",
    ),
    "a device that is not there": (
        lambda run: run(plan(train={"device": ABSENT})),
        f'device must be "cpu", "auto" or {PRESENT}, got {ABSENT!r}.',
    ),
    "a device that is not there 2": (
        lambda run: run(hp.Experiment(training={"device": ABSENT})),
        f'device must be "cpu", "auto" or {PRESENT}, got {ABSENT!r}.',
    ),
    "epochs=2.5": (lambda run: plan(train={"epochs": 2.5}), "epochs must be a whole number, got 2.5."),
    "epochs=2.5 2": (
        lambda run: hp.Experiment(training={"epochs": 2.5}),
        "training.epochs must be a whole number, got 2.5.",
    ),
    "sparsity='0.8'": (lambda run: plan(sparsity="0.8"), "sparsity must be a number, got '0.8'."),
    "sparsity='0.8' 2": (
        lambda run: sparsifier(sparsity="0.8"),
        "sparsity must be a number, got '0.8'. 0.8 prunes 80 % of the weights.",
    ),
    "sparsity='0.8' 3": (
        lambda run: hp.Experiment(pruning={"sparsity": "0.8"}),
        "pruning.sparsity must be a number, got '0.8'.",
    ),
    "a misspelt method": (
        lambda run: hp.METHODS["riggl"],
        f"method must be one of {NAMES}, got 'riggl'. Did you mean 'rigl'?",
    ),
    "a misspelt method 2": (
        lambda run: sparsifier("riggl"),
        "method must be a Method, got 'riggl'. Write hyperpruning.METHODS['rigl'].",
    ),
    "a misspelt method 3": (
        lambda run: run(plan(space=space(("rigl", "riggl"), "method"))),
        f"method must be one of {NAMES}, got 'riggl'. Did you mean 'rigl'?",
    ),
    "a method as a string": (
        lambda run: sparsifier("rigl"),
        "method must be a Method, got 'rigl'. Write hyperpruning.METHODS['rigl'].",
    ),
    "a method in place of the optimizer": (
        lambda run: hp.Sparsifier(nn.Linear(20, 10), "rigl", None, sparsity=0.5),
        "optimizer must be a torch optimizer or None, got 'rigl'. Give it second, and the method third.",
    ),
    "no model": (
        lambda run: hp.Sparsifier("rigl", None, hp.METHODS["rigl"], sparsity=0.5),
        "model must be a torch.nn.Module, got 'rigl'. Give the model first.",
    ),
    "a part of a method as a string": (
        lambda run: hp.Method(grow="gradient"),
        "grow must be a function or None, got 'gradient'. Take one from hyperpruning.sparsity.scores.",
    ),
    "a part of a method as a string 2": (
        lambda run: hp.Method(allocation="erk"),
        "allocation must be a function, got 'erk'. Take one from hyperpruning.sparsity.allocations.",
    ),
    "a part of a method as a string 3": (
        lambda run: hp.Method(granularity="row"),
        "granularity must be a Granularity, got 'row'. Take one from hyperpruning.sparsity.parameter.GRANULARITIES.",
    ),
    "choices as a string": (
        lambda run: space("rigl", "method"),
        f"The choices of method {CHOICES} 'rigl'. Write ('rigl',) for a single choice.",
    ),
    "choices as a string 2": (
        lambda run: hp.Experiment(space={"grow": "gradient"}),
        "space.grow must be a list of strings, got 'gradient'.",
    ),
    "choices as a list": (
        lambda run: space([0.3, 0.5]),
        f"The choices of drop_fraction {CHOICES} [0.3, 0.5]. Write (0.3, 0.5).",
    ),
    "an unknown row_groups name": (
        lambda run: sparsifier(row_groups={"weihgt": 4}),
        "row_groups must name parameters of the model, got 'weihgt'. Did you mean 'weight'? Use the names of "
        "named_parameters().",
    ),
    "row_groups as a number": (
        lambda run: sparsifier(row_groups=4),
        "row_groups must be a dict of numbers by parameter name, got 4. Leave it out.",
    ),
    "half a step in total": (lambda run: sparsifier(total_steps=2.5), f"total_steps {STEPS.format(2.5)}"),
    "an interval as a string": (lambda run: sparsifier(interval="100"), "interval " + STEPS.format(repr("100"))),
    "one rung": (lambda run: plan(rungs=1), "rungs must be a list of whole numbers, got 1."),
    "half a rung": (lambda run: plan(rungs=(1.5,)), "rungs must be a list of whole numbers, got (1.5,)."),
    "a criterion as a string": (lambda run: plan(criteria="ls"), "criteria must be a list of strings, got 'ls'."),
    "a class as a task": (
        lambda run: plan(task=TinyTask),
        "task must be an object, got the class TinyTask. Create one of it.",
    ),
    "a space as a dict": (lambda run: plan(space={}), "space must be a SearchSpace, got a dict. Create one."),
    "a file as an experiment": (
        lambda run: run("mine.toml"),
        "experiment must be an Experiment or a Plan, got 'mine.toml'. Read a file by "
        "hyperpruning.experiment.read_experiment(path).",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_it_is_one_sentence_before_anything_is_written(tmp_path, wrong):
    call, says = WRONG[wrong]
    with pytest.raises((ValueError, KeyError), match=f"^{re.escape(says)}$"):
        call(lambda experiment: hp.hyperprune(experiment, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_string_is_a_method_where_names_are_allowed(tmp_path):
    found = search(plan(space=space(("rigl", "static"), "method")), tmp_path / "run", lock=False)
    assert {candidate.config["method"] for candidate in found.candidates.values()} == {"rigl", "static"}


def test_numbers_of_numpy_are_numbers():
    assert sparsifier(sparsity=np.float64(0.8), total_steps=np.int64(10)).masks["weight"].sum() == 40
    assert plan(sparsity=np.float64(0.8)).sparsity == 0.8
