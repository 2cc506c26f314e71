import dataclasses
import io
import warnings

import pytest
import torch
from torch import nn

from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.costs import multiply_adds
from hyperpruning.sparsity.masking import density
from hyperpruning.sparsity.method import Method, MethodError
from hyperpruning.sparsity.serialization import from_config
from hyperpruning.sparsity.sparsifier import Sparsifier

RIGL = METHODS["rigl"]


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 10))


def context(model):
    """Arguments that some methods need."""

    def loss():
        return model(torch.ones(1, 20)).square().sum()

    return {"total_steps": 40, "row_groups": {"0.weight": 4, "2.weight": 4}, "calibration": loss}


def train(model, sparsifier, steps, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(1, 20)).square().sum().backward()
        optimizer.step()
        yield sparsifier.step()


def test_the_active_cost_is_the_rounded_part_of_all_prunable_weights():
    model = two_layers()
    sparsifier = Sparsifier(model, None, RIGL, sparsity=0.777)
    assert sparsifier.active_cost == round(0.223 * 900)
    assert sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim == 2) == sparsifier.active_cost
    assert sparsifier.sparsity == pytest.approx(1 - sparsifier.active_cost / 900, abs=1e-15)
    assert set(sparsifier.masks) == {"0.weight", "2.weight"}  # biases stay dense
    assert sparsifier.density == {name: float(mask.double().mean()) for name, mask in sparsifier.masks.items()}


