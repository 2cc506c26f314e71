"""The experiment: TOML there and back, every mistake named at once, and the whole search in one call."""

import dataclasses
import pickle
import re
import tomllib
import tracemalloc
from pathlib import Path

import pytest

from hyperpruning.api import hyperprune, model_spectrum
from hyperpruning.deploy.model_file import describe_model, load_model
from hyperpruning.experiment import (
    KINDS,
    Experiment,
    ExperimentError,
    demo_experiment,
    owners,
    read_experiment,
    replaced,
    settings_page,
    word_experiment,
)
from hyperpruning.files import weights_sha256
from hyperpruning.search.forecast import epochs_of_one_search
from hyperpruning.search.ledger import RunFolderError
from hyperpruning.search.validation import validate
from hyperpruning.sparsity.serialization import COMPONENTS
from small import small


@pytest.mark.parametrize("make", [Experiment, demo_experiment, lambda: word_experiment("/some/where")])
def test_toml_there_and_back(make):
    assert Experiment(**tomllib.loads(make().to_toml())) == make()


def test_the_demo_looks_early_and_saves_epochs():
    plan = demo_experiment().plan()
    assert plan.rungs[0] <= 0.05 * plan.train.epochs
    assert plan.n_candidates >= 24
    one_seed = dataclasses.replace(plan, finalist_seeds=1)
    assert 8 * epochs_of_one_search(one_seed, "loss", plan.n_candidates) <= plan.n_candidates * plan.train.epochs
    assert len(plan.criteria) >= 3
    assert plan.as_many_weights
    assert plan.train_all
    assert plan.finalist_seeds >= 3


def test_an_experiment_travels_to_another_process():
    experiment = Experiment(search={"train_all": True}, model={"dropout": {"input": 0.2}})
    assert pickle.loads(pickle.dumps(experiment)) == experiment


def test_a_plan_has_what_the_experiment_says(text):
    plan = small(text, model={"dropout": 0.1}, dense={"dropout": 0.3}).plan()
    assert (plan.task.dropout, plan.dense_task.dropout) == (0.1, 0.3)
    assert plan.task.probe_steps == 14
    assert plan.train.updates_per_epoch == 3
    assert plan.space.dimensions["drop_fraction"].low == 0.3


def test_the_space_is_made_from_the_components_of_a_method(text):
    space = small(text).plan().space
    assert list(space.dimensions) == [
        "allocation",
        "drop_scope",
        "redistribute",
        "grow",
        "weight_init",
        "drop_fraction",
    ]
    assert space.size() == 2 * 3 * 3 * 2 * 6
    wider = {"allocation": ("erk",), "grow": ("random",), "regrowth_init": ("zero", "keep")}
    assert list(small(text, space=wider).plan().space.dimensions) == [
        "allocation",
        "drop_scope",
        "redistribute",
        "regrowth_init",
        "weight_init",
        "drop_fraction",
    ]
    assert {"method", *COMPONENTS} <= set(tomllib.loads(Experiment().to_toml())["space"])


def test_whole_methods_can_be_pooled_by_name(text, tmp_path):
    names = ("set", "rigl", "static", "mest", "selfish-rnn-gates")
    history = hyperprune(small(text, space={"method": names}), tmp_path / "run")
    assert {candidate.config["method"] for candidate in history.candidates.values()} == set(names)
    assert len({record.active for record in history.at(1).values()}) == 1
    with pytest.raises(ExperimentError, match=r"got 'riggl'. Did you mean 'rigl'"):
        small(text, space={"method": ["riggl"]})
    with pytest.raises(ValueError, match=r"got one that ends after epoch 3 with rungs = .1, 2.. Raise rungs"):
        validate(small(text, space={"method": (*names, "gmp")}).plan())


