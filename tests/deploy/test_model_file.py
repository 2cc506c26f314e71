"""Model files: safetensors with what it takes to build the network, and nothing that runs."""

import math
import pickle
import random

import pytest
import torch
from safetensors.torch import save_file

from hyperpruning.deploy.model_file import ModelFileError, describe_model, load_model, save_model
from hyperpruning.files import weights_sha256
from hyperpruning.lyapunov.spectrum import lyapunov_spectrum
from hyperpruning.models.language_model import LanguageModel
from hyperpruning.models.stack import CELLS
from hyperpruning.structured.language_model import language_model_units, shrink_language_model
from hyperpruning.structured.selection import strongest_units
from hyperpruning.structured.units import group_norms, unit_masks

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
        (lambda path: path.write_bytes(b"hello"), "must be safetensors, got"),
        (lambda path: save_file({"a": torch.zeros(1)}, path), "must describe its network"),
        (lambda path: None, "must exist"),
    ],
)
def test_what_is_no_model_file_is_explained(tmp_path, write, says):
    path = tmp_path / "m.safetensors"
    write(path)
    with pytest.raises(ModelFileError, match=says):
        load_model(path)


def test_a_model_file_may_begin_like_a_pickle(tmp_path):
    path, weights = tmp_path / "m.safetensors", {"a": torch.zeros(2)}
    for padding in range(400, 640):  # the file begins with the length of its header, which can be 0x280 = b"\x80\x02"
        save_model(path, weights, {"note": "." * padding})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert describe_model(path) == {"note": "." * padding}


def test_weights_that_do_not_fit_the_description_are_refused(tmp_path):
    model = LanguageModel(5, **SIZES)
    weights = {name: value for name, value in model.named_parameters() if name != "rnn.weight_hh_l0"}
    save_model(tmp_path / "m.safetensors", weights, {"model": SIZES, "vocabulary": list("abcde")})
    with pytest.raises(ModelFileError, match="must hold the network that it describes"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("tied", [True, False])
def test_weights_that_changed_since_they_were_described_are_refused(tmp_path, tied):
    path, sizes = tmp_path / "m.safetensors", SIZES | {"tied": tied}
    model = LanguageModel(5, **sizes)
    description = {"model": sizes, "vocabulary": list("abcde"), "sha256": weights_sha256(model.state_dict())}
    save_model(path, dict(model.named_parameters()), description)
    assert weights_sha256(load_model(path).state_dict()) == description["sha256"]
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # one bit of the last weight
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="must have the SHA-256 in its description"):
        load_model(path)