def test_an_update_of_rigl_by_hand():
    model = nn.Linear(4, 2, bias=False)
    method = dataclasses.replace(RIGL, interval=1, drop_fraction=0.5)
    sparsifier = Sparsifier(model, None, method, sparsity=0.5)
    sparsifier.masks["weight"].copy_(torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]))
    sparsifier.load_state_dict(sparsifier.state_dict())
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.9, -0.1, 0.8, 0.0], [0.2, 0.0, 0.0, 0.0]]))
    # drop -0.1 and 0.2; of the six positions not kept, the steepest are (0, 1), dropped just now, and (1, 2)
    model.weight.grad = torch.tensor([[9.0, -5.0, 9.0, 1.0], [2.0, 3.0, -4.0, 0.0]])
    update = sparsifier.step()
    assert sparsifier.masks["weight"].int().tolist() == [[1, 1, 1, 0], [0, 0, 1, 0]]
    assert torch.equal(model.weight.detach(), torch.tensor([[0.9, 0.0, 0.8, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    assert (update.dropped, update.grown, update.active) == ({"weight": 2}, {"weight": 2}, {"weight": 4})


def test_the_drop_fraction_follows_its_decay_to_the_last_update():
    model = two_layers()
    method = from_config({"drop_fraction": 0.5, "decay": "linear", "stop": 0.5, "interval": 10})
    sparsifier = Sparsifier(model, None, method, sparsity=0.5, total_steps=80)
    updates = {step: update for step, update in enumerate(train(model, sparsifier, 80), 1) if update}
    # f(t) = 0.5 (1 - t / 40), and 300 active weights in the first layer
    assert {step: update.dropped["0.weight"] for step, update in updates.items()} == {10: 112, 20: 75, 30: 37, 40: 0}


def test_there_is_no_update_in_the_last_step():
    model = two_layers()
    sparsifier = Sparsifier(model, None, METHODS["set"], sparsity=0.5, total_steps=20, interval=10)
    assert [step for step, update in enumerate(train(model, sparsifier, 20), 1) if update] == [10]


def test_without_total_steps_updates_go_on_at_the_first_drop_fraction():
    model = two_layers()
    sparsifier = Sparsifier(model, None, from_config({"stop": 0.1}), sparsity=0.5, interval=3)
    updates = [update for update in train(model, sparsifier, 30) if update]
    assert [update.step for update in updates] == list(range(3, 31, 3))
    assert all(update.dropped["0.weight"] == 150 for update in updates)


def test_tied_tensors_count_once():
    model = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12))
    model[1].weight = model[0].weight
    sparsifier = Sparsifier(model, None, RIGL, sparsity=0.5)
    assert list(sparsifier.masks) == ["0.weight"]
    assert sparsifier.active_cost == 72


def test_a_filter_chooses_what_is_pruned():
    model = two_layers()
    sparsifier = Sparsifier(model, None, RIGL, sparsity=0.5, prunable=lambda name, parameter: name == "2.weight")
    assert list(sparsifier.masks) == ["2.weight"]
    assert model[0].weight.count_nonzero() == 600


def test_every_state_of_the_weights_shape_is_zero_off_the_mask_and_starts_anew_on_regrowth():
    model = nn.Linear(20, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(model, optimizer, from_config({"interval": 1}), sparsity=0.5)
    state = optimizer.state[model.weight]
    state["average"] = torch.ones(10, 20, dtype=torch.float64)
    state["count"] = torch.ones(10, 20, dtype=torch.int32)
    state["step"], state["other"] = torch.tensor(3.0), torch.ones(4, 4)
    before = sparsifier.masks["weight"].clone()
    optimizer.step()
    sparsifier.step()
    after = sparsifier.masks["weight"]
    assert not state["count"][~(before & after)].any()
    # dropped and regrown at once: active before and after, yet begun anew
    assert int(state["count"].sum()) == 50
    assert torch.equal(state["average"], state["count"].double())
    assert state["step"] == 3
    assert state["other"].all()


def test_the_masks_are_changed_in_place():
    model = two_layers()
    sparsifier = Sparsifier(model, None, RIGL, sparsity=0.5, interval=1)
    held, before = sparsifier.masks["0.weight"], sparsifier.masks["0.weight"].clone()
    list(train(model, sparsifier, 1))
    assert held is sparsifier.masks["0.weight"]
    assert not torch.equal(held, before)


def test_a_step_without_update_keeps_the_weights_at_zero():
    model = two_layers()
    sparsifier = Sparsifier(model, None, RIGL, sparsity=0.9)
    with torch.no_grad():
        model[0].weight.add_(1)
    assert sparsifier.step() is None
    assert torch.equal(model[0].weight != 0, sparsifier.masks["0.weight"])


def test_sparsity_zero_leaves_the_model_dense_through_updates():
    for method in METHODS.values():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 12))
        if method.granularity.of:
            continue  # has a sparsity of its own
        sparsifier = Sparsifier(model, None, method, sparsity=0.0, interval=1, **context(model))
        assert all(not update or sum(update.dropped.values()) == 0 for update in train(model, sparsifier, 3))
        assert model[0].weight.count_nonzero() == 800


EMPTYING = {  # with a floor of 0 these update the second layer, whose weights are tiny, to no weight
    "redistribution": {"redistribute": "nonzeros", "interval": 1},
    "global growth": {"grow": "gradient", "grow_scope": "global", "interval": 1},
    "falling density": {"method": "magnitude-global", "density_until": 0.05},
    "falling density with growth": {
        "method": "granet",
        "density_start": 0.9,
        "density_until": 0.05,
        "interval": 1,
        "drop_fraction": 0.01,
    },
    "soft shrinkage": {"method": "iss-p", "interval": 1},
}


@pytest.mark.parametrize("case", EMPTYING)
@pytest.mark.parametrize("floor", [0.0, 0.02])
def test_a_global_drop_keeps_the_floor_or_says_which_tensor_it_empties(case, floor):
    model = two_layers()
    method = from_config({"drop_scope": "global", **EMPTYING[case], "floor": floor})
    sparsifier = Sparsifier(model, None, method, sparsity=0.5, total_steps=60)
    with torch.no_grad():
        model[2].weight.mul_(1e-9)

    def updates():
        for _ in range(8):
            model(torch.ones(1, 20)).square().sum().backward()
            model[2].weight.grad.mul_(1e-15)  # the smallest of the network, but not zero
            yield sparsifier.step()
            last.update({name: mask.clone() for name, mask in sparsifier.masks.items()})

    last = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    if not floor:
        with pytest.raises(MethodError, match=r"got none in '2.weight' at step \d, since its .* Set floor = 0.02"):
            list(updates())
        assert all(torch.equal(last[name], mask) for name, mask in sparsifier.masks.items())
        return
    for update in updates():
        if update:
            assert update.active["2.weight"] >= 6
            assert sum(update.active.values()) == sparsifier.active_cost
    assert sparsifier.active_cost == 450


SCORES = {
    "drop": ("drop", {"drop": lambda v: v.weight.log()}),  # NaN for negative weights
    "grow": ("grow", {"grow": lambda v: v.gradient.log()}),
}


@pytest.mark.parametrize("case", SCORES)
def test_a_score_that_is_nan_is_refused_with_method_tensor_and_step(case):
    part, parts = SCORES[case]
    model = two_layers()
    sparsifier = Sparsifier(model, None, Method(**parts, interval=2), sparsity=0.8)
    before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    with pytest.raises(
        FloatingPointError,
        match=rf"^Every score of a method must be a number, got NaN from {part} = '<lambda>' in '0.weight' at step 2. "
        "The masks did not change. Return a number for every weight.$",
    ):
        list(train(model, sparsifier, 2))
    assert sparsifier.active_cost == 180
    assert all(torch.equal(before[name], mask) for name, mask in sparsifier.masks.items())


def test_a_score_that_is_nan_does_not_shrink_the_budget():
    """Without a check the active weights were 40, 20, 10, 5."""
    torch.manual_seed(0)
    model = nn.Linear(20, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = Method(drop=lambda v: v.weight.log(), interval=1)
    sparsifier = Sparsifier(model, optimizer, method, sparsity=0.8, total_steps=10)
    for step in range(1, 4):
        model(torch.ones(20)).sum().backward()
        optimizer.step()
        with pytest.raises(FloatingPointError, match=rf"got NaN from drop = '<lambda>' in 'weight' at step {step}\."):
            sparsifier.step()
        assert (sparsifier.active_cost, int(model.weight.count_nonzero())) == (40, 40)


def test_a_score_that_is_nan_is_refused_at_the_start_and_infinite_ones_are_ranked():
    def logarithm(parameters, calibration):
        return {name: parameter.weight.log() for name, parameter in parameters.items()}

    method = from_config({"method": "static"})
    with pytest.raises(FloatingPointError, match=r"got NaN from mask_init = 'logarithm' in '0.weight' at step 0"):
        Sparsifier(two_layers(), None, dataclasses.replace(method, mask_init=logarithm), sparsity=0.8)
    model = two_layers()
    magnitude = Sparsifier(model, None, Method(interval=1, drop=lambda v: v.weight.abs().log()), sparsity=0.8)
    assert next(train(model, magnitude, 1)).active == {"0.weight": 120, "2.weight": 60}  # log(0) of pruned weights


def test_a_method_that_is_no_method_is_refused():
    for name, nearest in (("rigl", "rigl"), ("riggl", "rigl"), ("granett", "granet")):
        with pytest.raises(
            ValueError, match=rf"^method must be a Method, got '{name}'. Write hyperpruning.METHODS\['{nearest}'\].$"
        ):
            Sparsifier(two_layers(), None, name, sparsity=0.5)
    with pytest.raises(ValueError, match=r"method must be a Method, got None. Write"):
        Sparsifier(two_layers(), None, None, sparsity=0.5)


def test_a_misspelt_method_is_refused_with_the_nearest_name():
    with pytest.raises(KeyError, match=r"^method must be one of static, set, .*, got 'riggl'. Did you mean 'rigl'\?$"):
        METHODS["riggl"]
    assert "riggl" not in METHODS
    assert METHODS.get("riggl") is None


def test_density_by_row_groups():
    masks = {"gates": torch.tensor([[1, 1], [0, 1], [0, 0], [1, 0]]).bool(), "other": torch.ones(3, 2).bool()}
    assert density(masks) == {"gates": [0.5], "other": [1.0]}
    assert density(masks, {"gates": 4, "absent": 3}) == {"gates": [1.0, 0.5, 0.0, 0.5], "other": [1.0]}
    with pytest.raises(ValueError, match="The rows of 'other' must divide into 2 equal groups, got 3"):
        density(masks, {"other": 2})


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_a_sparsity_outside_its_range_is_refused(sparsity):
    with pytest.raises(ValueError, match="sparsity must be at least 0 and below 1, got"):
        Sparsifier(two_layers(), None, RIGL, sparsity=sparsity)


def test_a_sparsity_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"^sparsity must be a number, got '0.8'. 0.8 prunes 80 % of the weights.$"):
        Sparsifier(two_layers(), None, RIGL, sparsity="0.8")


def test_a_sparsity_that_empties_a_tensor_is_refused_with_the_most_that_fits():
    model = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 1))
    with pytest.raises(
        ValueError, match=r"0.999, with none in '1.weight' \(100 weights\). Use at most 0.99\d+, or"
    ) as error:
        Sparsifier(model, None, METHODS["static"], sparsity=0.999)
    most = float(str(error.value).split("at most ")[1].split(",")[0])
    assert min(int(m.sum()) for m in Sparsifier(model, None, METHODS["static"], sparsity=most).masks.values()) == 1


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="At least one parameter must be prunable"):
        Sparsifier(two_layers(), None, RIGL, sparsity=0.5, prunable=lambda name, parameter: False)
    with pytest.raises(ValueError, match="interval must be a whole number of at least 1 optimizer step, got 0"):
        Sparsifier(two_layers(), None, RIGL, sparsity=0.5, interval=0)
    with pytest.raises(ValueError, match="total_steps must be a whole number of at least 1 optimizer step, got 0"):
        Sparsifier(two_layers(), None, RIGL, sparsity=0.5, total_steps=0)


