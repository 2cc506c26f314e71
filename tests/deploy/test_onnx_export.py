"""ONNX Runtime computes the same as the decoder and the network: 1e-5."""

import pytest
import torch
from torch.nn import functional

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from hyperpruning.deploy.onnx_export import export_onnx  # noqa: E402
from hyperpruning.models.language_model import LanguageModel  # noqa: E402
from hyperpruning.models.rhn import RHNLayer  # noqa: E402
from hyperpruning.models.sequence_model import Forecaster, SequenceClassifier  # noqa: E402
from packed import sparse  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS, BATCH = 12, 3
LANGUAGE = {
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru"},
    "rnn": {"cell": "rnn"},
    "rhn": {"cell": "rhn", "depth": 2},
    "uncoupled rhn": {"cell": "uncoupled_rhn", "depth": 2, "layers": 1},
    "mixture": {"hidden": [9, 7], "experts": 3, "dropout": {"input": 0.1}},
}


def made(network):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(0.5 * torch.randn(value.shape, generator=generator))
            if value.ndim == 2:
                value.mul_(sparse(*value.shape, 0.4, seed=1) != 0)
    if hasattr(network, "scale"):
        network.scale.fill_(2.0)
        network.mean.fill_(0.3)
    return network.eval()


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def fed(path, x, batch, steps):
    """The outputs of a graph: each step with the state carried on, or the whole sequence at once."""
    runner = session(path)
    state = {one.name: torch.zeros(batch, one.shape[1]).numpy() for one in runner.get_inputs() if one.name != "x"}
    names, found = [one.name for one in runner.get_outputs()], []
    for one in x if steps else [x]:
        values = dict(zip(names, runner.run(None, {"x": one.numpy(), **state}), strict=True))
        found.append(torch.from_numpy(values["output"]))
        state = {name: values[f"{name}_next"] for name in state}
    return torch.stack(found) if steps else found[0]


def language_model(name):
    return made(LanguageModel(15, **{"embedding": 10, "hidden": 9, "layers": 2} | LANGUAGE[name]))


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("name", LANGUAGE)
def test_a_language_model_has_the_same_logits(tmp_path, name, sequences):
    network, x = language_model(name), torch.randint(15, (STEPS, BATCH))
    export_onnx(network, tmp_path / "m.onnx", sequences=sequences)
    found = fed(tmp_path / "m.onnx", x, BATCH, not sequences)
    torch.testing.assert_close(found, network(x)[0].detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_sequences_of_a_classifier_have_the_same_logits(tmp_path, pool):
    network, x = made(SequenceClassifier(4, 3, hidden=8, pool=pool)), torch.randn(STEPS, BATCH, 4)
    export_onnx(network, tmp_path / "m.onnx", sequences=True)
    found = fed(tmp_path / "m.onnx", x, BATCH, False)
    torch.testing.assert_close(found, network(x.transpose(0, 1)).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "rnn", "rhn"])
def test_a_forecaster_predicts_the_same(tmp_path, cell, sequences):
    network, x = made(Forecaster(4, 3, cell=cell, hidden=8)), torch.randn(STEPS, BATCH, 4)
    export_onnx(network, tmp_path / "m.onnx", sequences=sequences)
    found = fed(tmp_path / "m.onnx", x, BATCH, not sequences)
    expected = network(x.transpose(0, 1)).detach()
    torch.testing.assert_close(found if sequences else found[-1], expected, rtol=0, atol=1e-5)


def test_layers_alone_give_the_top_layers_output(tmp_path):
    network, x = made(RHNLayer(4, 8, depth=2)), torch.randn(STEPS, BATCH, 4)
    export_onnx(network, tmp_path / "m.onnx")
    torch.testing.assert_close(fed(tmp_path / "m.onnx", x, BATCH, True), network(x)[0].detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_int8_has_nearly_the_same_loss(tmp_path, name, sequences):
    """On targets that the network itself finds likely: the metric of a network that has learnt something."""
    network, x = language_model(name), torch.randint(15, (100, BATCH))
    export_onnx(network, tmp_path / "m.onnx", sequences=sequences, precision="int8")
    expected = network(x)[0].detach()
    found = fed(tmp_path / "m.onnx", x, BATCH, not sequences)
    targets = torch.distributions.Categorical(logits=expected).sample().flatten()
    losses = [float(functional.cross_entropy(logits.flatten(0, 1), targets)) for logits in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert not found.equal(expected)


def test_what_onnx_cannot_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'must be "last", got "mean"'):
        export_onnx(SequenceClassifier(4, 3, hidden=8, pool="mean"), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="precision of ONNX must be one of exact, int8, got 'fp16'"):
        export_onnx(RHNLayer(4, 8, depth=2), tmp_path / "m.onnx", precision="fp16")
    assert not list(tmp_path.iterdir())
