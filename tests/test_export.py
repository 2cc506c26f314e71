"""Model files: safetensors with what it takes to build the network, and nothing that runs."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from hyperpruning.export import ModelFileError, describe_model, load_model, save_model
from hyperpruning.models.language_model import LanguageModel

SIZES = {"cell": "gru", "embedding": 6, "hidden": 6, "layers": 1, "dropout": 0.0, "tied": True, "embedding_std": 1.0}


@pytest.mark.parametrize("tied", [True, False])
def test_there_and_back(tmp_path, tied):
    sizes = SIZES | {"tied": tied}
    model = LanguageModel(5, **sizes, seed=3)
    weights = dict(model.named_parameters())  # tied ones once
    save_model(tmp_path / "m.safetensors", weights, {"model": sizes, "vocabulary": list("abcde"), "x": 1.5})
    before = (tmp_path / "m.safetensors").read_bytes()
    save_model(tmp_path / "m.safetensors", weights, {"model": sizes, "vocabulary": list("abcde"), "x": 1.5})
    assert (tmp_path / "m.safetensors").read_bytes() == before
    again = load_model(tmp_path / "m.safetensors")
    assert not again.training
    assert all(again.state_dict()[name].equal(value) for name, value in model.state_dict().items())
    assert describe_model(tmp_path / "m.safetensors")["x"] == 1.5


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: torch.save({"a": torch.zeros(1)}, path), "is a pickle"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "is a pickle"),
        (lambda path: path.write_bytes(b"hello"), "is safetensors, and"),
        (lambda path: save_file({"a": torch.zeros(1)}, path), "how to build its network"),
        (lambda path: None, "must exist"),
    ],
)
def test_what_is_no_model_file_is_explained(tmp_path, write, says):
    path = tmp_path / "m.safetensors"
    write(path)
    with pytest.raises(ModelFileError, match=says):
        load_model(path)


def test_weights_that_do_not_fit_the_description_are_refused(tmp_path):
    model = LanguageModel(5, **SIZES)
    weights = {name: value for name, value in model.named_parameters() if name != "rnn.weight_hh_l0"}
    save_model(tmp_path / "m.safetensors", weights, {"model": SIZES, "vocabulary": list("abcde")})
    with pytest.raises(ModelFileError, match="holds the network it describes"):
        load_model(tmp_path / "m.safetensors")
