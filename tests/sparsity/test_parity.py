"""Parity with the authors' code. The numbers are those of a side-by-side run; no foreign code is needed here.

The side-by-side run drew its tensors at random; here normal quantiles stand for the draws, so that counts agree with
its numbers within their sampling error (a standard deviation of about 25 of 10,000 weights).
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from hyperpruning.sparsity import published_updates
from hyperpruning.sparsity.catalogue import CATALOGUE, METHODS
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.redistributions import growth_quotas, momentum
from hyperpruning.sparsity.schedules import cosine, cubic, geometric
from hyperpruning.sparsity.serialization import from_config
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.sparsity.updates import drop_and_grow
from pruned import generator, prunable_parameter


def normal(shape, *, scale=1.0, active=1.0, seed=0):
    """Normal quantiles at random places, and zeros: the weights of a tensor and its mask."""
    size = math.prod(shape)
    n_active = round(active * size)
    values = torch.special.ndtri((torch.arange(n_active, dtype=torch.float64) + 0.5) / n_active)
    order = torch.randperm(size, generator=generator(seed))
    weight, mask = torch.zeros(size), torch.zeros(size, dtype=torch.bool)
    weight[order[:n_active]], mask[order[:n_active]] = (scale * values).float(), True
    return weight.view(shape), mask.view(shape)


def shown(*tensors, **others):
    return {f"t{i}": prunable_parameter(w, m, name=f"t{i}", **others) for i, (w, m) in enumerate(tensors)}


def counts(masks):
    return [int(mask.sum()) for mask in masks.values()]


def exact(method, parameters, fraction):
    targets = {name: int(parameter.mask.sum()) for name, parameter in parameters.items()}
    return drop_and_grow(method, parameters, targets, fraction, {}, generator())


TWO = (normal((100, 100), scale=0.3, active=0.5), normal((100, 100), active=0.5, seed=1))


def test_u1_granet_exchanges_within_each_tensor():
    gradients = {"gradient": torch.randn(100, 100, generator=generator(5))}
    method, parameters = METHODS["granet"], shown(*TWO, **gradients)
    assert counts(exact(method, parameters, 0.5)[0]) == [2500, 2500]
    together = counts(exact(replace(method, replace_scope=None), parameters, 0.5)[0])
    assert together == pytest.approx([1313, 3687], abs=50)  # as one global ranking has it
    assert sum(together) == 5000


def test_u1_an_update_of_granet_leaves_the_densities_of_global_magnitude():
    model = nn.ModuleDict({f"t{i}": nn.Linear(100, 100, bias=False) for i in range(2)})
    sparsifier = Sparsifier(model, None, METHODS["granet"], sparsity=0.9, total_steps=1000, seed=3)
    sparsifier.restore({f"t{i}.weight": mask for i, (_, mask) in enumerate(TWO)})
    for layer, (weight, _) in zip(model.values(), TWO, strict=True):
        layer.weight.data.copy_(weight)
        layer.weight.grad = torch.randn(100, 100, generator=generator(5))
    updates = [update for _ in range(100) if (update := sparsifier.step())]
    (update,) = updates
    assert sum(update.active.values()) == round(20_000 * (0.1 + 0.4 * (6 / 7) ** 3)) == 7038
    assert list(update.active.values()) == pytest.approx([2755, 4283], abs=50)  # was 2921 and 4117
    top = torch.stack([weight.abs() for weight, _ in TWO]).flatten().topk(7038).indices
    assert list(update.active.values()) == [int((top < 10_000).sum()), int((top >= 10_000).sum())]
    fraction = 0.5 * cosine(100, 1000)
    assert list(update.grown.values()) == [math.floor(fraction * active) for active in update.active.values()]


def test_u1_over_ten_updates_every_tensor_has_the_count_of_global_magnitude():
    torch.manual_seed(0)
    model = nn.ModuleDict({f"t{i}": nn.Linear(40, 40, bias=False) for i in range(3)})
    method = replace(METHODS["granet"], regrowth_init=from_config({"regrowth_init": "keep"}).regrowth_init)
    sparsifier = Sparsifier(model, None, method, sparsity=0.9, total_steps=20, interval=1, seed=3)
    parameters = dict(model.named_parameters())
    for step in range(1, 11):
        for scale, parameter in zip((0.3, 1.0, 2.0), parameters.values(), strict=True):
            parameter.grad = torch.randn(parameter.shape, generator=generator(step))
            parameter.data.add_(scale * torch.randn(parameter.shape, generator=generator(50 + step)))
        sizes = torch.stack([(p.detach() * sparsifier.masks[name]).abs() for name, p in parameters.items()])
        update = sparsifier.step()
        top = torch.zeros(sizes.numel()).index_fill(0, sizes.flatten().topk(sparsifier.active_cost).indices, 1)
        assert list(update.active.values()) == top.view(3, -1).sum(1).int().tolist()


def test_u2_snfs_shares_by_the_momentum_before_the_drop():
    (weight, mask), (other, other_mask) = (normal((100, 100), active=0.5, seed=seed) for seed in (0, 1))
    unrelated, proportional = torch.full((100, 100), 1e-3), weight + 1e-3 * ~mask  # pruned weights have gradients too
    unrelated[other_mask] = normal((5000,), seed=2)[0]
    parameters = {
        "grows": prunable_parameter(weight, mask, average=proportional, name="grows"),
        "does not": prunable_parameter(other, other_mask, average=unrelated, name="does not"),
    }
    kept, grown = exact(METHODS["snfs"], parameters, 0.5)
    assert counts(kept) == [2500, 2500]
    assert int(grown["grows"].sum()) / 5000 == pytest.approx(0.502, abs=0.01)
    after = {name: replace(parameter, mask=kept[name]) for name, parameter in parameters.items()}
    shares = momentum(after, kept, {})
    assert shares["grows"] / sum(shares.values()) == pytest.approx(0.617, abs=0.01)  # as the survivors have it


def test_u2_growth_without_room_goes_to_the_others_by_their_shares():
    # equal parts, as in the code of SNFS, would be 1155 + 574 and 385 + 574
    found = growth_quotas(
        {"a": 3.0, "b": 1.0, "c": 4.0},
        {"a": 2000, "b": 1000, "c": 8},
        {"a": 2000, "b": 1000, "c": 80},
        {"a": 10_000, "b": 5000, "c": 400},
        floor=0.0,
        ceiling=1.0,
    )
    assert found == {"a": 2016, "b": 672, "c": 392}


def published(name, method, parameters, fraction, buffers, monkeypatch):
    """The masks that a published update keeps, and the numbers that it means to grow."""
    quotas = []
    grow = published_updates.bernoulli
    monkeypatch.setattr(published_updates, "bernoulli", lambda m, n, g: quotas.append(n) or grow(m, n, g))
    targets = {key: int(parameter.mask.sum()) for key, parameter in parameters.items()}
    rule = published_updates.PUBLISHED_UPDATES[name]
    kept, _ = rule(method, parameters, targets, fraction, buffers, generator())
    return kept, quotas


def test_u3_nonzeros_are_the_weights_above_the_threshold(monkeypatch):
    parameters = shown(*(normal((200, 100), scale=s, active=0.33, seed=i) for i, s in enumerate((0.03, 0.06, 0.1))))
    method = from_config({"redistribute": "nonzeros", "drop_scope": "global"})
    buffers = {"threshold": torch.tensor(0.04, dtype=torch.float64)}
    kept, quotas = published("published_global", method, parameters, 0.7, buffers, monkeypatch)
    assert quotas == pytest.approx([1840, 5188, 6874], rel=0.03)  # was 4620 each
    # the factor of a global drop: what was dropped, by what should be
    removed, planned = 3 * 6600 - sum(counts(kept)), 3 * 4620
    above = [int((parameter.weight.abs() > 0.04).sum()) for parameter in parameters.values()]
    plan = [math.ceil(count / sum(above) * planned) for count in above]
    assert quotas == [math.floor(removed / (0.7 * 3 * 6600) * count) for count in plan]
    assert removed != planned


def test_u3_a_nearly_dense_tensor_that_grows_is_guarded(monkeypatch):
    parameters = shown(*(normal((200, 100), scale=s, active=0.85, seed=i) for i, s in enumerate((0.03, 0.06, 0.1))))
    method = from_config({"redistribute": "magnitude"})
    kept, quotas = published("published_magnitude", method, parameters, 0.5, {}, monkeypatch)
    assert counts(kept) == [8500, 8500, 14450]  # was 8500 each
    # the plan, which sees shares that are not normalised (all below 1/3), has no guard
    assert quotas == pytest.approx([25_500 * share / 0.19 for share in (0.03, 0.06, 0.1)], rel=0.01)


def test_u3_growth_without_redistribution_returns_to_the_first_count(monkeypatch):
    parameters, buffers = shown(normal((60, 50), active=0.4)), {}
    published("published_magnitude", Method(), parameters, 0.5, buffers, monkeypatch)
    mask = parameters["t0"].mask.clone()
    mask[parameters["t0"].weight.abs() < 0.1] = False  # chance gave too few
    fewer = {"t0": replace(parameters["t0"], mask=mask)}
    kept, quotas = published("published_magnitude", Method(), fewer, 0.5, buffers, monkeypatch)
    assert quotas == [1200 - int(kept["t0"].sum())]


def test_u4_named_methods_have_no_limits_and_compositions_have():
    assert {(entry.method.floor, entry.method.ceiling) for entry in CATALOGUE.values()} == {(0.0, 1.0)}
    assert (Method().floor, Method().ceiling) == (0.02, 0.98)
    assert from_config({"drop_scope": "global"}).floor == 0.02
    assert from_config({"method": "dsr", "floor": 0.02}).floor == 0.02


def test_u4_snip_keeps_the_largest_scores_of_the_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 200), nn.ReLU(), nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 10))
    inputs, labels = torch.randn(64, 50), torch.randint(10, (64,))

    def loss():
        return nn.functional.cross_entropy(model(inputs), labels)

    loss().backward()
    scores = torch.cat([(p * p.grad).detach().abs().flatten() for p in model.parameters() if p.ndim == 2])
    sizes = [10_000, 20_000, 1000]
    expected = torch.zeros_like(scores).index_fill(0, scores.topk(620).indices, 1).split(sizes)
    named = Sparsifier(model, None, METHODS["snip"], sparsity=0.98, calibration=loss)
    assert counts(named.masks) == [int(part.sum()) for part in expected]
    # the side-by-side run: .025, .004 and .295 with other tensors; .02 each with floor and ceiling
    assert list(named.density.values()) == pytest.approx([0.0186, 0.0082, 0.271], abs=0.005)
    floored = Sparsifier(model, None, replace(METHODS["snip"], floor=0.02), sparsity=0.98, calibration=loss)
    assert list(floored.density.values()) == [0.02, 0.02, 0.02]


def test_u5_a_temperature_of_200_is_the_calibrations_to_give():
    """The code of GraSP divides the logits by 200: about three of four weights are the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 100), nn.Tanh(), nn.Linear(100, 10))
    inputs, labels = torch.randn(64, 50), torch.randint(10, (64,))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    masks = []
    for temperature in (1, 1, 200):
        model.load_state_dict(weights)

        def loss(temperature=temperature):
            return nn.functional.cross_entropy(model(inputs) / temperature, labels)

        found = Sparsifier(model, None, METHODS["grasp"], sparsity=0.8, calibration=loss)
        masks.append(torch.cat([mask.flatten() for mask in found.masks.values()]))
    one, again, published = masks
    assert one.equal(again)
    assert int((one & published).sum()) / int(one.sum()) == pytest.approx(0.76, abs=0.06)  # .73 to .79 side by side