def test_every_mistake_is_named_at_once_with_the_nearest_name():
    with pytest.raises(ExperimentError) as caught:
        Experiment(
            modle={},
            self=1,
            search={"n_candidate": 3, "sampler": "tpee", "criteria": ["rank_sums"]},
            space={"drop": ["magnitud"], "drop_fraction": {"low": "two", "high": 0.5, "step": 0.1}},
            pruning={"sparsity": 1.0},
            training={"epochs": 2.5},
            spectrum={"distance": "l3"},
        )
    lines = str(caught.value).splitlines()
    assert len(lines) == 10
    for part in (
        "modle is not a setting. Did you mean 'model'?",
        "self is not a setting.",
        "search.n_candidate is not a setting. Did you mean 'n_candidates'?",
        "search.sampler must be one of tpe, random, gp, qmc, grid, nsga2, got 'tpee'. Did you mean 'tpe'?",
        "got 'rank_sums'. Did you mean 'rank_sum'?",
        "got 'magnitud'. Did you mean 'magnitude'?",
        "space.drop_fraction.low must be a valid number, got 'two'.",
        "pruning.sparsity must be at least 0 and below 1, got 1.0.",
        "training.epochs must be a whole number, got 2.5.",
        "got 'l3'. Did you mean 'l2'?",
    ):
        assert part in lines or any(part in line for line in lines), part


def test_what_does_not_go_together_is_named_at_once_too():
    with pytest.raises(ExperimentError) as caught:
        Experiment(model={"tied": True, "hidden": 3}, search={"keep": (3,)}, training={"finetune_lr": 2.0})
    first, second, third = str(caught.value).splitlines()
    assert "tied" in first
    assert second.startswith("finetune_lr must be 1 without finetuning, got 2.0.")
    assert third.startswith("rungs and keep must have one entry for each round, got 2 and 1 entries.")


def test_the_page_of_settings_is_up_to_date():
    page = Path(__file__).parents[1] / "docs" / "settings.md"
    assert page.read_text() == settings_page(), "write it anew: make docs"


def test_a_setting_is_in_the_file_with_its_sentence_and_on_the_page():
    page = settings_page()
    for kind in KINDS:
        text = Experiment(task={"kind": kind}).to_toml()
        for owner, field in ((one, field) for one in owners(kind) for field in dataclasses.fields(one)):
            if field.metadata.get("section"):
                assert re.search(rf"^(# )?{field.name} =.*# {re.escape(field.metadata['doc'])}$", text, re.MULTILINE)
                assert f"| `{field.name}` |" in page
                assert f"{field.name}: {field.metadata['doc']}." in owner.__doc__


VARIATIONAL = {"embedding": 0.1, "input": 0.2, "hidden": 0.2, "output": 0.2}
NETWORKS = {
    "rhn": {"cell": "rhn", "layers": 1, "depth": 3, "dropout": VARIATIONAL | {"state": 0.2}},
    "uncoupled_rhn": {"cell": "uncoupled_rhn", "layers": 2, "depth": 2, "tied": True},
    "awd": {"hidden": (10, 8), "dropout": VARIATIONAL | {"weight": 0.4}, "tied": True},
    "mos": {"hidden": (10, 6), "dropout": VARIATIONAL | {"weight": 0.4, "latent": 0.2}, "experts": 3, "tied": True},
}


PENALISED = {"epochs": 3, "activation_penalty": 2.0, "temporal_penalty": 1.0}
SHORT = {"n_candidates": 3, "keep": (2, 1), "ask_batch": 3}


class Killed(Exception):
    pass


