"""A network without its pruned units is a smaller dense one in every format: folder, decoder, C and ONNX."""

import pytest
import torch
from test_c_export import COMPILERS, outputs

from hyperpruning.deploy.c_export import export_c
from hyperpruning.deploy.decoder import Decoder
from hyperpruning.deploy.model_folder import load, save_folder
from hyperpruning.deploy.onnx_export import export_onnx
from hyperpruning.exports import network_of
from hyperpruning.models.language_model import LanguageModel
from hyperpruning.models.sequence_model import Forecaster, SequenceClassifier
from hyperpruning.structured.language_model import language_model_units, shrink_language_model
from hyperpruning.structured.sequence_model import sequence_model_units, shrink_sequence_model
from hyperpruning.structured.units import unit_masks

VOCABULARY = [f"w{number}" for number in range(20)]
NETWORKS = {
    "lstm": {"hidden": 24, "layers": 2},
    "gru": {"cell": "gru", "hidden": 24},
    "rhn": {"cell": "rhn", "hidden": 16, "layers": 1, "depth": 2},
    "tied": {"hidden": [22, 12], "tied": True, "dropout": {"weight": 0.2}},
}


@pytest.fixture(params=NETWORKS)
def networks(request, tmp_path):
    """A language model whose pruned units are zero, and the smaller one as a model folder gives it back."""
    generator = torch.Generator().manual_seed(0)
    model = LanguageModel(len(VOCABULARY), **{"embedding": 12, "layers": 2} | NETWORKS[request.param]).eval()
    groups, weights = language_model_units(model), dict(model.named_parameters())
    kept = {name: torch.rand(units.size, generator=generator) < 0.5 for name, units in groups.items()}
    with torch.no_grad():
        for value in weights.values():
            value.copy_(torch.randn(value.shape, generator=generator) / 2)
        for name, mask in unit_masks(weights, groups, kept).items():
            weights[name].mul_(mask)
    small = shrink_language_model(model, kept)
    save_folder(tmp_path / "model", dict(small.named_parameters()), {"model": small.sizes, "vocabulary": VOCABULARY})
    assert sum(map(torch.numel, small.parameters())) < 0.7 * sum(map(torch.numel, model.parameters()))
    return model, load(tmp_path / "model"), tmp_path


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens[:, None])[0][:, 0]


def test_a_folder_and_a_decoder_have_the_logits_of_the_large_network(networks):
    model, small, _ = networks
    tokens = torch.randint(len(VOCABULARY), (30,))
    torch.testing.assert_close(logits(small, tokens), logits(model, tokens), rtol=0, atol=1e-5)
    decoder = Decoder(small)
    steps = torch.stack([decoder.step(token)[0] for token in tokens])
    torch.testing.assert_close(steps, logits(model, tokens), rtol=0, atol=1e-5)
    assert decoder.report()[0].sparsity < 0.01  # smaller and dense


@pytest.mark.skipif(not COMPILERS, reason="no C compiler")
def test_c_has_the_logits_of_the_large_network(networks):
    model, _, folder = networks
    export_c(network_of(folder / "model"), folder / "net.c")
    tokens, _, found = outputs(folder, model, COMPILERS[0])
    torch.testing.assert_close(found, logits(model, tokens), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sequences", [False, True])
def test_onnx_has_the_logits_of_the_large_network(networks, sequences):
    pytest.importorskip("onnxruntime")
    from test_onnx_export import fed

    model, _, folder = networks
    export_onnx(network_of(folder / "model"), folder / "m.onnx", sequences=sequences)
    tokens = torch.randint(len(VOCABULARY), (12, 3))
    found = fed(folder / "m.onnx", tokens, 3, not sequences)
    torch.testing.assert_close(found, model(tokens)[0].detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("classifier", {"cell": "gru", "hidden": 20, "layers": 2, "pool": "mean"}),
        ("classifier", {"cell": "lstm", "hidden": [14, 18]}),
        ("classifier", {"cell": "uncoupled_rhn", "hidden": 16, "depth": 2}),
        ("forecaster", {"cell": "rnn", "hidden": 20}),
    ],
)
def test_classifiers_and_forecasters_are_shrunk_and_decoded(kind, sizes):
    generator = torch.Generator().manual_seed(0)
    model = (SequenceClassifier(3, 5, **sizes) if kind == "classifier" else Forecaster(3, 2, **sizes)).eval()
    model.mean.copy_(torch.tensor([0.5, 1.0, -1.0]))
    groups, weights = sequence_model_units(model), dict(model.named_parameters())
    kept = {name: torch.rand(units.size, generator=generator) < 0.5 for name, units in groups.items()}
    with pytest.raises(ValueError, match="All weights of a removed unit must be zero"):
        shrink_sequence_model(model, kept)
    with torch.no_grad():
        for name, mask in unit_masks(weights, groups, kept).items():
            weights[name].mul_(mask)
    small, x = shrink_sequence_model(model, kept), torch.randn(1, 12, 3, generator=generator)
    assert small.sizes["hidden"] == [int(of.sum()) for of in kept.values()]
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(small(x), expected, rtol=0, atol=1e-6)
    decoder = Decoder(small)
    for step in x[0].split(1):
        found = decoder.step(step)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