def test_growth_by_gradient_without_gradients_is_refused():
    sparsifier = Sparsifier(two_layers(), None, RIGL, sparsity=0.5, interval=1)
    with pytest.raises(ValueError, match=r"before optimizer.zero_grad\(\)"):
        sparsifier.step()


@pytest.mark.parametrize("what", ["gradient", "weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_update_on_numbers_that_are_not_finite_is_refused(what, value):
    model = two_layers()
    sparsifier = Sparsifier(model, None, RIGL, sparsity=0.5, interval=2)
    list(train(model, sparsifier, 1))
    saved = sparsifier.state_dict()
    tensor = model[2].weight.grad if what == "gradient" else model[2].weight
    with torch.no_grad():
        tensor[sparsifier.masks["2.weight"]] = value
    with pytest.raises(
        FloatingPointError, match=rf"Every {what} must be finite at an update, got NaN or infinity in '2.weight'"
    ):
        sparsifier.step()
    assert all(torch.equal(mask, saved["masks"][name]) for name, mask in sparsifier.masks.items())
    assert torch.equal(sparsifier.state_dict()["generator"], saved["generator"])


def test_a_state_of_another_model_is_refused():
    sparsifier = Sparsifier(two_layers(), None, RIGL, sparsity=0.5)
    other = Sparsifier(nn.Sequential(nn.Linear(20, 31)), None, RIGL, sparsity=0.5)
    with pytest.raises(ValueError, match=r"'0.weight' must be \(30, 20\), got \(31, 20\)"):
        sparsifier.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="must keep 450 weights, got 90"):
        sparsifier.load_state_dict(Sparsifier(two_layers(), None, RIGL, sparsity=0.9).state_dict())


def test_the_state_holds_tensors_and_plain_types_and_is_a_copy():
    sparsifier = Sparsifier(two_layers(), None, RIGL, sparsity=0.5)
    state = sparsifier.state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert set(torch.load(file, weights_only=True)) == {"step", "target", "masks", "ever", "memory", "generator"}
    state["masks"]["0.weight"].zero_()
    assert sparsifier.masks["0.weight"].any()


def test_a_parameter_that_was_replaced_is_noticed():
    model = two_layers()
    sparsifier = Sparsifier(model, None, RIGL, sparsity=0.5)
    model[2].weight = nn.Parameter(torch.zeros(10, 30))
    with pytest.raises(RuntimeError, match=r"got a new one at '2.weight'. Create the Sparsifier after"):
        sparsifier.step()


def test_a_falling_density_needs_an_end():
    for name in ("gmp", "iss-p"):
        with pytest.raises(ValueError, match=r"total_steps must be at least 2 when the density falls .*, got None"):
            Sparsifier(two_layers(), None, METHODS[name], sparsity=0.5)


def test_a_cubic_density_is_met_to_the_weight_and_arrives_whatever_the_interval():
    model = two_layers()
    sparsifier = Sparsifier(model, None, METHODS["gmp"], sparsity=0.9, total_steps=80, interval=17)
    assert sparsifier.active_cost == 900
    found = {}
    for step, update in enumerate(train(model, sparsifier, 80), 1):
        if update:
            found[step] = sparsifier.active_cost
            assert not any(update.grown.values())
    assert found == {step: round(900 * (0.1 + 0.9 * (1 - min(1, step / 60)) ** 3)) for step in (17, 34, 51, 60)}


def test_one_shot_prunes_once():
    model = two_layers()
    sparsifier = Sparsifier(model, None, METHODS["magnitude"], sparsity=0.9, total_steps=40, interval=1)
    updates = [update for update in train(model, sparsifier, 40) if update]
    assert [update.step for update in updates] == [20]
    assert updates[0].active == {"0.weight": 60, "2.weight": 30}


def test_imp_takes_the_same_part_each_round_and_rewinds():
    model = two_layers()
    begun = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method = dataclasses.replace(METHODS["imp"], density_until=0.6, stop=0.6, floor=0.02)
    sparsifier = Sparsifier(model, optimizer, method, sparsity=0.875, total_steps=50, interval=10)
    active_costs = []
    for update in train(model, sparsifier, 50, optimizer):
        if update:
            active_costs.append(sparsifier.active_cost)
            masks = sparsifier.masks
            for name, parameter in model.named_parameters():
                assert parameter.equal(begun[name] * masks[name] if name in masks else begun[name])
                assert not optimizer.state[parameter]["momentum_buffer"].any()
    assert active_costs == [450, 225, 112]


def test_imp_can_rewind_to_a_later_step():
    model = two_layers()
    method = dataclasses.replace(METHODS["imp"], rewind=3)
    sparsifier = Sparsifier(model, None, method, sparsity=0.5, total_steps=40, interval=10)
    steps = train(model, sparsifier, 10)
    for _ in range(3):
        next(steps)
    early = model[0].weight.detach().clone()
    list(steps)
    assert model[0].weight.equal(early * sparsifier.masks["0.weight"])


def test_soft_shrinkage_lasts_until_half_time_and_pruned_weights_may_return():
    model = two_layers()
    method = dataclasses.replace(METHODS["iss-p"], soft_shrinkage=0.5)
    sparsifier = Sparsifier(model, None, method, sparsity=0.6, total_steps=12, interval=2)
    mask, before = sparsifier.masks["0.weight"].clone(), model[0].weight.detach().clone()
    assert before.count_nonzero() == 600
    sparsifier.step()
    torch.testing.assert_close(model[0].weight.detach(), torch.where(mask, before, before / 2))
    with sparsifier.masked():
        assert torch.equal(model[0].weight != 0, mask)
    assert model[0].weight.count_nonzero() == 600
    with torch.no_grad():
        model[0].weight[~mask] = 9.0  # they have grown: ranked anew, the first 240 of them are kept
    sparsifier.step()
    assert not (sparsifier.masks["0.weight"] & mask).any()
    for _ in range(5):
        sparsifier.step()
    assert torch.equal(model[0].weight != 0, sparsifier.masks["0.weight"])
    assert sparsifier.active_cost == 360


def test_what_has_been_active_is_counted():
    model = two_layers()
    sparsifier = Sparsifier(model, None, METHODS["set"], sparsity=0.5, interval=1)
    ever = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    for update in train(model, sparsifier, 5):
        for name, mask in sparsifier.masks.items():
            ever[name] |= mask
        assert update.ever_active == sum(int(one.sum()) for one in ever.values()) / 900
        assert update.churn == pytest.approx(0.3, abs=0.01)


def test_a_cost_of_multiply_adds_leaves_the_embedding_dense_unless_it_is_tied():
    class Model(nn.Module):
        def __init__(self, tied):
            super().__init__()
            self.encoder, self.decoder = nn.Embedding(50, 10), nn.Linear(10, 50)
            if tied:
                self.decoder.weight = self.encoder.weight

    for tied, names in ((False, ["decoder.weight"]), (True, ["encoder.weight"])):
        model = Model(tied)
        sparsifier = Sparsifier(model, None, RIGL, sparsity=0.5, cost=multiply_adds(model))
        assert list(sparsifier.masks) == names
        assert sparsifier.active_cost == 250


def test_a_cost_of_multiply_adds_counts_the_positions_of_a_convolution():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 10))
    images = torch.randn(2, 1, 6, 6)
    cost = multiply_adds(model, images)
    assert {name: cost(name, parameter) for name, parameter in model.named_parameters()} == {
        "0.weight": 16,
        "0.bias": 0,
        "2.weight": 1,
        "2.bias": 0,
    }
    sparsifier = Sparsifier(model, None, RIGL, sparsity=0.75, cost=cost, interval=1)
    whole = 36 * 16 + 640
    assert sparsifier.weight_budget.dense_cost == whole
    assert whole / 4 - 16 < sparsifier.active_cost <= whole / 4  # a weight of the convolution costs 16
    before = sparsifier.active_cost
    for step in range(5):
        model(images + step).square().sum().backward()
        assert sparsifier.step() is not None
        assert sparsifier.active_cost == before
    with pytest.raises(ValueError, match="Give multiply_adds an example"):
        multiply_adds(model)
    with pytest.raises(ValueError, match=r"must have the same cost .* got 16 in '0.weight', 1 in '2.weight'"):
        Sparsifier(model, None, METHODS["dsr"], sparsity=0.5, cost=cost)


