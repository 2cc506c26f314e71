"""One direction of a bidirectional module is a driven map of its own."""

import pytest
import torch
from torch import nn

import hyperpruning as hp

CELLS = [nn.LSTM, nn.GRU, nn.RNN]


def bidirectional(cell, **options):
    torch.manual_seed(0)
    return cell(3, 5, 2, bidirectional=True, dtype=torch.float64, **options), torch.randn(25, 2, 3).double()


def one_way(network, layer, backward):
    """A module of one layer and direction with the weights of one direction of a bidirectional module."""
    width = getattr(network, f"weight_ih_l{layer}").shape[1]
    single = type(network)(width, network.hidden_size, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in single.named_parameters():
            parameter.copy_(getattr(network, name.replace("l0", f"l{layer}") + ("_reverse" if backward else "")))
    return single


@pytest.mark.parametrize("which", ["forward", "backward"])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("state", ["h", "full"])
def test_it_equals_a_module_of_one_direction(cell, layer, which, state):
    network, inputs = bidirectional(cell)
    start = torch.randn(4, 2, 5).double()
    starts = (start, start.flip(0)) if cell is nn.LSTM else start
    lower = inputs
    if layer:  # what layer 1 reads, by torch
        first = cell(3, 5, bidirectional=True, dtype=torch.float64)
        first.load_state_dict({name: value for name, value in network.state_dict().items() if "l0" in name})
        lower = first(inputs, tuple(part[:2] for part in starts) if cell is nn.LSTM else starts[:2])[0].detach()
    index, backward = 2 * layer + (which == "backward"), which == "backward"
    of_one = tuple(part[index : index + 1] for part in starts) if cell is nn.LSTM else starts[index : index + 1]
    expected = hp.lyapunov_spectrum(
        one_way(network, layer, backward), lower.flip(0) if backward else lower, start=of_one, warmup=5, state=state
    )
    found = hp.lyapunov_spectrum(hp.Direction(network, which, layer), inputs, start=starts, warmup=5, state=state)
    torch.testing.assert_close(found.growth, expected.growth, atol=1e-12, rtol=0)


def test_batch_first_and_dtype():
    network, inputs = bidirectional(nn.LSTM)
    other = nn.LSTM(3, 5, 2, bidirectional=True, batch_first=True)
    other.load_state_dict(network.state_dict())
    expected = hp.lyapunov_spectrum(
        hp.Direction(other.double(), "backward", 1), inputs.float().double().transpose(0, 1), state="full"
    )
    single = hp.lyapunov_spectrum(
        hp.Direction(other.float(), "backward", 1), inputs.float().transpose(0, 1), state="full", dtype=torch.float64
    )
    torch.testing.assert_close(single.growth, expected.growth, atol=1e-12, rtol=0)
    default = hp.lyapunov_spectrum(hp.Direction(other, "backward", 1), inputs.float().transpose(0, 1), state="full")
    assert torch.equal(default.growth, single.growth)  # float64 for (h, c), also below


def test_in_a_list_of_layers():
    torch.manual_seed(0)
    low, high = nn.GRU(3, 5, bidirectional=True, dtype=torch.float64), nn.RNN(5, 4, dtype=torch.float64)
    inputs = torch.randn(25, 2, 3).double()
    expected = hp.lyapunov_spectrum([one_way(low, 0, False), high], inputs)
    assert torch.equal(hp.lyapunov_spectrum([hp.Direction(low, "forward"), high], inputs).growth, expected.growth)
    for part in (hp.Direction(low, "backward"), hp.Direction(bidirectional(nn.GRU)[0], "forward", 1)):
        with pytest.raises(ValueError, match="In a list of layers a Direction must be 'forward' of a module of one"):
            hp.lyapunov_spectrum([part, high], inputs)
    for part, kind in ((low, "a bidirectional GRU"), (nn.Linear(2, 2), "Linear"), (hp.DrivenStep(None, 0), "DrivenS")):
        with pytest.raises(TypeError, match=f"must consist of driven layers, modules and directions, got {kind}"):
            hp.lyapunov_spectrum([part, high], inputs)


def test_what_has_no_such_direction_is_said():
    network, inputs = bidirectional(nn.GRU)
    with pytest.raises(ValueError, match=r"bidirectional must be False, got True\. Name one direction: hp\.Direction"):
        hp.lyapunov_spectrum(network, inputs)
    with pytest.raises(ValueError, match="with bidirectional=True, got GRU"):
        hp.Direction(nn.GRU(3, 5), "forward")
    with pytest.raises(ValueError, match="which must be 'forward' or 'backward', got 'both'"):
        hp.Direction(network, "both")
    with pytest.raises(ValueError, match="layer must be from 0 to 1, got 2"):
        hp.Direction(network, "forward", 2)
    with pytest.raises(ValueError, match="training mode with dropout"):
        hp.lyapunov_spectrum(hp.Direction(bidirectional(nn.GRU, dropout=0.5)[0], "forward"), inputs)
