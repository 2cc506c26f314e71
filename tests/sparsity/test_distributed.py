"""The Sparsifier under DistributedDataParallel: two processes on this machine, which talk through a file and gloo."""

import dataclasses
import os
import sys
import warnings
from contextlib import nullcontext

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.sparsifier import Sparsifier

pytestmark = [
    pytest.mark.slow,  # two processes import torch: 10 seconds
    pytest.mark.skipif(not distributed.is_available(), reason="this torch is built without torch.distributed"),
]
STEPS, INTERVAL, PROCESSES, PARTS = 12, 3, 2, 2
# growth at random, by gradient, by a running mean of the gradient; a global scope; first masks by the loss of a batch
CHOSEN = {
    "set": METHODS["set"],
    "rigl": METHODS["rigl"],
    "snfs": METHODS["snfs"],
    "dsr": METHODS["dsr"],
    "gmp-global": METHODS["gmp-global"],
    "granet": METHODS["granet"],
    "snip and rigl": dataclasses.replace(METHODS["rigl"], mask_init=METHODS["snip"].mask_init),
    "random regrowth": dataclasses.replace(METHODS["set"], regrowth_init=lambda p, kept, grown: p.weight.mean()),
}


def network(seed):
    torch.manual_seed(seed)
    return nn.ModuleDict({"rnn": nn.GRU(6, 8), "head": nn.Linear(8, 6)}).double()


class Predictor(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.parts = network(seed)

    def forward(self, series):
        return self.parts["head"](self.parts["rnn"](series)[0])


def series(step):
    """(T, B, 6); B is divided between the processes, and each part again into parts of gradient accumulation."""
    return torch.randn(5, 8, 6, generator=torch.Generator().manual_seed(step)).double()


def train(model, data, method, *, parts=1, seed=0):
    """Train; return the masks and weights at the start and after every update."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    sparsifier = Sparsifier(
        model,
        optimizer,
        method,
        sparsity=0.6,
        total_steps=20,
        interval=INTERVAL,
        calibration=lambda: (model(data(100)) ** 2).mean(),
        seed=seed,
    )
    found = [(0, sparsifier.state_dict()["masks"], sparsifier.active_cost, None)]
    for step in range(STEPS):
        for number, part in enumerate(data(step).chunk(parts, 1), 1):
            with model.no_sync() if number < parts else nullcontext():
                ((model(part) - part) ** 2).mean().div(parts).backward()
        optimizer.step()
        if update := sparsifier.step():
            weights = {name: one.detach().clone() for name, one in sparsifier.parameters.items()}
            found.append((update.step, sparsifier.state_dict()["masks"], sparsifier.active_cost, weights))
        optimizer.zero_grad()
    return found


def process(rank, folder):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"  # nothing beyond this machine
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)

    def data(step):
        return series(step).chunk(PROCESSES, 1)[rank]

    found = {}
    for name, method in CHOSEN.items():
        model = DistributedDataParallel(Predictor(rank))  # the processes begin with other weights, DDP makes them equal
        found[name] = train(model, data, method, parts=PARTS, seed=rank)  # nor is the seed of the masks the same
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Sparsifier(Predictor(rank), None, METHODS["static"], sparsity=0.6)
    torch.save((found, [str(one.message) for one in seen]), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(process, (str(folder),), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


@pytest.mark.parametrize("name", CHOSEN)
def test_all_processes_have_the_same_masks_after_every_update(name, ranks):
    (first, *others) = (found[name] for found, _ in ranks)
    assert [step for step, *_ in first] == [0, 3, 6, 9, 12]
    for number, (step, masks, active, weights) in enumerate(first):
        assert list(masks) == ["parts.rnn.weight_ih_l0", "parts.rnn.weight_hh_l0", "parts.head.weight"]  # no "module."
        for other in others:
            assert other[number][0] == step
            assert other[number][2] == active
            for key, mask in masks.items():
                assert torch.equal(mask, other[number][1][key]), (step, key)
                assert weights is None or torch.equal(weights[key], other[number][3][key]), (step, key)
        if number:
            assert any(not torch.equal(mask, first[number - 1][1][key]) for key, mask in masks.items())


@pytest.mark.parametrize("name", [name for name in CHOSEN if name != "snip and rigl"])
def test_they_are_the_masks_of_one_process_with_the_whole_batch(name, ranks):
    """The gradients are averaged before they are ranked."""
    alone = train(Predictor(0), series, CHOSEN[name])
    for (step, masks, *_), (other, expected, *_) in zip(ranks[0][0][name], alone, strict=True):
        assert step == other
        for key, mask in masks.items():
            assert torch.equal(mask, expected[key]), (step, key)


def test_a_model_that_is_not_wrapped_is_noticed(ranks):
    for _, messages in ranks:
        assert messages == [
            "The model must be in DistributedDataParallel when several processes train it, got a model without it in "
            "one of 2 processes: their masks can differ. Wrap the model first, and give the Sparsifier the wrapped "
            "model."
        ]