def test_n_of_m_has_one_sparsity():
    with pytest.raises(ValueError, match=r"sparsity must be 0.5 with 2:4 granularity, got 0.8"):
        Sparsifier(nn.Linear(8, 8), None, METHODS["rigl-2:4"], sparsity=0.8)


def test_sizes_that_do_not_divide_name_the_tensor():
    with pytest.raises(ValueError, match=r"'0.weight': a tensor must divide into 4 x 4 blocks, got 30 x 20"):
        Sparsifier(two_layers(), None, METHODS["rigl-block"], sparsity=0.8)


def test_gates_must_be_known():
    with pytest.raises(ValueError, match="Give the Sparsifier row_groups"):
        Sparsifier(two_layers(), None, METHODS["selfish-rnn-gates"], sparsity=0.8)
    blocks = from_config({"method": "selfish-rnn-gates", "granularity": "block_4x4"})
    with pytest.raises(ValueError, match=r"The rows of 'weight' must divide into 4 gates of 4-row blocks, got 8 rows"):
        Sparsifier(nn.Linear(8, 8), None, blocks, sparsity=0.5, row_groups={"weight": 4})


def test_rows_are_pruned_exactly_to_the_largest_cost_that_whole_rows_reach():
    model = nn.Linear(7, 10)
    sparsifier = Sparsifier(model, None, METHODS["rigl-row"], sparsity=0.45)
    assert sparsifier.active_cost == 35  # 38.5 weights asked, in rows of 7
    assert sparsifier.masks["weight"].all(1).sum() == 5