def test_40_of_40_flipped_bits_are_refused_or_change_nothing(tmp_path):
    path, sizes = tmp_path / "m.safetensors", SIZES | {"tied": False}
    model = LanguageModel(5, **sizes)
    whole = weights_sha256(model.state_dict())
    save_model(path, dict(model.named_parameters()), {"model": sizes, "vocabulary": list("abcde"), "sha256": whole})
    content, draw = path.read_bytes(), random.Random(0)
    weights_from = 8 + int.from_bytes(content[:8], "little")
    for number in range(40):
        changed = bytearray(content)
        at = draw.randrange(weights_from, len(content)) if number % 2 else draw.randrange(weights_from)
        changed[at] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            loaded = load_model(path)
        except ModelFileError:
            continue
        assert at < weights_from
        assert weights_sha256(loaded.state_dict()) == whole


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden": 12_000},
        {"layers": 100_000},
        {"layers": 300_000_000},
        {"cell": "rhn", "depth": 1_000_000},
        {"experts": 10_000_000},
        {"hidden": 10**6, "embedding": 10**6},
        {"hidden": 10**19},
        {"tied": "no"},
        {"embedding": 0},
        {"experts": None, "cell": ["lstm"]},
    ],
)
def test_sizes_are_compared_with_the_file_before_a_network_is_built(tmp_path, sizes):
    model = LanguageModel(5, **SIZES)
    description = {"model": SIZES | sizes, "vocabulary": list("abcde")}
    save_model(tmp_path / "m.safetensors", dict(model.named_parameters()), description)
    with pytest.raises(ModelFileError, match="must hold the network that it describes"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("vocabulary", [[], None, "abcde", 5, {"a": 1}])
def test_a_vocabulary_must_be_a_list_of_tokens(tmp_path, vocabulary):
    model = LanguageModel(5, **SIZES)
    save_model(tmp_path / "m.safetensors", dict(model.named_parameters()), {"model": SIZES, "vocabulary": vocabulary})
    with pytest.raises(ModelFileError, match="must hold the network that it describes"):
        load_model(tmp_path / "m.safetensors")


def test_weights_must_be_floating_point(tmp_path):
    weights = {name: value.int() for name, value in LanguageModel(5, **SIZES).named_parameters()}
    save_model(tmp_path / "m.safetensors", weights, {"model": SIZES, "vocabulary": list("abcde")})
    with pytest.raises(ModelFileError, match="must hold the network that it describes"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("text", ["null", "[1]", "not JSON", "[" * 100_000, '{"kind": ["x"]}'])
def test_a_description_must_be_a_json_object(tmp_path, text):
    save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", {"hyperpruning 1": text})
    with pytest.raises(ModelFileError, match="must describe its network as a JSON object"):
        load_model(tmp_path / "m.safetensors")


def pruned(model, counts):
    """Keep so many units of each layer, the others zero; returns the choice."""
    groups, values = language_model_units(model), dict(model.named_parameters())
    norms = {name: group_norms(values, units).detach() for name, units in groups.items()}
    kept = strongest_units(norms, dict(zip(groups, counts, strict=True)))
    with torch.no_grad():
        for name, mask in unit_masks(values, groups, kept).items():
            values[name].mul_(mask)
    return kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("counts", [(2, 5, 3), (4, 4, 4)])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_a_shrunk_language_model_has_the_same_logits_and_goes_there_and_back(tmp_path, cell, tied, counts, dtype):
    model = LanguageModel(7, cell=cell, embedding=6, hidden=6, layers=3, tied=tied, seed=1).to(dtype).eval()
    kept = pruned(model, counts)
    small = shrink_language_model(model, kept)
    assert not small.training
    tokens = torch.randint(7, (20, 4), generator=torch.Generator().manual_seed(0))
    logits, state = small(tokens)
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(logits, model(tokens)[0], rtol=0, atol=tolerance)
    part, carried = small(tokens[:8])
    torch.testing.assert_close(torch.cat([part, small(tokens[8:], carried)[0]]), logits, rtol=0, atol=tolerance)
    assert (state[0] if cell == "lstm" else state).shape == (1, 4, sum(counts))

    sizes = small.sizes
    assert (sizes["hidden"], sizes["layers"], sizes["tied"]) == (list(counts), 3, tied)
    assert sizes["embedding"] == (counts[-1] if tied else 6)  # a tied embedding shrinks with the top layer
    assert (small.decoder.weight is small.encoder.weight) == tied
    weights = dict(small.named_parameters())
    save_model(tmp_path / "m.safetensors", weights, {"model": sizes, "vocabulary": list("abcdefg")})
    again = load_model(tmp_path / "m.safetensors").to(dtype)
    assert again(tokens)[0].equal(logits) or dtype == torch.float64  # loading builds float32 networks
    assert again.sizes == sizes


NAMED = {"embedding": 0.1, "input": 0.4, "hidden": 0.2, "output": 0.4}
KINDS = {
    "rhn": {"cell": "rhn", "depth": 3, "dropout": NAMED | {"state": 0.2}},
    "uncoupled": {"cell": "uncoupled_rhn", "depth": 2, "tied": True},
    "awd": {"hidden": [6, 8, 6], "dropout": NAMED | {"weight": 0.5}, "tied": True},
    "mos": {"hidden": [7, 6, 8], "dropout": NAMED | {"weight": 0.5, "latent": 0.3}, "tied": True, "experts": 3},
    "rhn with mos": {"cell": "rhn", "depth": 2, "experts": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_language_model_is_shrunk_and_goes_there_and_back(tmp_path, kind):
    sizes = {"embedding": 6, "hidden": 6, "layers": 3} | KINDS[kind]
    model = LanguageModel(7, **sizes, seed=1).eval()
    small = shrink_language_model(model, pruned(model, (2, 5, 3)))
    tokens = torch.randint(7, (20, 4), generator=torch.Generator().manual_seed(0))
    logits, _ = small(tokens)
    torch.testing.assert_close(logits, model(tokens)[0], rtol=0, atol=1e-6)
    assert small.sizes["hidden"] == [2, 5, 3]
    assert small.encoder.weight.shape[1] == (3 if kind in ("uncoupled", "awd") else 6)  # a mixture reads its own size
    assert small.sizes["dropout"] == sizes.get("dropout", 0.0)
    weights = dict(small.named_parameters())
    save_model(tmp_path / "m.safetensors", weights, {"model": small.sizes, "vocabulary": list("abcdefg")})
    assert load_model(tmp_path / "m.safetensors")(tokens)[0].equal(logits)


def test_a_shrunk_model_can_be_shrunk_again():
    model = LanguageModel(7, cell="gru", embedding=6, hidden=6, tied=True, seed=1).double()
    first = shrink_language_model(model, pruned(model, (5, 4)))
    assert first.training
    second = shrink_language_model(first, pruned(first, (2, 3)))
    tokens = torch.arange(7).repeat(2)[:, None]
    torch.testing.assert_close(second(tokens)[0], first(tokens)[0], rtol=0, atol=1e-12)
    assert second.sizes["hidden"] == [2, 3]
    assert second.encoder.weight.shape == (7, 3)


def test_a_language_model_whose_units_are_not_zero_is_not_shrunk():
    model = LanguageModel(7, embedding=6, hidden=6)
    kept = {name: torch.arange(6) != 2 for name in language_model_units(model)}
    with pytest.raises(ValueError, match=r"others in unit 2 of 'rnn.l0'"):
        shrink_language_model(model, kept)


@pytest.mark.parametrize("cell", CELLS)
def test_the_spectrum_of_a_shrunk_model_is_that_of_the_units_it_has(cell):
    model = LanguageModel(7, cell=cell, embedding=6, hidden=6, seed=1).double().eval()
    small = shrink_language_model(model, pruned(model, (3, 5)))
    inputs = model.encoder(torch.randint(7, (60, 2), generator=torch.Generator().manual_seed(0))).detach()
    ours, theirs = (lyapunov_spectrum(of.rnn, inputs).sorted() for of in (small, model))
    # what is cut has nothing to say: h forgets at once, and a GRU's halves in every step
    cut = torch.full((4,), -math.log(2) if cell == "gru" else -math.inf, dtype=torch.float64)
    expected = torch.cat([ours, cut]).sort(descending=True).values
    torch.testing.assert_close(theirs, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("hidden", [[], ["a"], [3, 0], 4.5, [3, 2]])
def test_a_shrunk_model_file_that_does_not_fit_is_refused(tmp_path, hidden):
    model = LanguageModel(5, cell="gru", embedding=6, hidden=6)
    small = shrink_language_model(model, pruned(model, (3, 4)))
    description = {"model": small.sizes | {"hidden": hidden}, "vocabulary": list("abcde")}
    save_model(tmp_path / "m.safetensors", dict(small.named_parameters()), description)
    with pytest.raises(ModelFileError, match="must hold the network that it describes"):
        load_model(tmp_path / "m.safetensors")
