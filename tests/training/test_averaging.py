"""The moving average of the weights: its values, its masks, its state."""

import pytest
import torch
from torch import nn

import hyperpruning as hp
from hyperpruning.training.averaging import UPDATES_IN_HALF_LIFE, keep_moving_average, moving_averaged
from hyperpruning.training.epochs import epochs
from hyperpruning.training.state import Training
from small import small


def steps_of(model, optimizer, n, sparsifier=None):
    """Train on noise; return the weight after each step as the average sees it."""
    seen = []
    for step in range(n):
        optimizer.zero_grad()
        model(torch.randn(8, 6, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        optimizer.step()
        seen.append(model.weight.detach().clone())
        if sparsifier is not None:
            sparsifier.step()
    return seen


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.Adam(p, 0.01)])
def test_it_is_the_exponential_average_from_the_first_step(make):
    torch.manual_seed(0)
    model = nn.Linear(6, 4, bias=False)
    optimizer = make(model.parameters())
    keep_moving_average(optimizer, 3.0)
    before = [weight.double() for weight in steps_of(model, optimizer, 12)]
    decay = 0.5 ** (1 / 3)
    factors = [decay ** (len(before) - 1 - step) for step in range(len(before))]
    expected = sum(f * w for f, w in zip(factors, before, strict=True)) / sum(factors)
    with moving_averaged(optimizer):
        assert torch.allclose(model.weight.double(), expected, atol=1e-6)
    assert torch.equal(model.weight.double(), before[-1])


def test_a_long_half_life_needs_few_updates_and_has_the_same_value():
    torch.manual_seed(0)
    found = []
    for half_life in (UPDATES_IN_HALF_LIFE - 0.01, 4 * UPDATES_IN_HALF_LIFE):
        torch.manual_seed(0)
        model = nn.Linear(6, 4, bias=False)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        keep_moving_average(optimizer, half_life)
        steps_of(model, optimizer, 40)
        found.append(float(optimizer.state[model.weight]["moving_n"].mean()))
    decays = 1 - 0.5 ** (40 / (UPDATES_IN_HALF_LIFE - 0.01)), 1 - 0.5 ** (40 / (4 * UPDATES_IN_HALF_LIFE))
    assert found == pytest.approx(decays, rel=1e-4)


def test_a_regrown_weight_begins_again_and_a_pruned_one_is_zero():
    torch.manual_seed(0)
    model = nn.Linear(6, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    keep_moving_average(optimizer, 5.0)
    sparsifier = hp.Sparsifier(model, optimizer, hp.METHODS["set"], sparsity=0.5, total_steps=100, interval=4)
    steps_of(model, optimizer, 4, sparsifier)  # the last step updated the masks
    mask, numbers = sparsifier.masks["weight"], optimizer.state[model.weight]["moving_n"]
    new = mask & (numbers == 0)
    assert int(new.sum()) > 0
    assert bool((numbers[~mask] == 0).all())
    seen = steps_of(model, optimizer, 2, sparsifier)
    decay = 0.5 ** (1 / 5)
    expected = (decay * seen[0] + seen[1]) / (1 + decay)
    with moving_averaged(optimizer):
        assert torch.allclose(model.weight[new], expected[new], atol=1e-6)
        assert bool((model.weight[~mask] == 0).all())


def test_its_loss_is_recorded_and_a_resumed_training_records_the_same(text):
    plan = small(text, training={"half_life": 0.5}).plan()

    def begin():
        return Training(plan.task, plan.train, hp.METHODS["rigl"], sparsity=0.5)

    whole = [record.averaged_loss for record in epochs(begin())]
    first = begin()
    half = [record.averaged_loss for record in epochs(first, 1)]
    second = begin()
    second.load_state_dict(first.state_dict())
    assert half + [record.averaged_loss for record in epochs(second)] == whole
    assert None not in whole
    assert len(set(whole)) == 5


def test_without_a_half_life_nothing_is_recorded(text):
    plan = small(text, training={"half_life": 0.0}, search={"criteria": ("ls", "loss")}).plan()
    training = Training(plan.task, plan.train)
    assert [record.averaged_loss for record in epochs(training, 1)] == [None, None]
    assert all("moving_n" not in state for state in training.optimizer.state.values())