@pytest.mark.parametrize("regrowth_init", ["zero", "keep", "random"])
def test_a_weight_dropped_and_regrown_starts_with_its_regrowth_init(regrowth_init):
    model = nn.Linear(4, 1, bias=False)
    method = from_config({"grow": "gradient", "regrowth_init": regrowth_init, "interval": 1})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    sparsifier = Sparsifier(model, optimizer, method, sparsity=0.5)
    sparsifier.masks["weight"].copy_(torch.tensor([[1, 1, 0, 0]]))
    sparsifier.load_state_dict(sparsifier.state_dict())
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[4.0, 1.0, 0.0, 0.0]]))
    model.weight.grad = torch.tensor([[1.0, 9.0, 2.0, 3.0]])  # the second goes, and comes back at once
    optimizer.step()
    sparsifier.step()
    assert sparsifier.masks["weight"].tolist() == [[True, True, False, False]]
    value, momentum = float(model.weight.detach()[0, 1]), float(optimizer.state[model.weight]["momentum_buffer"][0, 1])
    assert momentum == (9 if regrowth_init == "keep" else 0)
    assert {"zero": value == 0, "keep": value == 1, "random": 0 < abs(value) <= 4}[regrowth_init]


class WeightDrop(nn.Module):
    """DropConnect on a weight, as AWD-LSTM has it: the raw weight is the parameter."""

    def forward(self, weight):
        return nn.functional.dropout(weight, 0.5, self.training)


