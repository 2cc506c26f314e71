"""Search the density of each tensor by dynamic programming (SPDY), and compare it with the usual allocations."""

import copy
from functools import partial

import torch
from torch.nn.functional import cross_entropy

import hyperpruning as hp
from hyperpruning.models.language_model import LanguageModel
from hyperpruning.sparsity import allocations, mask_inits, spdy

TEXT = "the quick brown fox jumps over the lazy dog and the slow cat naps under the warm sun. " * 40
LETTERS = sorted(set(TEXT))
TOKENS = torch.tensor([LETTERS.index(letter) for letter in TEXT])


def loss_of(model, steps, seed):
    """Yield the losses of random windows."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts = torch.randint(len(TOKENS) - 40, (16,), generator=generator)
        window = TOKENS[starts + torch.arange(41)[:, None]]  # (T + 1, B)
        yield cross_entropy(model(window[:-1])[0].flatten(0, 1), window[1:].flatten())


def trained():
    model = LanguageModel(len(LETTERS), embedding=32, hidden=64, layers=1, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for loss in loss_of(model, 100, seed=0):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@torch.no_grad()
def pruned_loss(model, allocation, sparsity):
    """Return the loss of a copy that keeps the largest weights of each tensor, as many as the allocation gives."""
    pruned = copy.deepcopy(model)
    method = hp.Method(allocation=allocation, mask_init=mask_inits.magnitude, drop=None, grow=None, drop_fraction=0)
    hp.Sparsifier(pruned, None, method, sparsity=sparsity)
    return sum(map(float, loss_of(pruned, 2, seed=1))) / 2


if __name__ == "__main__":
    torch.set_num_threads(1)  # faster for a small network
    model = trained()
    sizes = {name: weight.numel() for name, weight in model.named_parameters() if weight.ndim == 2}
    budget = round(0.3 * sum(sizes.values()))
    levels = spdy.geometric_levels(sizes, n_levels=21, min_density=0.02)
    errors = spdy.quadratic_errors(levels)

    def loss_with(allocation):
        return pruned_loss(model, allocation, 1 - budget / sum(sizes.values()))

    counts = spdy.search_coefficients(
        lambda coefficients: spdy.allocate(levels, spdy.scale_errors(errors, coefficients), budget),
        list(sizes),
        lambda counts: loss_with(partial(allocations.table, counts=counts)),
        generator=torch.Generator().manual_seed(0),
        n_starts=20,
        patience=20,
    )
    compared = {
        "uniform": allocations.uniform,
        "er": allocations.er,
        "searched": partial(allocations.table, counts=counts),
    }
    print(f"{budget} of {sum(sizes.values())} weights remain; loss without further training:")
    print(", ".join(f"{name} {loss_with(allocation):.3f}" for name, allocation in compared.items()))
    print({name: f"{count} of {sizes[name]}" for name, count in counts.items()}, "=", sum(counts.values()))
