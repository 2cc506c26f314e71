"""Whole units: norms and masks against plain loops, and a smaller network with the same outputs."""

import pytest
import torch
from torch import nn

from highway import highway
from hyperpruning.models.stack import Stack, stacked_layers
from hyperpruning.structured.selection import remaining_weights, strongest_units, units_within_budget
from hyperpruning.structured.units import Axis, UnitGroup, group_lasso, group_norms, recurrent_units, shrink, unit_masks

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
WIDTHS = (4, 2, 5)  # of 6 units each


class Network(nn.Module):
    """A reader of its own beside the decoder, as a second head has it."""

    def __init__(self, cell, layers=3, bias=True):
        super().__init__()
        self.rnn = CELLS[cell](3, 6, layers, bias=bias)
        self.decoder, self.second = nn.Linear(6, 7), nn.Linear(6, 2)

    def forward(self, inputs, state=None):
        outputs, _ = self.rnn(inputs, state)
        return torch.cat([self.decoder(outputs), self.second(outputs)], -1)

    def units(self):
        return recurrent_units(self, "rnn", readers=["decoder.weight", "second.weight"])


def values(model):
    return dict(model.named_parameters())


def norms_of(model, groups):
    return {name: group_norms(values(model), units).detach() for name, units in groups.items()}


@torch.no_grad()
def prune(model, groups, kept):
    for name, mask in unit_masks(values(model), groups, kept).items():
        model.get_parameter(name).mul_(mask)


def entries(model, groups, group, unit):
    """Where a unit stands, by a plain loop over the axes: {(parameter, flat position)}."""
    found = set()
    for axis in groups[group].axes:
        positions = torch.arange(values(model)[axis.parameter].numel()).view(values(model)[axis.parameter].shape)
        for block in range(axis.repeats):
            places = positions.select(axis.dim, block * groups[group].size + unit).flatten().tolist()
            found |= {(axis.parameter, place) for place in places}
    return found


