"""The presets: each can be read, is what it says, and builds the network that was published."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import paper_scale
import pytest
import torch
from typer.testing import CliRunner

from hyperpruning.cli import app
from hyperpruning.data.corpus import PUBLISHED_CORPORA
from hyperpruning.experiment import ExperimentError, preset, presets, read_preset

PARAMETERS = {"stacked-lstm-ptb": 66_034_000, "rhn-ptb": 23_482_400, "awd-lstm-mos-wt2": 34_909_528}


def test_there_is_a_small_one_of_each():
    assert presets() == sorted([*PARAMETERS, *(f"{name}-small" for name in PARAMETERS)])


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_an_experiment_that_can_be_planned(name, tmp_path):
    experiment = read_preset(name, tmp_path)
    assert experiment.data.folder == tmp_path.resolve()
    plan = experiment.plan()
    assert plan.space.size() >= plan.n_candidates
    assert plan.sparsity == {"st": 0.67, "rh": 0.53, "aw": 0.55}[name[:2]]
    again = type(experiment)(**tomllib.loads(experiment.to_toml()))
    assert again == experiment


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_it_has_the_published_number_of_parameters(name, count, tmp_path):
    experiment = read_preset(name, tmp_path)
    known = PUBLISHED_CORPORA[experiment.data.known]
    with torch.device("meta"):
        network = experiment.plan().task.model(known["vocabulary"][0])
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("name", [name for name in presets() if not name.endswith("-small")])
def test_every_number_says_where_it_comes_from(name):
    text = preset(name, Path("data"))
    for line in text.splitlines():
        if re.search(r"= .*\d", line) and not line.startswith(("#", "folder", "average_from", "known")):
            assert re.search(r"\[(paper|selfish|mos|here|zaremba)\]", line), line


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(ExperimentError, match=r"got 'rhn'. Did you mean 'rhn-ptb'\?"):
        preset("rhn", Path("data"))


def said(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, " ".join(result.output.split())


def test_a_preset_is_written_down_with_its_comments_and_searched(tmp_path, text):
    code, _ = said("init", tmp_path / "mine.toml", "--preset", "rhn-ptb", "--data", text)
    assert code == 0
    written = (tmp_path / "mine.toml").read_text()
    assert written == preset("rhn-ptb", text)
    assert "[selfish]" in written
    for words, sentence in (
        (["search", "--preset", "rhn-ptb-small", "--data", text], "ptb must have 929,589 tokens in train, got"),
        (
            ["search", "--preset", "rhn-ptb-small"],
            "must have the folder of its published text, got none. Give --data DIR",
        ),
        (["search", tmp_path / "mine.toml", "--preset", "rhn-ptb"], "must be a file or a preset, got both"),
        (["init", tmp_path / "more.toml", "--preset", "lstm"], "A preset must be one of awd-lstm-mos-wt2"),
        (
            ["search", "--preset", "rhn-ptb", "--data", text, "--unit", "character"],
            "--unit must be left out",
        ),
        (["search", "--unit", "word"], "must have an experiment.toml, --data DIR or --preset NAME, got none"),
    ):
        code, output = said(*words)
        assert code == 2
        assert sentence in output
        assert "Traceback" not in output


def test_the_benchmark_at_paper_scale_is_the_preset(tmp_path):
    """benchmarks/paper_scale.py builds its plan without pydantic and without the file."""
    given = paper_scale.plan(paper_scale.parsed(["--data", str(tmp_path)]))
    read = read_preset("stacked-lstm-ptb", tmp_path).plan()
    assert replace(given.task, folder=None) == replace(read.task, folder=None)
    assert given.dense_task == given.task
    assert given.train == read.train
    assert given.space.dimensions == {name: read.space.dimensions[name] for name in given.space.dimensions}
    rest = read.space.dimensions.keys() - given.space.dimensions.keys()
    assert all(len(read.space.dimensions[name]) == 1 for name in rest)
    for name in (
        "sparsity",
        "n_candidates",
        "ask_batch",
        "rungs",
        "keep",
        "criteria",
        "spectrum",
        "distance",
        "sampler",
    ):
        assert getattr(given, name) == getattr(read, name), name
