"""A training loop of somebody's own: it continues bit for bit, and what it does wrong is said in one sentence."""

import math
import random
from dataclasses import asdict, dataclass, replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

import hyperpruning as hp
from hyperpruning.search.driver import search
from hyperpruning.search.ledger import LEDGER
from hyperpruning.testing import check_task
from hyperpruning.testing.comparison import bits
from hyperpruning.testing.tiny_task import TinyTask
from hyperpruning.training.checkpoint import load, save
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.epochs import epochs, train_batches
from hyperpruning.training.own_loop import LEFT_TO_THE_LOOP
from hyperpruning.training.state import DivergedError, Training


class Average:
    """An object with state of its own: a moving average of the loss."""

    def __init__(self):
        self.value = torch.zeros(())

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


@dataclass(frozen=True)
class Loop(TinyTask):
    """AdamW, OneCycleLR, a GradScaler, noise from every generator there is, and a loss that depends on its past."""

    batches = loss = None

    def start(self, network):
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
        return {
            "optimizer": optimizer,
            "scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=16),
            "scaler": torch.amp.GradScaler("cpu"),
            "generator": torch.Generator().manual_seed(3),
            "average": Average(),
        }

    def train_epoch(self, network, state, sparsifier, epoch):
        optimizer, scaler, average, total = state["optimizer"], state["scaler"], state["average"], 0.0
        for batch in islice(TinyTask.batches(self, epoch, 0), self.steps(epoch, 0)):
            noise = torch.randn(batch.shape, generator=state["generator"]) + torch.randn(batch.shape)
            noise = noise * random.random() * float(np.random.rand())  # noqa: NPY002
            loss = TinyTask.loss(self, network, batch + 0.1 * noise, None)[0]
            average.value = 0.9 * average.value + 0.1 * loss.detach()
            optimizer.zero_grad()
            scaler.scale(loss + 0.1 * (loss - average.value) ** 2).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            state["scheduler"].step()
            sparsifier.step()
            total += loss.item()
        return total / self.steps(epoch, 0)

    def evaluate(self, network, split):
        return float(TinyTask.loss(self, network, self._inputs(10**9 + (split == "test")), None)[0])


def loop(**changes):
    """A loop in which some methods are others; pickle finds its class here."""
    global Changed
    Changed = type("Changed", (Loop,), {"__module__": __name__, **changes})
    return Changed()


def begin(task=None, method="rigl", **settings):
    config = TrainConfig(epochs=4, updates_per_epoch=2, **settings)
    return Training(task or Loop(), config, hp.METHODS[method] if method else None, sparsity=0.5 if method else 0.0)


def plan(task=None, **changes):
    settings = {
        "task": task or Loop(),
        "dense_task": task or Loop(),
        "train": TrainConfig(epochs=3, updates_per_epoch=1, device="cpu"),
        "sparsity": 0.5,
        "space": hp.SearchSpace({"drop_scope": ("tensor", "sign"), "drop_fraction": (0.3, 0.5)}),
        "spectrum": hp.SpectrumConfig(warmup=2),
        "n_candidates": 2,
        "ask_batch": 2,
        "rungs": (1,),
        "keep": (1,),
    }
    return hp.Plan(**settings | changes)


@pytest.mark.parametrize("method", [None, "set", "rigl", "gmp"])
def test_it_continues_from_a_checkpoint_bit_for_bit(tmp_path, method):
    whole = begin(method=method)
    expected = [replace(record, seconds=0.0) for record in epochs(whole)]
    for pause in (0, 1, 3):
        first = begin(method=method)
        records = list(epochs(first, pause))
        save(first, tmp_path / f"{pause}", "x", records)
        random.seed(pause)
        np.random.seed(pause)  # noqa: NPY002
        second = begin(method=method)
        assert load(second, tmp_path / f"{pause}", "x") == tuple(records)
        records += epochs(second)
        assert [replace(record, seconds=0.0) for record in records] == expected
        assert bits(second.state_dict()) == bits(whole.state_dict())
    assert expected[-1].valid_loss < expected[0].valid_loss
    if method:
        assert any(record.churn > 0 for record in expected) or method == "gmp"
        for name, mask in whole.sparsifier.masks.items():
            weight = whole.sparsifier.parameters[name]
            state = [value for value in whole.optimizer.state[weight].values() if value.shape == weight.shape]
            assert len(state) == 4  # two of Adam, two of the moving average
            assert not any(value[~mask].any() for value in (weight.detach(), *state))


def test_a_search_that_is_killed_between_epochs_ends_with_the_same_ledger(tmp_path):
    history = search(plan(), tmp_path / "whole", lock=False)
    assert history.finals["dense"].valid_loss < history.epochs["dense"][0].valid_loss
    for kill in (2, 5, 9):
        seen = []

        def stop(fact, kill=kill, seen=seen):
            seen.append(fact)
            if len(seen) == kill:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            search(plan(), tmp_path / f"{kill}", lock=False, on_fact=stop)
        search(plan(), tmp_path / f"{kill}", lock=False)
        assert (tmp_path / f"{kill}" / LEDGER).read_bytes() == (tmp_path / "whole" / LEDGER).read_bytes()


