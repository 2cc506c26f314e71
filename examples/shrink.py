"""Train with a penalty on hidden units, prune the weakest units, and remove them: a smaller dense network."""

import torch
from torch.nn.functional import cross_entropy

from hyperpruning.models.language_model import LanguageModel
from hyperpruning.structured.language_model import language_model_units, shrink_language_model
from hyperpruning.structured.selection import remaining_weights, units_within_budget
from hyperpruning.structured.units import group_lasso, group_norms, unit_masks

TEXT = "the quick brown fox jumps over the lazy dog and the slow cat naps under the warm sun. " * 40
LETTERS = sorted(set(TEXT))


def windows(steps, length=40, batch=16):
    tokens = torch.tensor([LETTERS.index(letter) for letter in TEXT])
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(len(tokens) - length, (batch,), generator=generator)
        window = tokens[starts + torch.arange(length + 1)[:, None]]  # (T + 1, B)
        yield window[:-1], window[1:]


def train(model, groups, steps, masks, penalty=0.0):
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    weights = dict(model.named_parameters())
    for inputs, targets in windows(steps):
        loss = cross_entropy(model(inputs)[0].flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        (loss + penalty * group_lasso(weights, groups)).backward()
        optimizer.step()
        with torch.no_grad():
            for name, mask in masks.items():
                weights[name].mul_(mask)
    return float(loss.detach())


if __name__ == "__main__":
    torch.set_num_threads(1)  # faster for a small network
    model = LanguageModel(len(LETTERS), embedding=16, hidden=48, layers=2, seed=0)
    groups, weights = language_model_units(model), dict(model.named_parameters())
    shapes = {name: weight.shape for name, weight in weights.items() if weight.ndim == 2}
    # an embedding lookup costs no multiply-adds
    products = {name: shape for name, shape in shapes.items() if name != "encoder.weight"}
    print(f"trained with the penalty: loss {train(model, groups, 150, {}, penalty=2e-3):.3f}")

    norms = {name: group_norms(weights, units) for name, units in groups.items()}
    kept = units_within_budget(norms, groups, shapes, budget=8000)
    masks = unit_masks(weights, groups, kept)
    print(f"trained further without the weak units: loss {train(model, groups, 50, masks):.3f}")

    small, (inputs, _) = shrink_language_model(model, kept), next(windows(1))
    with torch.no_grad():
        print(f"largest difference of the logits: {float((model(inputs)[0] - small(inputs)[0]).abs().max()):.1e}")
    full = {name: units.size for name, units in groups.items()}
    print(f"units: {full} -> { {name: int(of.sum()) for name, of in kept.items()} }")
    for what, of in (("weights", shapes), ("multiply-adds per token", products)):
        print(f"{what}: {remaining_weights(of, groups, full)} -> {remaining_weights(of, groups, kept)}")
