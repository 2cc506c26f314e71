"""What every pruning method keeps, named or composed: the invariants, over many updates."""

import dataclasses
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hyperpruning.sparsity.methods import COMPONENTS, METHODS, Method, composed, spelled
from hyperpruning.sparsity.sparsifier import Sparsifier

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "asgd": lambda parameters: torch.optim.ASGD(parameters, lr=0.1, t0=0.0, lambd=0.0),
}


class Recurrent(nn.Module):
    """Embedding, LSTM, tied decoder: the shape of a language model."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(23, 8)
        self.lstm = nn.LSTM(8, 8)
        self.decoder = nn.Linear(8, 23)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens):  # (T, B) -> (T, B, V)
        return self.decoder(self.lstm(self.embedding(tokens))[0])


class Convolutional(nn.Module):
    """Convolution and linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3)
        self.linear = nn.Linear(20, 7)

    def forward(self, images):  # (B, 2, 4, 4) -> (B, 7)
        return self.linear(self.conv(images).tanh().flatten(1))


def bits(state):
    """A nested state with the bytes of its tensors, to compare bit for bit."""
    if torch.is_tensor(state):
        return state.numpy().tobytes()
    if isinstance(state, dict):
        return {key: bits(value) for key, value in state.items()}
    return [bits(value) for value in state] if isinstance(state, list | tuple) else state


class Run:
    """A small training that can be cut in two."""

    def __init__(self, method, *, model=Recurrent, optimizer="sgd", dtype=torch.float32, seed=0, sparsity=0.8):
        torch.manual_seed(3)
        self.model = model().to(dtype)
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.sparsifier = Sparsifier(
            self.model, self.optimizer, method, sparsity=sparsity, total_steps=60, interval=2, seed=seed
        )
        self.parts = (self.model, self.optimizer, self.sparsifier)
        self.dtype = dtype

    def batch(self, step):
        source = torch.Generator().manual_seed(step)
        if isinstance(self.model, Recurrent):
            return torch.randint(9, (4, 3), generator=source)  # most words are never seen
        return torch.randn(3, 2, 4, 4, generator=source).to(self.dtype)

    def train(self, steps):
        for step in steps:
            self.optimizer.zero_grad()
            self.model(self.batch(step)).square().mean().backward()
            self.optimizer.step()
            yield self.sparsifier.step()

    def saved(self):
        file = io.BytesIO()
        torch.save([part.state_dict() for part in self.parts], file)
        return file.getvalue()

    def bits(self):
        return bits([part.state_dict() for part in self.parts])

    def load(self, saved):
        for part, state in zip(self.parts, torch.load(io.BytesIO(saved), weights_only=True), strict=True):
            part.load_state_dict(state)
        return self


def check(run, before, update):
    """Assert the invariants after one step; return the counts."""
    masks, parameters = run.sparsifier.masks, run.sparsifier.parameters
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    assert sum(counts.values()) == run.sparsifier.budget
    least = 1 if run.sparsifier.method.floor else 0  # a floor keeps every tensor from being emptied
    assert all(least <= counts[name] <= mask.numel() for name, mask in masks.items())
    for name, mask in masks.items():
        states = [s for s in run.optimizer.state[parameters[name]].values() if torch.is_tensor(s)]
        for values in [parameters[name], *(s for s in states if s.shape == mask.shape)]:
            assert values.isfinite().all()
            assert not values[~mask].any()
    if update is None:
        assert counts == before
    else:
        assert update.active == counts
        assert counts == {name: before[name] - update.dropped[name] + update.grown[name] for name in before}
    return counts


def check_many_updates(run, steps):
    counts = {name: int(mask.sum()) for name, mask in run.sparsifier.masks.items()}
    updates = []
    for update in run.train(range(steps)):
        counts = check(run, counts, update)
        updates.append(update)
    if run.sparsifier.method.drop is None:
        assert not any(updates)
    else:
        assert sum(sum(update.dropped.values()) > 0 for update in updates if update) >= 0.6 * (steps // 2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", METHODS)
def test_invariants_hold_with_every_optimizer(name, optimizer):
    check_many_updates(Run(METHODS[name], optimizer=optimizer), 24)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", METHODS)
def test_invariants_hold_in_convolutions(name, dtype):
    check_many_updates(Run(METHODS[name], model=Convolutional, optimizer="momentum", dtype=dtype), 24)


@pytest.mark.parametrize("name", METHODS)
def test_invariants_hold_over_two_hundred_updates(name):
    run = Run(dataclasses.replace(METHODS[name], interval=1))
    run.sparsifier.interval, run.sparsifier.total_steps = 1, None
    check_many_updates(run, 200)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_masks_and_another_seed_others(name):
    runs = [Run(METHODS[name], seed=seed) for seed in (5, 5, 6)]
    for run in runs:
        list(run.train(range(10)))
    first, second, other = (run.sparsifier.masks for run in runs)
    assert all(torch.equal(first[tensor], second[tensor]) for tensor in first)
    assert not all(torch.equal(first[tensor], other[tensor]) for tensor in first)


@pytest.mark.parametrize("cut", [4, 5])
@pytest.mark.parametrize("name", METHODS)
def test_a_training_cut_in_two_is_bit_for_bit_the_same(name, cut):
    whole = Run(METHODS[name], optimizer="adam")
    list(whole.train(range(12)))
    first = Run(METHODS[name], optimizer="adam")
    list(first.train(range(cut)))
    second = Run(METHODS[name], optimizer="adam", seed=99).load(first.saved())
    list(second.train(range(cut, 12)))
    assert second.bits() == whole.bits()


compositions = st.fixed_dictionaries(
    {part: st.sampled_from(list(choices)) for part, choices in COMPONENTS.items()}
    | {
        "drop_fraction": st.floats(0.05, 0.95),
        "stop": st.floats(0.5, 1),
        "floor": st.sampled_from([0.0, 0.02, 0.3]),
        "ceiling": st.sampled_from([0.4, 0.98, 1.0]),
    }
)


@settings(max_examples=60, deadline=None)
@given(compositions, st.sampled_from([Recurrent, Convolutional]), st.sampled_from([0.0, 0.3, 0.8, 0.95]))
def test_invariants_hold_for_every_composition(spelling, model, sparsity):
    method = composed(spelling)
    assert isinstance(method, Method)
    assert composed(spelled(method)) == method
    run = Run(method, model=model, optimizer="momentum", sparsity=sparsity)
    counts = {name: int(mask.sum()) for name, mask in run.sparsifier.masks.items()}
    for update in run.train(range(12)):
        counts = check(run, counts, update)