@pytest.mark.parametrize(("cell", "gates"), [("lstm", 4), ("gru", 3), ("rnn", 1)])
def test_the_axes_of_torchs_layers(cell, gates):
    groups = Network(cell, layers=2).units()
    assert groups == {
        "rnn.l0": UnitGroup(
            6,
            (
                *(Axis(f"rnn.{kind}_l0", 0, gates) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
                Axis("rnn.weight_hh_l0", 1),
                Axis("rnn.weight_ih_l1", 1),
            ),
        ),
        "rnn.l1": UnitGroup(
            6,
            (
                *(Axis(f"rnn.{kind}_l1", 0, gates) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
                Axis("rnn.weight_hh_l1", 1),
                Axis("decoder.weight", 1),
                Axis("second.weight", 1),
            ),
        ),
    }


@pytest.mark.parametrize("cell", CELLS)
def test_norms_and_masks_are_those_of_a_plain_loop(cell):
    torch.manual_seed(0)
    model = Network(cell, layers=2).double()
    groups = model.units()
    kept = {name: torch.arange(6) != 2 for name in groups}
    masks = unit_masks(values(model), groups, kept)
    pruned = set()
    for name in groups:
        norms = group_norms(values(model), groups[name])
        for unit in range(6):
            places = entries(model, groups, name, unit)
            total = sum(values(model)[parameter].flatten()[place].item() ** 2 for parameter, place in places)
            assert norms[unit].item() == pytest.approx(total**0.5, rel=1e-12)
            pruned |= places if unit == 2 else set()
    off = {(name, place) for name, mask in masks.items() for place in (~mask.flatten()).nonzero().flatten().tolist()}
    assert off == pruned


def test_the_penalty_is_the_sum_of_the_norms_and_its_gradient_points_along_each_unit():
    torch.manual_seed(0)
    model = Network("lstm", layers=2).double()
    groups = model.units()
    penalty = group_lasso(values(model), groups, epsilon=1e-8)
    expected = sum((norms**2 + 1e-8).sqrt().sum() for norms in norms_of(model, groups).values())
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-12)
    penalty.backward()
    norm = norms_of(model, groups)["rnn.l1"][3]  # the decoder's column 3 belongs to this unit alone: gradient w / norm
    gradient, weight = model.decoder.weight.grad[:, 3], model.decoder.weight.detach()[:, 3]
    torch.testing.assert_close(gradient, weight / (norm**2 + 1e-8).sqrt(), rtol=1e-12, atol=0)


def test_the_penalty_has_a_gradient_at_zero_and_empties_units():
    torch.manual_seed(0)
    model = Network("gru", layers=1)
    prune(model, model.units(), {"rnn.l0": torch.arange(6) != 1})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        group_lasso(values(model), model.units()).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    assert norms_of(model, model.units())["rnn.l0"].max() < 0.1


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_a_shrunk_network_has_the_same_outputs(cell, bias, dtype):
    torch.manual_seed(1)
    model = Network(cell, bias=bias).to(dtype)
    groups = model.units()
    kept = strongest_units(norms_of(model, groups), dict(zip(groups, WIDTHS, strict=True)))
    prune(model, groups, kept)
    small = shrink(values(model), groups, kept)

    inputs = torch.randn(20, 4, 3, dtype=dtype)
    starts = [torch.randn(3, 4, 6, dtype=dtype) for _ in range(2 if cell == "lstm" else 1)]
    state = tuple(starts) if cell == "lstm" else starts[0]  # from any state: nobody reads what is cut
    outputs, below = inputs, 3
    for layer, width in enumerate(WIDTHS):
        single = CELLS[cell](below, width, bias=bias).to(dtype)
        single.load_state_dict(
            {name: small[f"rnn.{name.replace('_l0', f'_l{layer}')}"] for name, _ in single.named_parameters()}
        )
        start = tuple(part[layer : layer + 1, :, kept[f"rnn.l{layer}"]].contiguous() for part in starts)
        outputs, _ = single(outputs, start if cell == "lstm" else start[0])
        below = width
    outputs = torch.cat(
        [outputs @ small[f"{name}.weight"].T + small[f"{name}.bias"] for name in ("decoder", "second")], -1
    )
    torch.testing.assert_close(outputs, model(inputs, state), rtol=0, atol=TOLERANCE[dtype])
    assert model.rnn.weight_ih_l0.shape != small["rnn.weight_ih_l0"].shape


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("gates", [2, 3])
def test_a_shrunk_recurrent_highway_layer_has_the_same_outputs(gates, dtype):
    torch.manual_seed(2)
    size, depth = 6, 4
    parameters = {
        "w": torch.randn(gates * size, 3, dtype=dtype),
        "r": torch.randn(depth, gates * size, size, dtype=dtype) / 3,
        "b": torch.randn(depth, gates * size, dtype=dtype),
        "decoder.weight": torch.randn(5, size, dtype=dtype) / size,
    }
    axes = (Axis("w", 0, gates), Axis("r", 1, gates), Axis("b", 1, gates), Axis("r", 2), Axis("decoder.weight", 1))
    groups = {"rhn": UnitGroup(size, axes)}
    kept = strongest_units({"rhn": group_norms(parameters, groups["rhn"])}, 4)
    pruned = {name: parameters[name] * mask for name, mask in unit_masks(parameters, groups, kept).items()}
    small = shrink(pruned, groups, kept)
    assert {name: tuple(p.shape) for name, p in small.items()} == {
        "w": (gates * 4, 3),
        "r": (depth, gates * 4, 4),
        "b": (depth, gates * 4),
        "decoder.weight": (5, 4),
    }
    large, little = (highway(of["w"], of["r"], of["b"]) for of in (pruned, small))
    state = torch.randn(2, size, dtype=dtype)
    reduced = state[:, kept["rhn"]]
    for input in torch.randn(20, 2, 3, dtype=dtype):
        state, reduced = large.step(state, input), little.step(reduced, input)
        one, two = state @ pruned["decoder.weight"].T, reduced @ small["decoder.weight"].T
        torch.testing.assert_close(two, one, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("cell", CELLS)
def test_a_pruned_unit_is_zero_for_all_time_from_a_zero_start_and_only_from_it(cell):
    torch.manual_seed(3)
    model = Network(cell, layers=1).double()
    prune(model, model.units(), {"rnn.l0": torch.arange(6) != 2})
    inputs = 10 * torch.randn(50, 4, 3, dtype=torch.float64)
    outputs, _ = model.rnn(inputs)
    assert not outputs[..., 2].any()
    assert outputs[..., [0, 1, 3, 4, 5]].all()
    one = torch.ones(1, 4, 6, dtype=torch.float64)
    outputs, _ = model.rnn(inputs, (one, one) if cell == "lstm" else one)
    halving = 0.5 ** torch.arange(1, 51, dtype=torch.float64)  # GRU: h' = h / 2; LSTM: c' = c / 2, h = tanh(c) / 2
    expected = {"gru": halving, "lstm": halving.tanh() / 2, "rnn": 0 * halving}[cell]
    torch.testing.assert_close(outputs[:, 0, 2], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gates", [2, 3])
def test_a_pruned_unit_of_a_recurrent_highway_layer_halves_in_every_micro_step(gates):
    torch.manual_seed(3)
    w, r, b = (torch.randn(shape, dtype=torch.float64) for shape in ((gates * 6, 3), (4, gates * 6, 6), (4, gates * 6)))
    units = UnitGroup(6, (Axis("w", 0, gates), Axis("r", 1, gates), Axis("b", 1, gates), Axis("r", 2)))
    parameters, kept = {"w": w, "r": r, "b": b}, {"rhn": torch.arange(6) != 2}
    pruned = {name: parameters[name] * mask for name, mask in unit_masks(parameters, {"rhn": units}, kept).items()}
    layer = highway(pruned["w"], pruned["r"], pruned["b"])
    zero, one = torch.zeros(2, 6, dtype=torch.float64), torch.ones(2, 6, dtype=torch.float64)
    for step, input in enumerate(torch.randn(10, 2, 3, dtype=torch.float64), start=1):
        zero, one = layer.step(zero, input), layer.step(one, input)
        assert not zero[:, 2].any()
        assert zero[:, kept["rhn"]].all()
        assert one[:, 2].eq(0.5 ** (4 * step)).all()


def test_a_unit_that_is_not_zero_is_not_cut():
    model = Network("lstm", layers=2)
    groups = model.units()
    kept = {name: torch.arange(6) != 2 for name in groups}
    prune(model, groups, kept)
    for name in ("rnn.bias_hh_l1", "decoder.weight", "rnn.weight_hh_l1"):
        before = model.get_parameter(name).detach().clone()
        with torch.no_grad():
            model.get_parameter(name)[..., 2] = 1e-30  # its square is zero in float32
        with pytest.raises(ValueError, match=r"unit 2 of 'rnn.l1' \(1 units in all\). Multiply"):
            shrink(values(model), groups, kept)
        with torch.no_grad():
            model.get_parameter(name).copy_(before)
    assert shrink(values(model), groups, kept)["decoder.weight"].shape == (7, 5)


def test_the_same_units_can_be_cut_from_tensors_that_no_layer_owns():
    """The columns of an embedding as units: one line."""
    torch.manual_seed(0)
    parameters = {"embedding": torch.randn(9, 4), "weight_ih": torch.randn(12, 4), "other": torch.randn(2)}
    groups = {"columns": UnitGroup(4, (Axis("embedding", 1), Axis("weight_ih", 1)))}
    kept = {"columns": torch.tensor([True, False, True, True])}
    masks = unit_masks(parameters, groups, kept)
    assert set(masks) == {"embedding", "weight_ih"}
    small = shrink({name: p * masks.get(name, 1) for name, p in parameters.items()}, groups, kept)
    assert {name: tuple(p.shape) for name, p in small.items()} == {
        "embedding": (9, 3),
        "weight_ih": (12, 3),
        "other": (2,),
    }


def test_the_strongest_units_are_exactly_so_many_with_ties_in_order():
    norms = {"a": torch.tensor([1.0, 2.0, 2.0]), "b": torch.tensor([2.0, 0.0, 5.0, 2.0])}
    assert {n: k.tolist() for n, k in strongest_units(norms, {"a": 1, "b": 3}).items()} == {
        "a": [False, True, False],
        "b": [True, False, True, True],
    }
    assert {n: k.tolist() for n, k in strongest_units(norms, 4).items()} == {
        "a": [False, True, True],
        "b": [True, False, True, False],
    }
    weak = norms | {"c": torch.tensor([0.0, 0.1])}
    assert [int(k.sum()) for k in strongest_units(weak, 3).values()] == [1, 1, 1]  # no layer is lost
    assert all(sum(int(k.sum()) for k in strongest_units(weak, n).values()) == n for n in range(3, 10))


def test_the_strongest_units_explain_what_cannot_be():
    norms = {"a": torch.ones(3), "b": torch.ones(2)}
    for count, says in ((1, "2 to 5"), (6, "2 to 5"), ({"a": 1}, "'b' must be 1 to 2"), ({"a": 4, "b": 1}, "got 4")):
        with pytest.raises(ValueError, match=says):
            strongest_units(norms, count)
    with pytest.raises(ValueError, match="must be finite"):
        strongest_units({"a": torch.tensor([1.0, float("nan")])}, 1)


@pytest.mark.parametrize("cell", CELLS)
def test_the_weights_left_are_those_of_the_masks_and_of_the_smaller_network(cell):
    model = Network(cell)
    groups = model.units()
    kept = strongest_units(norms_of(model, groups), dict(zip(groups, WIDTHS, strict=True)))
    masks = unit_masks(values(model), groups, kept)
    shapes = {name: p.shape for name, p in values(model).items() if p.ndim == 2}
    left = remaining_weights(shapes, groups, kept)
    assert left == sum(int(masks[name].sum()) for name in shapes)
    assert left == remaining_weights(shapes, groups, dict(zip(groups, WIDTHS, strict=True)))
    prune(model, groups, kept)
    small = shrink(values(model), groups, kept)
    assert left == sum(p.numel() for p in small.values() if p.ndim == 2)
    assert remaining_weights(shapes, groups, dict.fromkeys(groups, 6)) == sum(
        shape.numel() for shape in shapes.values()
    )


def test_iss_keeps_the_published_number_of_weights():
    """2 x 1500 units of the PTB model (66.00 M) to 373 and 315: 21.8 M, computed by hand in Wen et al.'s sizes."""
    with torch.device("meta"):
        model = nn.ModuleDict({"rnn": nn.LSTM(1500, 1500, 2), "decoder": nn.Linear(1500, 10_000)})
    groups = recurrent_units(model, "rnn", readers=["decoder.weight"])
    shapes = {"encoder.weight": torch.Size([10_000, 1500])}
    shapes |= {name: p.shape for name, p in model.named_parameters() if p.ndim == 2}
    by_hand = 10_000 * 1500 + 4 * 373 * (1500 + 373) + 4 * 315 * (373 + 315) + 10_000 * 315
    assert remaining_weights(shapes, groups, {"rnn.l0": 373, "rnn.l1": 315}) == by_hand == 21_811_396


def test_units_within_a_budget_are_the_strongest_that_fit():
    torch.manual_seed(4)
    model = Network("lstm", layers=2)
    groups = model.units()
    norms = norms_of(model, groups)
    shapes = {name: p.shape for name, p in values(model).items() if p.ndim == 2}
    full, reached = sum(shape.numel() for shape in shapes.values()), set()
    for budget in range(51, full + 1, 7):
        kept = units_within_budget(norms, groups, shapes, budget)
        counts = {name: int(choice.sum()) for name, choice in kept.items()}
        left = remaining_weights(shapes, groups, counts)
        assert left <= budget
        for name in groups:  # no unit more would fit, and of each layer the strongest stay
            assert counts[name] == 6 or remaining_weights(shapes, groups, counts | {name: counts[name] + 1}) > budget
            assert kept[name].equal(strongest_units(norms, counts)[name])
        reached.add(left)
    assert len(reached) > 10
    assert remaining_weights(shapes, groups, units_within_budget(norms, groups, shapes, full)) == full
    least = remaining_weights(shapes, groups, dict.fromkeys(groups, 1))
    assert remaining_weights(shapes, groups, units_within_budget(norms, groups, shapes, least)) == least
    with pytest.raises(ValueError, match=f"at least {least} weights, .* got {least - 1}"):
        units_within_budget(norms, groups, shapes, least - 1)


def test_units_of_equal_norm_come_in_order():
    columns = {name: UnitGroup(50, (Axis(name, 0),)) for name in "ab"}
    shapes, norms = dict.fromkeys("ab", torch.Size([50, 10])), dict.fromkeys("ab", torch.ones(50))
    kept = units_within_budget(norms, columns, shapes, 609)  # 60 rows: the first of each, then the first
    assert kept["a"].all()
    assert kept["b"].equal(torch.arange(50) < 10)


def test_what_does_not_fit_is_explained():
    model = Network("gru", layers=1)
    with pytest.raises(ValueError, match=r"got 'decoder'. Name such a module"):
        recurrent_units(model, "decoder", readers=[])
    with pytest.raises(ValueError, match="without projection"):
        recurrent_units(nn.LSTM(2, 4, proj_size=2), "", readers=[])
    with pytest.raises(ValueError, match="one direction"):
        recurrent_units(nn.GRU(2, 4, bidirectional=True), "", readers=[])
    with pytest.raises(ValueError, match=r"got 'encoder.weight'"):
        recurrent_units(model, "rnn", readers=["encoder.weight"])
    kept = {"u": torch.ones(6, dtype=torch.bool)}
    for axes, says in (
        ((Axis("rnn.weight_hh_l0", 0),), "1 x 6 entries along dim 0"),
        ((Axis("rnn.weight_hh_l0", 2),), "along dim 2"),
        ((Axis("nothing", 0),), "got no such parameter"),
    ):
        for use in (shrink, unit_masks):
            with pytest.raises(ValueError, match=says):
                use(values(model), {"u": UnitGroup(6, axes)}, kept)
        with pytest.raises(ValueError, match=says):
            group_norms(values(model), UnitGroup(6, axes))
    twice = {name: UnitGroup(6, (Axis("decoder.weight", 1),)) for name in "uv"}
    with pytest.raises(ValueError, match=r"in 'u' and 'v'. Join"):
        unit_masks(values(model), twice, dict.fromkeys("uv", kept["u"]))
    for choice in (kept["u"][:5], kept["u"].int(), ~kept["u"]):
        with pytest.raises(ValueError, match=r"kept must be bool \(6,\) for group 'rnn.l0'"):
            unit_masks(values(model), model.units(), {"rnn.l0": choice})
    with pytest.raises(ValueError, match="got None"):
        unit_masks(values(model), model.units(), {})


def test_a_tie_must_be_told_whole():
    model = nn.ModuleDict({"encoder": nn.Embedding(9, 6), "rnn": nn.GRU(6, 6), "decoder": nn.Linear(6, 9)})
    assert recurrent_units(model, "rnn", readers=["decoder.weight"])
    model["decoder"].weight = model["encoder"].weight
    with pytest.raises(ValueError, match=r"Add it \(\"rnn.weight_ih_l0\"\), or untie"):
        recurrent_units(model, "rnn", readers=["decoder.weight"])
    groups = recurrent_units(model, "rnn", readers=["decoder.weight", "rnn.weight_ih_l0"])
    assert groups["rnn.l0"].axes[-2:] == (Axis("encoder.weight", 1), Axis("rnn.weight_ih_l0", 1))


@pytest.mark.parametrize("cell", CELLS)
def test_a_stack_of_single_layers_is_described_layer_by_layer(cell):
    model = nn.ModuleDict({"rnn": Stack(stacked_layers(CELLS[cell], 3, (6, 4))), "decoder": nn.Linear(4, 5)})
    groups = recurrent_units(model, "rnn.0", readers=["rnn.1.weight_ih_l0"])
    groups |= recurrent_units(model, "rnn.1", readers=["decoder.weight"])
    kept = strongest_units({name: torch.arange(1.0 * units.size) for name, units in groups.items()}, 5)
    masks = unit_masks(values(model), groups, kept)
    small = shrink({name: p * masks.get(name, 1) for name, p in values(model).items()}, groups, kept)
    assert small["rnn.1.weight_ih_l0"].shape[1] == int(kept["rnn.0.l0"].sum())