@pytest.mark.parametrize("kind", ["rhn", "awd", "mos", pytest.param("uncoupled_rhn", marks=pytest.mark.slow)])
def test_every_kind_of_network_is_searched_resumed_and_delivered(text, tmp_path, kind):
    experiment = small(text, model=NETWORKS[kind], training=PENALISED, search=SHORT)
    assert Experiment(**tomllib.loads(experiment.to_toml())) == experiment
    whole = hyperprune(experiment, tmp_path / "whole")
    facts = []

    def kill(fact):
        facts.append(fact)
        if len(facts) == 12:
            raise Killed

    with pytest.raises(Killed):
        hyperprune(experiment, tmp_path / "killed", on_fact=kill)
    resumed = hyperprune(experiment, tmp_path / "killed")
    assert (resumed.winners, resumed.finals) == (whole.winners, whole.finals)
    final = whole.finals[whole.winners["ls"]]
    network = load_model(tmp_path / "whole" / "winner.safetensors")
    matrices = [weight for weight in network.parameters() if weight.ndim == 2]
    assert sum(int(weight.count_nonzero()) for weight in matrices) <= final.active
    exact = round(0.4 * sum(weight.numel() for weight in matrices))
    assert final.active == exact
    spectrum = model_spectrum(tmp_path / "whole", steps=10, warmup=4, sequences=2)
    assert spectrum.exponents.isfinite().any()
    assert len(spectrum.exponents) == sum(network.rnn.widths)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"hidden": 0}, "model.hidden must be at least 1 and at most 1000000, got 0."),
        ({"hidden": [8, 0]}, "model.hidden must be at least 1 and at most 1000000, got (8, 0)."),
        ({"dropout": {"input": 1.0}}, "model.dropout must be at least 0 and below 1, got {'input': 1.0}."),
        ({"dropout": {"inputs": 0.1}}, "must be one of embedding, input,"),
        ({"hidden": [4, 4, 4], "layers": 2}, "got layers=2 and hidden=[4, 4, 4]. Leave layers out"),
        ({"cell": "rhm"}, "Did you mean 'rhn'?"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(model, says):
    with pytest.raises(ExperimentError) as caught:
        Experiment(model=model)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_layers_are_as_many_as_hidden_lists():
    for model, layers in (({"hidden": [4, 5, 6]}, 3), ({"hidden": [4, 5], "layers": 2}, 2), ({"hidden": 4}, 2)):
        experiment = Experiment(model=model)
        assert experiment.plan().task.model(5).sizes["layers"] == layers
        assert Experiment(**tomllib.loads(experiment.to_toml())) == experiment


def test_rounds_that_eliminate_everybody_are_refused():
    with pytest.raises(ExperimentError, match="keep must be at least 1, got"):
        Experiment(search={"rungs": (1, 2), "keep": (3, 0)})


def test_a_relative_data_folder_is_taken_from_the_file(tmp_path):
    (tmp_path / "experiment.toml").write_text('[data]\nfolder = "text"\n')
    assert read_experiment(tmp_path / "experiment.toml").data.folder == tmp_path / "text"


def test_a_tied_model_is_counted_and_stored_once(text, tmp_path):
    tied = small(text, model={"hidden": 8, "embedding": 8, "tied": True})
    history = hyperprune(tied, tmp_path / "run")
    model, description = (read(tmp_path / "run" / "winner.safetensors") for read in (load_model, describe_model))
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    active, total = sum(int(weight.count_nonzero()) for weight in matrices), sum(weight.numel() for weight in matrices)
    assert active == round(0.4 * total)
    assert description["sparsity"] == 1 - active / total
    assert weights_sha256(model.state_dict()) == history.finals[description["network"]].sha256


@pytest.mark.parametrize("content", [None, "[data", b"\xff\xfe"])
def test_a_file_that_is_no_experiment_is_explained(tmp_path, content):
    path = tmp_path / "experiment.toml"
    if isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ExperimentError, match="An experiment must be a TOML file"):
        read_experiment(path)


def test_the_whole_search_in_one_call(text, tmp_path):
    folder = tmp_path / "run"
    history = hyperprune(small(text), folder)
    winner = history.winners["ls"]
    model, description = load_model(folder / "winner.safetensors"), describe_model(folder / "winner.safetensors")
    assert weights_sha256(model.state_dict()) == history.finals[winner].sha256 == description["sha256"]
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    active, total = sum(int(weight.count_nonzero()) for weight in matrices), sum(weight.numel() for weight in matrices)
    assert active == round(0.4 * total) == history.finals[winner].active
    assert description["sparsity"] == 1 - active / total
    assert description["network"] == winner
    assert (folder / "report.html").stat().st_size > 10_000
    assert read_experiment(folder / "experiment.toml") == small(text)

    before = {path: path.read_bytes() for path in folder.rglob("*.jsonl")}
    hyperprune(small(text), folder)
    assert {path: path.read_bytes() for path in folder.rglob("*.jsonl")} == before

    with pytest.raises(RunFolderError, match=r"train\.seed is 0 in the ledger and 1 now"):
        hyperprune(replaced(small(text), training={"seed": 1}), folder)
    assert read_experiment(folder / "experiment.toml") == small(text)


