"""SNT-ASGD: equal to torch's ASGD where nothing is pruned, and a fresh average where a weight is regrown."""

import pytest
import torch
from torch import nn

from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.training.averaging import non_monotone
from hyperpruning.training.snt_asgd import SNTASGD


def gradients(weight, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        weight.grad = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        yield


def test_without_pruning_it_is_torch_asgd():  # which keeps lr and 1/k in float32: lr is exact there
    ours, theirs = (nn.Parameter(torch.ones(4, 3, dtype=torch.float64)) for _ in range(2))
    one = SNTASGD([ours], lr=0.125, weight_decay=0.01)
    two = torch.optim.ASGD([theirs], lr=0.125, weight_decay=0.01, t0=0, lambd=0)
    one.start_averaging()
    for _ in zip(gradients(ours, 9), gradients(theirs, 9), strict=True):
        one.step()
        two.step()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        torch.testing.assert_close(one.state[ours]["average"], two.state[theirs]["ax"], rtol=0, atol=1e-7)


def test_before_averaging_it_is_plain_sgd_and_keeps_no_state():
    ours, theirs = (nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    one, two = SNTASGD([ours], lr=0.1), torch.optim.SGD([theirs], lr=0.1)
    for _ in zip(gradients(ours, 5), gradients(theirs, 5), strict=True):
        one.step()
        two.step()
    assert ours.equal(theirs)
    assert not one.state[ours]


def test_a_regrown_weight_begins_its_average_anew():
    weight = nn.Parameter(torch.tensor([[1.0, 2.0]]))
    optimizer = SNTASGD([weight], lr=1.0)
    optimizer.start_averaging()
    mask = torch.tensor([[1.0, 1.0]])
    values = []
    for step in range(8):
        weight.grad = torch.full_like(weight, -1.0)  # every weight grows by one a step
        optimizer.step()
        mask[0, 1] = 0.0 if step in (3, 4) else 1.0
        for state in (weight.data, *optimizer.state[weight].values()):
            state.mul_(mask.to(state.dtype))  # what a Sparsifier does after every step
        values.append(weight.detach()[0, 1].item())
    assert values == [3, 4, 5, 0, 0, 1, 2, 3]
    # steps since regrowth: k = 1, 2, 3 with values 1, 2, 3; the average is over steps 2..k
    assert optimizer.state[weight]["average"][0, 1].item() == pytest.approx(2.5)
    assert optimizer.state[weight]["count"].tolist() == [[8, 3]]


def test_averages_are_zero_where_a_sparsifier_prunes():
    layer = nn.Linear(30, 20)
    optimizer = SNTASGD(layer.parameters(), lr=0.1)
    sparsifier = Sparsifier(layer, optimizer, METHODS["rigl"], sparsity=0.7, interval=3, total_steps=20)
    optimizer.start_averaging()
    for _ in range(20):
        layer(torch.randn(8, 30)).square().sum().backward()
        optimizer.step()
        sparsifier.step()
        off = ~sparsifier.masks["weight"]
        state = optimizer.state[layer.weight]
        assert not layer.weight[off].any()
        assert not state["average"][off].any()
        assert not state["count"][off].any()
        optimizer.zero_grad()


def test_averaged_swaps_in_and_out():
    weight = nn.Parameter(torch.zeros(3))
    optimizer = SNTASGD([weight], lr=1.0)
    with optimizer.averaged():
        assert weight.tolist() == [0, 0, 0]
    optimizer.start_averaging()
    for _ in range(4):
        weight.grad = -torch.ones(3)
        optimizer.step()
    with optimizer.averaged():
        assert weight.tolist() == [3, 3, 3]  # the mean of 2, 3, 4
    assert weight.tolist() == [4, 4, 4]


@pytest.mark.parametrize("n", [0, 1, 3, 5])
def test_the_trigger_is_that_of_the_published_loop(n):
    def published(losses):
        """The epoch after which averaging begins, with the history appended after the test."""
        history = []
        for epoch, v in enumerate(losses):
            if len(history) > n and v > min(history[: len(history) - n]):
                return epoch
            history.append(v)
        return None

    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        losses = torch.rand(12, generator=generator).tolist()
        found = [epoch for epoch in range(12) if non_monotone(losses[: epoch + 1], n)]
        assert (found[0] if found else None) == published(losses)


def test_the_trigger_waits_while_losses_fall_and_forgives_the_last_n():
    falling = [5.0 - 0.1 * epoch for epoch in range(20)]
    assert not any(non_monotone(falling[: end + 1]) for end in range(20))
    assert not non_monotone([3.0, 2.0, 1.0, 1.0, 1.0, 1.5], n=5)  # five earlier: not more than n
    assert not non_monotone([3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.5], n=5)  # worse than the last five, better than 3
    assert non_monotone([3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 3.5], n=5)