@pytest.mark.parametrize("name", ["rigl", "set", "snfs"])
def test_dropped_weights_are_masked_where_they_are_raw(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10, bias=False), nn.Tanh(), nn.Linear(10, 8, bias=False))
    nn.utils.parametrize.register_parametrization(model[0], "weight", WeightDrop())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = Sparsifier(model, optimizer, METHODS[name], sparsity=0.75, interval=3, total_steps=60)
    raw = model[0].parametrizations.weight.original
    for _ in range(59):
        optimizer.zero_grad()
        model(torch.randn(16, 12)).square().sum().backward()
        optimizer.step()
        sparsifier.step()
        mask = sparsifier.masks["0.parametrizations.weight.original"]
        assert sum(int(mask.sum()) for mask in sparsifier.masks.values()) == 50
        assert not raw[~mask].any()
        assert not model[0].weight[~mask].any()


@pytest.mark.parametrize("contiguous", [True, False])
def test_large_tensors_are_masked_piece_by_piece(contiguous, monkeypatch):
    monkeypatch.setattr("hyperpruning.sparsity.masking.CHUNK", 7)
    torch.manual_seed(0)
    model = nn.Linear(9, 5)
    if not contiguous:
        model.weight.data = torch.randn(9, 5).T
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(model, optimizer, METHODS["static"], sparsity=0.6)
    for _ in range(3):
        model(torch.randn(4, 9)).square().sum().backward()
        optimizer.step()
        assert optimizer.state[model.weight]["exp_avg"].ne(0).sum() > 18
        sparsifier.step()
        mask = sparsifier.masks["weight"]
        for value in (model.weight, *(optimizer.state[model.weight][key] for key in ("exp_avg", "exp_avg_sq"))):
            assert not value[~mask].any()
            assert bool(value[mask].ne(0).all())