def test_u6_the_number_of_exchanged_weights_is_limited_unless_their_values_are_kept():
    parameters = shown(normal((64, 32), active=0.7))
    assert counts(exact(Method(), parameters, 0.5)[1]) == [614]
    assert counts(exact(METHODS["selfish-rnn"], parameters, 0.5)[1]) == [717]
    dense = shown(normal((64, 32)))
    assert counts(exact(METHODS["selfish-rnn"], dense, 0.5)[1]) == [0]


def test_u7_schedules_end_at_zero_and_mest_does_not_know_the_density():
    """The code of SNFS, SR, ITOP and GraNet ends at .005; MEST replaces 2 %, 1 %, 0 of all weights."""
    theirs = [0.005 + (0.5 - 0.005) * (1 + math.cos(math.pi * step / 1000)) / 2 for step in range(1001)]
    ours = [0.5 * cosine(step, 1000) for step in range(1001)]
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    assert min(differences) == differences[-1] == pytest.approx(-0.005)
    assert max(map(abs, differences)) == pytest.approx(0.005)
    mest = METHODS["mest"]
    assert [mest.drop_fraction * mest.decay(step, 1000) for step in (0, 500, 1000)] == pytest.approx([0.2, 0.1, 0])
    for density in (0.1, 0.4):  # of all weights 2 % and 8 %
        parameters = shown(normal((100, 100), active=density), gradient=torch.zeros(100, 100))
        assert counts(exact(mest, parameters, 0.2)[1]) == [round(0.2 * density * 10_000)]