def test_the_global_generators_are_left_as_they_were():
    states = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # noqa: NPY002
    list(epochs(begin(), 1))
    assert states == [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # noqa: NPY002


def test_the_suite_checks_it():
    check_task(Loop(), seed=2)


def forgets(self, network):
    objects = dict(Loop.start(self, network))
    del objects["optimizer"]
    return objects


def steps_twice(self, network, state, sparsifier, epoch):
    loss = Loop.train_epoch(self, network, state, sparsifier, epoch)
    sparsifier.step()
    return loss


def steps_never(self, network, state, sparsifier, epoch):
    return 0.0


def writes_after(self, network, state, sparsifier, epoch):
    loss = Loop.train_epoch(self, network, state, sparsifier, epoch)
    with torch.no_grad():
        network.rnn.weight_hh_l0.add_(1)
    return loss


def returning(value):
    return lambda self, *given: (Loop.train_epoch(self, *given), value)[1]


class Plain:
    def __init__(self, **methods):
        for name, method in methods.items():
            setattr(self, name, method)


def starting(**more):
    return lambda self, network: {**Loop.start(self, network), **more}


FAULTS = {
    "no optimizer": ({"start": forgets}, r'a torch optimizer as "optimizer", got \[.average., .generator., .scale'),
    "no dict": ({"start": lambda self, network: torch.optim.SGD(network.parameters())}, 'as "optimizer", got SGD'),
    "no state": ({"start": starting(more=3)}, r"must have state_dict and load_state_dict, got a int as 'more'"),
    "code as state": (
        {"start": starting(more=Plain(state_dict=lambda: {"x": Plain()}, load_state_dict=print))},
        "The state_dict of 'more' must hold tensors and plain types, got",
    ),
    "never": ({"train_epoch": steps_never}, r"each of the steps\(0, 0\) = 4 optimizer steps, got 0 calls"),
    "twice": ({"train_epoch": steps_twice}, r"each of the steps\(0, 0\) = 4 optimizer steps, got more calls"),
    "off the mask": ({"train_epoch": writes_after}, "Pruned weights must be 0 after train_epoch, got others in 'rnn"),
    "tensor": ({"train_epoch": returning(torch.zeros(()))}, "mean training loss as a float, got a Tensor"),
    "nothing": ({"train_epoch": returning(None)}, "mean training loss as a float, got a NoneType"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_loop_does_wrong_is_one_sentence(fault):
    changes, says = FAULTS[fault]
    with pytest.raises(ValueError, match=says):
        list(epochs(begin(loop(**changes)), 1))
    with pytest.raises(ValueError, match=says):
        check_task(loop(**changes))


def test_a_loss_that_is_not_finite_is_a_divergence_of_this_network():
    with pytest.raises(DivergedError, match=r"got inf in epoch 1 .* Lower the learning rate"):
        list(epochs(begin(loop(train_epoch=returning(math.inf))), 1))


def counts_in_itself(self, network, state, sparsifier, epoch):
    """What changes with each epoch is not in the state."""
    COUNT[0] += 1
    with torch.no_grad():
        network.output.bias.add_(COUNT[0])
    return Loop.train_epoch(self, network, state, sparsifier, epoch)


def remembers(self, network, state, sparsifier, epoch):
    """The momentum of the weights' owner, kept on the network and not in the state."""
    network.past = getattr(network, "past", 0.0) + 0.01
    with torch.no_grad():
        network.output.bias.add_(network.past)
    return Loop.train_epoch(self, network, state, sparsifier, epoch)


COUNT = [0]


def test_the_suite_finds_state_that_is_not_handed_over():
    with pytest.raises(AssertionError, match="continues from a checkpoint must be the same as one without a pause"):
        check_task(loop(train_epoch=remembers))
    with pytest.raises(AssertionError, match="The same seed must give the same training, got others"):
        check_task(loop(train_epoch=counts_in_itself))


GIVEN = {
    "optimizer": "sgd",
    "lr": 0.1,
    "schedule": "cosine",
    "precision": "bf16",
    "finetune_from": 0.5,
    "momentum": 0.5,
}


@pytest.mark.parametrize("name", GIVEN)
def test_settings_of_the_packages_loop_are_refused(name):
    assert name in LEFT_TO_THE_LOOP
    with pytest.raises(ValueError, match=rf"{name} must be left out when a task has its own training loop, got "):
        plan(train=TrainConfig(epochs=3, **{name: GIVEN[name]}))


def test_the_identity_records_that_the_loop_decides():
    found = plan().identity()["train"]
    assert {name: found[name] for name in ("optimizer", "lr", "average_from")} == {
        "optimizer": None,
        "lr": None,
        "average_from": None,
    }
    assert asdict(begin().config)["lr"] is None


def test_mask_inits_by_the_loss_need_batches_and_loss():
    space = hp.SearchSpace({"mask_init": ("snip",), "drop_fraction": (0.3, 0.5)})
    with pytest.raises(ValueError, match="A task must have batches and loss here, got Loop without them"):
        search(plan(space=space), None, lock=False)
    with pytest.raises(ValueError, match="A task must have batches and loss here"):
        train_batches(begin(), [])
    task = loop(batches=TinyTask.batches, loss=TinyTask.loss)
    assert begin(task, "snip").sparsifier.at_final_density