def test_uniform_except_with_a_falling_density_is_refused_if_blocks_differ_in_cost():
    model = torch.nn.Sequential(torch.nn.Linear(9, 8), torch.nn.Linear(8, 6))
    parts = {"allocation": "uniform_except", "granularity": "row", "density": "cubic"}
    with pytest.raises(ValueError, match="Use allocation 'uniform' or a constant density"):
        Sparsifier(model, None, from_config(parts), sparsity=0.5, total_steps=100)


def test_no_tensor_is_empty_while_a_budget_falls_past_the_point_where_uniform_except_leaves_it_nothing():
    model = nn.Sequential(nn.Linear(8, 32), nn.Linear(8, 24), nn.Linear(8, 32))
    parts = {"allocation": "uniform_except", "granularity": "row", "density": "cubic", "density_start": 0.5}
    budget = Sparsifier(model, None, from_config(parts), sparsity=0.8, total_steps=100).weight_budget
    counts = [list(budget.scheduled_blocks(step).values()) for step in range(100)]
    assert [32, 1, 1] in counts  # the allocation alone: 32 and one of the others
    assert all(min(found) > 0 for found in counts)
    assert [sum(found) for found in counts] == sorted((sum(found) for found in counts), reverse=True)


@pytest.mark.parametrize(
    ("steps", "said"),
    [(0, "never started"), (50, "never started"), (120, "has not ended"), (150, None)],
)
def test_a_schedule_that_did_not_end_with_the_training_is_told(steps, said):
    model = nn.Linear(20, 10)
    method = from_config({"method": "gmp", "density_from": 0.3, "density_until": 0.75, "interval": 10})
    sparsifier = Sparsifier(model, None, method, sparsity=0.8, total_steps=200)
    for _ in range(steps):
        sparsifier.step()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        sparsifier.warn_if_unfinished()
    if said is None:
        assert not found
        return
    message = str(found[0].message)
    assert message.startswith("The density must fall to 0.2 by the end of the training, got ")
    assert f" after {steps} of 200 optimizer steps: its schedule {said}. Call step() " in message
    assert found[0].filename == __file__


def test_a_constant_density_is_never_told():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Sparsifier(nn.Linear(20, 10), None, RIGL, sparsity=0.8, total_steps=200).warn_if_unfinished()
