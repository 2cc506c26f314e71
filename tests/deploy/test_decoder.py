"""The decoder against torch, for every architecture; its state; and what it refuses."""

import copy

import pytest
import torch
from torch import nn

from hyperpruning.deploy.compiler import CompilerError
from hyperpruning.deploy.decoder import Decoder
from hyperpruning.deploy.evaluation import SequenceDecoder
from hyperpruning.deploy.model_file import save_model
from hyperpruning.deploy.native import BUILDS, Kernel
from hyperpruning.deploy.parts import network_parts
from hyperpruning.deploy.torch_network import TorchNetwork
from hyperpruning.models.language_model import LanguageModel
from hyperpruning.models.rhn import RHNLayer
from hyperpruning.models.sequence_model import Forecaster, SequenceClassifier

VOCABULARY = 23


def pruned(network, sparsity=0.8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim == 2:
                value *= 1.5 * (torch.rand(value.shape, generator=generator) > sparsity)
            else:
                value.uniform_(-0.2, 0.2, generator=generator)
    return network.eval()


def language_model(**sizes):
    return pruned(LanguageModel(VOCABULARY, **{"embedding": 12, "hidden": 19, **sizes}))


LANGUAGE_MODELS = {
    "lstm": lambda: language_model(),
    "tied": lambda: language_model(embedding=19, tied=True),
    "awd-lstm": lambda: language_model(hidden=[21, 12], dropout={"hidden": 0.1, "weight": 0.2}, tied=True),
    "mixture": lambda: language_model(hidden=[21, 13], experts=3, dropout={"latent": 0.1}, tied=True),
    "gru": lambda: language_model(cell="gru"),
    "rnn": lambda: language_model(cell="rnn", layers=3),
    "rhn": lambda: language_model(cell="rhn", layers=1, depth=4),
    "uncoupled rhn": lambda: language_model(cell="uncoupled_rhn", depth=2),
}
LAYERS = {
    "lstm": lambda: nn.LSTM(5, 33, 2),
    "gru": lambda: nn.GRU(5, 33),
    "relu": lambda: nn.RNN(5, 12, nonlinearity="relu"),
    "no bias": lambda: nn.GRU(5, 12, bias=False),
    "rhn": lambda: RHNLayer(5, 12, depth=2),
}


@pytest.fixture(autouse=True, scope="module")
def _kernel():
    try:
        Kernel()
    except CompilerError as error:
        pytest.skip(str(error))


def unrolled(decoder, inputs):
    """The outputs of all steps, (T, B, ...)."""
    return torch.stack([decoder.step(x) for x in inputs])


@torch.no_grad()
def difference(name, steps, batch=1):
    network = LANGUAGE_MODELS[name]()
    tokens = torch.randint(VOCABULARY, (steps, batch), generator=torch.Generator().manual_seed(2))
    return (unrolled(Decoder(network, batch=batch), tokens) - network(tokens)[0]).abs().max()


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_exact_is_torch_over_1000_steps(name):
    assert difference(name, 1000) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_exact_is_torch_over_10000_steps(name):
    assert difference(name, 10_000) <= 1e-6


@pytest.mark.parametrize("name", ["lstm", "mixture", "rhn"])
def test_sequences_of_a_batch_advance_together(name):
    assert difference(name, 50, batch=3) <= 1e-6


@pytest.mark.parametrize("precision", ["exact", "int8"])
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_layers_alone_take_vectors_and_a_head_of_the_users_own(name, precision):
    network, head = pruned(LAYERS[name]()), nn.Sequential(nn.LazyLinear(4), nn.Sigmoid())
    inputs = torch.randn(60, 2, 5, generator=torch.Generator().manual_seed(3))
    expected = head(network(inputs)[0])
    found = unrolled(Decoder(network, head=head, precision=precision, batch=2), inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if precision == "exact" else 0.02)


@pytest.mark.parametrize("pool", ["last", "mean"])
@pytest.mark.parametrize("kind", [SequenceClassifier, Forecaster])
@torch.no_grad()
def test_classifiers_and_forecasters_answer_after_every_step(kind, pool):
    network, generator = pruned(kind(5, 4, hidden=14, pool=pool)), torch.Generator().manual_seed(4)
    network.mean.normal_(generator=generator)
    network.scale.uniform_(0.5, 2, generator=generator)
    decoder, inputs = Decoder(network, batch=2), torch.randn(2, 20, 5, generator=generator)
    for step in range(20):
        torch.testing.assert_close(decoder.step(inputs[:, step]), network(inputs[:, : step + 1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "uncoupled rhn"])
@pytest.mark.parametrize("kind", ["dense_int8", "window_int8", "block_int8"])
def test_int8_has_the_same_bits_in_every_build(name, kind):
    network = LANGUAGE_MODELS[name]()
    formats = {linear.name: kind for linear in network_parts(network).linears()}
    tokens = torch.randint(VOCABULARY, (2000, 1), generator=torch.Generator().manual_seed(5))
    available = [build for number, build in enumerate(BUILDS) if Kernel().library.hp_has_build(number)]
    decoders = [Decoder(network, precision="int8", instructions=build, formats=formats) for build in available]
    assert {report.format for decoder in decoders for report in decoder.report()} == {kind}
    outputs = [unrolled(decoder, tokens) for decoder in decoders]
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert all(torch.equal(one.state_dict()["state"], decoders[0].state_dict()["state"]) for one in decoders)


@pytest.mark.slow
def test_int8_has_the_same_bits_in_every_build_over_10000_steps():
    network = pruned(nn.LSTM(40, 130, 2), 0.9)
    inputs = torch.randn(10_000, 1, 40, generator=torch.Generator().manual_seed(6))
    available = [build for number, build in enumerate(BUILDS) if Kernel().library.hp_has_build(number)]
    outputs = [unrolled(Decoder(network, precision="int8", instructions=build), inputs) for build in available]
    assert all(torch.equal(output, outputs[0]) for output in outputs)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@torch.no_grad()
def test_int8_is_near_torch(name):
    network, tokens = LANGUAGE_MODELS[name](), torch.randint(VOCABULARY, (300, 1))
    found, expected = unrolled(Decoder(network, precision="int8"), tokens), network(tokens)[0]
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


@pytest.mark.parametrize("precision", ["exact", "int8"])
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@torch.no_grad()
def test_torch_alone_computes_the_same(name, precision):
    network, tokens = LANGUAGE_MODELS[name](), torch.randint(VOCABULARY, (40, 2))
    native, fallback = (Decoder(network, precision=precision, batch=2) for _ in range(2))
    fallback._network = TorchNetwork(network_parts(network), precision)
    fallback.reset()
    # exact: rounding; int8: an activation that lies between two levels may round to either
    bound = 1e-6 if precision == "exact" else 0.01 * network(tokens)[0].abs().max()
    assert (unrolled(native, tokens) - unrolled(fallback, tokens)).abs().max() <= bound
    with pytest.raises(IndexError, match="Tokens must be 0 to 22"):
        fallback.step(torch.tensor([0, -1]))


def test_a_state_can_be_saved_and_restored(tmp_path):
    network = language_model()
    decoder, tokens = Decoder(network, batch=2), torch.randint(VOCABULARY, (30, 2))
    unrolled(decoder, tokens[:10])
    torch.save(decoder.state_dict(), tmp_path / "state.pt")
    rest = unrolled(decoder, tokens[10:])
    again = Decoder(network)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.testing.assert_close(unrolled(again, tokens[10:]), rest, rtol=0, atol=1e-6)  # formats may differ
    again.reset()
    first = again.step(tokens[0])
    assert torch.equal(first, Decoder(network, batch=2, formats=chosen(again)).step(tokens[0]))


def chosen(decoder):
    return {report.name: report.format for report in decoder.report()}


def test_the_mean_of_a_classifier_is_in_its_state():
    network, inputs = pruned(SequenceClassifier(3, 2, hidden=6, pool="mean")), torch.randn(8, 1, 3)
    decoder = Decoder(network)
    unrolled(decoder, inputs[:4])
    again = Decoder(network, formats=chosen(decoder))
    again.load_state_dict(decoder.state_dict())
    assert torch.equal(unrolled(again, inputs[4:]), unrolled(decoder, inputs[4:]))


def test_the_state_of_another_network_is_refused():
    network = language_model()
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.rnn.weight_hh_l0[0, 0] += 1
    decoder, state = Decoder(network), Decoder(other).state_dict()
    with pytest.raises(ValueError, match=r"A state must come from state_dict of .* got one of another network"):
        decoder.load_state_dict(state)
    good = decoder.state_dict()
    for wrong in ({}, good | {"state": torch.zeros(1, 3)}, good | {"sum": torch.zeros(2, 19)}, good | {"steps": -1}):
        with pytest.raises(ValueError, match=r"A state must come from state_dict of a decoder of the same"):
            decoder.load_state_dict(wrong)


def test_a_decoder_reads_a_model_file(tmp_path):
    network, path = language_model(cell="gru"), tmp_path / "m.safetensors"
    words = [chr(97 + number) for number in range(VOCABULARY)]
    save_model(path, dict(network.named_parameters()), {"model": network.sizes, "vocabulary": words})
    decoder = Decoder.load(path)
    with torch.no_grad():
        torch.testing.assert_close(decoder.step(3), network(torch.tensor([[3]]))[0][0], rtol=0, atol=1e-6)


def test_the_choice_of_formats_is_reported():
    decoder = Decoder(pruned(nn.LSTM(64, 200), 0.95), precision="int8")
    reports = {report.name: report for report in decoder.report()}
    assert set(reports) == {"weight_ih_l0", "weight_hh_l0"}
    one = reports["weight_hh_l0"]
    assert (one.rows, one.columns, one.bytes) == (800, 200, one.bytes)
    assert one.sparsity == pytest.approx(0.95, abs=0.01)
    assert set(one.microseconds) >= {"dense_int8", "window_int8"}
    assert one.format == min(one.microseconds, key=one.microseconds.__getitem__)
    assert all(text in repr(decoder) for text in ("Decoder(int8, ", "weight_hh_l0", one.format, f"{one.bytes:,} bytes"))


def test_weights_are_packed_once():
    network = language_model()
    decoder, x = Decoder(network), torch.tensor([1])
    before = decoder.step(x)
    with torch.no_grad():
        for value in network.parameters():
            value.zero_()
    decoder.reset()
    assert torch.equal(decoder.step(x), before)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (
            lambda: Decoder(nn.TransformerEncoderLayer(4, 2)),
            TypeError,
            "must be a .*, got TransformerEncoderLayer",
        ),
        (lambda: Decoder(nn.LSTM(2, 3, bidirectional=True)), ValueError, "bidirectional .* must be False, got True"),
        (lambda: Decoder(nn.LSTM(2, 3, proj_size=2)), ValueError, "proj_size .* must be 0, got 2"),
        (
            lambda: Decoder(nn.GRU(2, 3), precision="int4"),
            ValueError,
            "must be one of exact, int8, got 'int4'",
        ),
        (lambda: Decoder(nn.GRU(2, 3), batch=0), ValueError, "batch must be at least 1, got 0"),
        (lambda: Decoder(language_model(), head=nn.Identity()), ValueError, "head must be None for a LanguageModel"),
        (lambda: Decoder(nn.GRU(2, 3), formats={"weight_hh_l1": "x"}), ValueError, "Did you mean 'weight_hh_l0'"),
        (lambda: Decoder(nn.GRU(2, 3), formats={"weight_hh_l0": "x"}), ValueError, "format must be one of"),
        (lambda: Decoder(nn.GRU(2, 3)).step(torch.zeros(2, 2)), ValueError, r"shape \(1, 2\), got \(2, 2\)"),
        (lambda: Decoder(language_model()).step(VOCABULARY), IndexError, r"Tokens must be 0 to 22, got \[23\]"),
        (lambda: Decoder(language_model()).step(-1), IndexError, r"Tokens must be 0 to 22, got \[-1\]"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_a_decoder_answers_sequences_of_different_lengths(pool):
    network = SequenceClassifier(3, 4, hidden=6, pool=pool).eval()
    inputs, lengths = torch.randn(5, 9, 3), torch.tensor([9, 1, 4, 8, 2])
    found = SequenceDecoder(Decoder(network))(inputs, lengths)
    torch.testing.assert_close(found, network(inputs, lengths), rtol=0, atol=1e-6)
