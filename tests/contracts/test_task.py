"""Tasks of ours pass the suite of a task, and a task that breaks one promise fails it."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import hyperpruning as hp
from hyperpruning.tasks.language_modelling import LanguageModelling
from hyperpruning.testing import check_task
from hyperpruning.testing.tiny_task import TinyTask
from hyperpruning.training.record import Metric
from hyperpruning.training.task import Step

SMALL = {"hidden": 8, "embedding": 8, "batch": 8, "bptt": 20, "eval_batch": 4, "probe_steps": 14, "probe_batch": 2}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cell": "rhn", "depth": 2, "gradient_accumulation": 2},
        {"bptt_deviation": 5.0, "dropout": {"input": 0.4, "weight": 0.3}, "activation_penalty": 2.0},
        {"cell": "gru", "hidden": (8, 6), "tied": False, "experts": 2},
    ],
)
def test_language_modelling(text, options):
    check_task(LanguageModelling(folder=text, **(SMALL | options)), seed=3)


def test_other_tasks():
    check_task(TinyTask())
    check_task(WithMetric())


def test_unusable_data_is_refused_in_the_words_of_the_task(text):
    with pytest.raises(ValueError, match="bptt must be at most"):
        check_task(LanguageModelling(folder=text, **(SMALL | {"bptt": 10**6})))


@dataclass(frozen=True)
class WithMetric(TinyTask):
    """Its metric is computed beside the loss; its steps have two parts."""

    metric = Metric("agreement", unit="%", from_loss=None, maximize=True)

    def batches(self, epoch, seed):
        return (Step((batch[:, :2], batch[:, 2:]), 0.5) for batch in super().batches(epoch, seed))

    def evaluate(self, network, split):
        return super().evaluate(network, split), 50.0


@dataclass(frozen=True)
class Unpicklable(TinyTask):
    """Holds what a worker cannot get."""

    function: object = None


def faulty(**changes):
    """A task in which some methods or the metric are others; pickle finds its class here."""
    global Faulty
    Faulty = type("Faulty", (TinyTask,), {"__module__": __name__, **changes})
    return Faulty()


def carried(self, network, batch, carry):
    """Goes back through the batch before."""
    loss = TinyTask.loss(self, network, batch, None)[0]
    return loss + (0 if carry is None else carry), loss


def writes(self, network, split):
    with torch.no_grad():
        network.output.bias.add_(1)
    return 1.0


def trains(self, network, split):
    network.train()
    return 1.0


def steps_in_loss(self, network, batch, carry):
    with torch.no_grad():
        network.output.bias.add_(1)
    return TinyTask.loss(self, network, batch, carry)


FAULTS = {
    "no method": ({"evaluate": None}, "must have the method evaluate"),
    "global network": (
        {"network": lambda self, seed: TinyTask.network(self, torch.seed())},
        "must give the same weigh",
    ),
    "one network": ({"network": lambda self, seed: TinyTask.network(self, 0)}, "other weights for another seed"),
    "no network": ({"network": lambda self, seed: [1]}, "must return a torch.nn.Module"),
    "no steps": ({"steps": lambda self, epoch, seed: 0}, "must be an int of at least 1, got 0"),
    "float steps": ({"steps": lambda self, epoch, seed: 4.0}, "must be an int of at least 1, got 4.0"),
    "other steps": ({"steps": lambda self, epoch, seed: 5}, r"= 5 batches, got 4"),
    "global batches": (
        {"batches": lambda self, epoch, seed: (torch.randn(6, 4, 2) for _ in range(4))},
        "the same batches each time, got another one at 0",
    ),
    "infinite loss": ({"loss": lambda self, *given: (torch.tensor(math.inf), None)}, "must be a finite tensor"),
    "vector loss": ({"loss": lambda self, *given: (torch.zeros(2), None)}, "without dimensions"),
    "no carry": ({"loss": lambda self, network, *given: network.output.bias.sum()}, r"must return \(loss, carry\)"),
    "no gradient": ({"loss": lambda self, *given: (torch.zeros(()), None)}, "must have a gradient"),
    "attached carry": ({"loss": carried}, "detach what is carried"),
    "training loss": ({"loss": steps_in_loss}, "loss must leave the weights as they were"),
    "tensor": ({"evaluate": lambda self, *given: torch.zeros(())}, "a finite float"),
    "infinite": ({"evaluate": lambda self, *given: math.nan}, "a finite float"),
    "missing metric": ({"metric": Metric("x", from_loss=None)}, r"\(loss, metric\), two finite floats"),
    "needless metric": ({"evaluate": lambda self, *given: (1.0, 2.0)}, "a finite float"),
    "random evaluation": ({"evaluate": lambda self, *given: float(torch.rand(()))}, "the same each time, got 0"),
    "written weights": ({"evaluate": writes}, "evaluate.* must leave the weights as they were"),
    "training mode": ({"evaluate": trains}, "must leave the network in evaluation mode"),
    "no recurrence": ({"recurrence": lambda self, network: (network.rnn, None)}, "what lyapunov_spectrum accepts"),
    "random probe": (
        {"recurrence": lambda self, network: (network.rnn, torch.randn(6, 4, 2))},
        "must be the same each time, and of one shape",
    ),
    "unknown rows": ({"row_groups": lambda self, network: {"lstm": 4}}, "must name parameters of the network"),
    "indivisible rows": ({"row_groups": lambda self, network: {"rnn.weight_hh_l0": 4}}, "divide the 6 rows"),
    "no JSON": ({"identity": lambda self: {"size": torch.ones(())}}, "identity must return a dict"),
    "describes no JSON": ({"describe": lambda self, network: {"size": {1}}}, "describe must return a dict"),
    "another identity": ({"identity": lambda self: {"id": id(self)}}, "identity must be the same each time"),
    "no metric": ({"metric": "accuracy"}, "metric must be a hyperpruning.training.record.Metric"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_task_fails(fault):
    changes, says = FAULTS[fault]
    with pytest.raises(AssertionError, match=says):
        check_task(faulty(**changes))


def test_a_task_that_cannot_travel_to_workers_fails():
    with pytest.raises(AssertionError, match="A task must be picklable, got"):
        check_task(replace(Unpicklable(), function=lambda: None))


def test_infinite_exponents_fail(monkeypatch):
    class Found:
        exponents = torch.tensor([math.inf, -1.0])

    monkeypatch.setattr("hyperpruning.testing.task.lyapunov_spectrum", lambda *given, **options: Found)
    with pytest.raises(AssertionError, match=r"must be finite or -inf, got .inf, -1.0"):
        check_task(TinyTask())


def test_nothing_is_left_behind():
    state = torch.get_rng_state()
    check_task(TinyTask())
    assert torch.equal(torch.get_rng_state(), state)


class Both(nn.Module):
    """A bidirectional layer beside an LSTM cell that is stepped by hand."""

    def __init__(self):
        super().__init__()
        self.rnn, self.cell, self.output = nn.GRU(2, 3, bidirectional=True), nn.LSTMCell(2, 3), nn.Linear(9, 1)

    def forward(self, inputs):
        state, hidden = (inputs.new_zeros(inputs.shape[1], 3),) * 2, []
        for x in inputs:
            state = self.cell(x, state)
            hidden.append(state[0])
        return self.output(torch.cat([self.rnn(inputs)[0], torch.stack(hidden)], -1))


@dataclass(frozen=True)
class ProbeOfBoth(TinyTask):
    part: str = "cell"

    def network(self, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Both()

    def recurrence(self, network):
        if self.part == "direction":
            return hp.Direction(network.rnn, "backward"), self._inputs(0)
        start = torch.zeros(4, 3)
        return hp.DrivenStep(lambda state, x: network.cell(x, state), (start, start)), self._inputs(0)


@pytest.mark.parametrize(("part", "exponents"), [("cell", 6), ("direction", 3)])
def test_a_task_may_be_probed_by_a_step_of_tuples_or_by_one_direction(part, exponents):
    task = ProbeOfBoth(part=part)
    check_task(task)
    driven, inputs = task.recurrence(task.network(0))
    assert hp.lyapunov_spectrum(driven, inputs, warmup=2).exponents.shape == (exponents,)