def test_u8_iss_p_ranks_and_then_shrinks():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30, bias=False), nn.Linear(30, 20, bias=False))
    method = replace(METHODS["iss-p"], interval=1)
    sparsifier = Sparsifier(model, None, method, sparsity=0.8, total_steps=60)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(30):
        for name, parameter in model.named_parameters():
            change = 0.02 * torch.randn(parameter.shape, generator=generator(step))
            parameter.data += change
            weights[name] += change
            weakest = weights[name].abs().flatten().argsort(stable=True)[: round(0.8 * change.numel())]
            weights[name].view(-1)[weakest] *= 0.95
        sparsifier.step()
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter.detach(), weights[name])  # was: 16 % of the weights


@pytest.mark.parametrize("density", [0.1, 0.3, 0.6])
def test_masks_of_rigl_and_set_are_those_of_their_rules(density):
    for seed in range(8):
        weight, mask = normal((30, 40), active=density, seed=seed)
        gradient = torch.randn(30, 40, generator=generator(seed + 100))
        parameters = {"w": prunable_parameter(weight, mask, gradient=gradient)}
        active = int(mask.sum())
        n = math.trunc(0.3 * active)
        kept, grown = exact(METHODS["rigl"], parameters, 0.3)
        expected = torch.zeros(1200).index_fill(0, weight.abs().flatten().topk(active - n).indices, 1).bool()
        assert kept["w"].flatten().equal(expected)
        outside = gradient.abs().flatten().masked_fill(expected, -1)
        assert grown["w"].flatten().equal(torch.zeros(1200).index_fill(0, outside.topk(n).indices, 1).bool())

        kept, _ = exact(METHODS["set"], parameters, 0.3)
        gone = (mask & ~kept["w"]) * weight
        assert abs(int((gone > 0).sum()) - int((gone < 0).sum())) <= 1  # as many of each sign
        for sign in (1, -1):
            of_sign = (sign * weight)[sign * weight > 0].sort().values
            removed = (sign * gone)[sign * gone > 0]
            assert float(removed.max()) == float(of_sign[len(removed) - 1])  # next to zero


def test_schedules_are_their_formulas():
    for step in range(0, 1001, 50):
        assert cosine(step, 1000) == pytest.approx((1 + math.cos(math.pi * step / 1000)) / 2, abs=1e-12)
        assert cubic(step / 1000, 1.0, 0.2) == pytest.approx(0.2 + 0.8 * (1 - step / 1000) ** 3, abs=1e-12)
    for rounds in range(6):
        assert geometric(rounds / 5, 1.0, 0.8**5) == pytest.approx(0.8**rounds, abs=1e-12)