def test_a_winner_whose_weights_were_lost_is_trained_again(text, tmp_path):
    folder = tmp_path / "run"
    history = hyperprune(small(text), folder)
    winner = folder / "networks" / history.winners["ls"]
    for path in (*winner.glob("*.pt"), folder / "winner.safetensors"):
        path.unlink()
    hyperprune(small(text), folder)
    weights = load_model(folder / "winner.safetensors").state_dict()
    assert weights_sha256(weights) == history.finals[winner.name].sha256


@pytest.mark.parametrize(
    ("section", "values", "says"),
    [
        ("model", {"layers": 1_000_000}, "layers must be at least 1 and at most 1000"),
        ("model", {"cell": "rhn", "depth": 1_000_000}, "depth must be at least 1 and at most 1000"),
        ("model", {"experts": 10**7}, "experts must be at least 1 and at most 1000"),
        ("model", {"hidden": 10**19}, "hidden must be at least 1 and at most 1000000"),
        ("model", {"hidden": (8,) * 20_000}, "hidden must list at most 1000 layers, got 20000"),
        ("model", {"embedding": 10**7}, "embedding must be at least 1 and at most 1000000"),
        ("training", {"epochs": 10**9}, "epochs must be at least 1 and at most 10000"),
        ("training", {"threads": 1_000_000}, "threads must be at least 1 and at most 4096, got 1000000"),
        ("training", {"threads": 10**12}, "threads must be at least 1 and at most 4096, got 1000000000000"),
        ("training", {"lr": 1e308}, r"lr must be above 0 and at most 1e\+38"),
        ("pruning", {"updates_per_epoch": 10**18}, "updates_per_epoch must be at least 0 and at most 1000000"),
        ("search", {"n_candidates": 10**9}, "n_candidates must be at least 2 and at most 100000"),
        ("space", {"drop_fraction": {"low": 0.3, "high": 0.8, "step": 1e-9}}, "must have at most 10,000 values"),
    ],
)
def test_sizes_beyond_reason_are_refused_at_once(section, values, says):
    with pytest.raises(ExperimentError, match=says):
        Experiment(**{section: values})


def test_what_is_no_file_is_no_experiment(tmp_path):
    with pytest.raises(ExperimentError, match="which is not valid: it is no file"):
        read_experiment(Path("/dev/zero"))
    for text, says in (
        ("a = " + "[" * 5000, "which is not valid"),
        ("a." * 50_000 + "a = 1", "it has 100,005 bytes, more than 65,536"),
        ("a." * 30_000 + "a = 1", "a line has more than 200 dots"),
    ):
        (tmp_path / "deep.toml").write_text(text)
        with pytest.raises(ExperimentError, match=says):
            read_experiment(tmp_path / "deep.toml")


@pytest.mark.parametrize(
    "lines",
    [
        ["[" + "b." * 199 + "b]", *(f"x{number}." + "a." * 198 + "a = 1" for number in range(160))],
        ["[training]", *(f"x{number} = 1" for number in range(6_000))],
    ],
)
def test_64_kilobytes_of_keys_cost_little_memory_and_few_words(tmp_path, lines):
    path = tmp_path / "dotted.toml"
    path.write_text("\n".join(lines))
    assert 50_000 < path.stat().st_size <= 2**16
    tracemalloc.start()
    try:
        with pytest.raises(ExperimentError) as caught:
            read_experiment(path)
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()
    assert "is not a setting" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 21


@pytest.mark.parametrize("name", ["a\nb", "a\tb", 'a"b', "a\\b", "a\x7fb", "\u2028", "[red]", "''"])
def test_a_data_folder_of_any_name_is_found_again(text, tmp_path, name):
    folder = text.rename(tmp_path / name)
    experiment = small(folder)
    path = tmp_path / "experiment.toml"
    path.write_text(experiment.to_toml(), encoding="utf-8")
    assert read_experiment(path) == experiment
    assert len(read_experiment(path).plan().task.corpus().train) > 0
