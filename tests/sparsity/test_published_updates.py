"""The updates of the published engine reproduce its faults."""

import pytest
import torch
from torch import nn

from hyperpruning.sparsity.serialization import COMPONENTS, from_config
from hyperpruning.sparsity.sparsifier import Sparsifier
from pruned import generator, prunable_parameter

PUBLISHED_UPDATES = {name: rule for name, rule in COMPONENTS["update"].items() if rule is not None}
METHOD = from_config({})


def weights(seed=0):
    mask = torch.rand(60, 50, generator=generator(seed)) < 0.4
    return prunable_parameter(torch.randn(60, 50, generator=generator(seed + 1)) * mask, mask)


def update(name, shown, fraction=0.5, memory=None):
    targets = {key: int(one.mask.sum()) for key, one in shown.items()}
    return PUBLISHED_UPDATES[name](METHOD, shown, targets, fraction, {} if memory is None else memory, generator(7))


def test_set_drops_the_most_negative_weights():
    shown = {"w": weights()}
    kept = update("published_set", shown)[0]["w"]
    gone = shown["w"].weight[shown["w"].mask & ~kept]
    stay = shown["w"].weight[kept]
    assert gone[gone < 0].abs().mean() > 3 * stay[stay < 0].abs().mean()  # the sign error
    assert gone[gone > 0].abs().mean() < stay[stay > 0].abs().mean() / 3


def test_magnitude_drops_ties_beyond_the_quota():
    shown = {"w": prunable_parameter([[1.0, 1.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0]])}
    assert update("published_magnitude", shown, 0.25)[0]["w"].sum() == 1  # the quota is one of four


def test_growth_meets_the_target_on_average_only():
    counts = []
    for seed in range(30):
        shown = {"w": weights(seed)}
        kept, grown = update("published_magnitude", shown)
        counts.append(int(kept["w"].sum() + grown["w"].sum() - shown["w"].mask.sum()))
        assert not (kept["w"] & grown["w"]).any()
    # the number grown is binomial, 2400 draws with chance 1/4: s.d. 21, of the mean of 30: 4
    assert len(set(counts)) > 10
    assert abs(sum(counts) / 30) < 4 * 4


def test_the_controller_ignores_the_drop_fraction():
    churn = {}
    for fraction in (0.4, 0.9):
        memory, levels = {}, []
        for _ in range(5):
            shown = {"w": weights()}
            kept, _ = update("published_threshold", shown, fraction, memory)
            levels.append((float(memory["threshold"]), int(kept["w"].sum())))
        churn[fraction] = levels
    assert churn[0.4] == churn[0.9]
    assert [level for level, _ in churn[0.4]] == [0.002, 0.004, 0.008, 0.016, 0.032]


def test_the_tolerance_loop_stops_within_two_percent_and_shrinks_its_step():
    shown, memory = {"a": weights(), "b": weights(3)}, {"threshold": torch.tensor(0.1)}
    kept, _ = update("published_global", shown, 0.5, memory)
    active = sum(int(one.mask.sum()) for one in shown.values())
    removed = active - sum(int(mask.sum()) for mask in kept.values())
    assert removed == pytest.approx(active / 2, rel=0.021)
    assert float(memory["increment"]) < 0.2


@pytest.mark.parametrize("name", PUBLISHED_UPDATES)
@pytest.mark.parametrize("redistribute", ["none", "magnitude", "nonzeros"])
def test_a_published_update_runs_and_is_saved_with_its_state(name, redistribute):
    def run(cut):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 10))
        method = from_config({"update": name, "redistribute": redistribute, "interval": 2})
        sparsifier = Sparsifier(model, None, method, sparsity=0.6)
        for step in range(12):
            if step == cut:
                states = [{k: v.clone() for k, v in model.state_dict().items()}, sparsifier.state_dict()]
                sparsifier = Sparsifier(model, None, method, sparsity=0.6, seed=5)
                for part, state in zip((model, sparsifier), states, strict=True):
                    part.load_state_dict(state)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=generator(step)), alpha=0.1)
            sparsifier.step()
            for key, mask in sparsifier.masks.items():
                assert not sparsifier.parameters[key].detach()[~mask].any()
        return sparsifier.masks

    whole, halves = run(None), run(7)
    assert all(mask.equal(halves[key]) for key, mask in whole.items())
