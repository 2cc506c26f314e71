"""No wrong answer in silence: what a task does wrong is one sentence, before anything is trained if it can be."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat

import pytest
import torch

import hyperpruning as hp
from hyperpruning.report import tables
from hyperpruning.report.run import read_run
from hyperpruning.report.verdict import verdict
from hyperpruning.search.driver import search
from hyperpruning.search.ledger import read
from hyperpruning.testing import check_task
from hyperpruning.testing.tiny_task import TinyTask
from hyperpruning.training.config import TrainConfig


def faulty(**changes):
    """A task in which some methods are others; pickle finds its class here."""
    global Faulty
    Faulty = type("Faulty", (TinyTask,), {"__module__": __name__, **changes})
    return Faulty()


def plan(task, **train):
    settings = {"n_candidates": 2, "ask_batch": 2, "rungs": (1,), "keep": (1,), "sparsity": 0.5}
    return hp.Plan(
        task=task,
        dense_task=task,
        train=TrainConfig(**{"epochs": 2, "updates_per_epoch": 1, "device": "cpu"} | train),
        space=hp.SearchSpace({"drop_fraction": (0.3, 0.5)}),
        spectrum=hp.SpectrumConfig(warmup=2),
        **settings,
    )


def writes(network):
    with torch.no_grad():
        network.output.bias.add_(1)


def evaluates_and_writes(self, network, split):
    loss = TinyTask.evaluate(self, network, split)
    writes(network)
    return loss


def writes_in_the_test(self, network, split):
    return (evaluates_and_writes if split == "test" else TinyTask.evaluate)(self, network, split)


def probes_and_writes(self, network):
    writes(network)
    return TinyTask.recurrence(self, network)


def batches(change):
    return lambda self, epoch, seed: change(TinyTask.batches(self, epoch, seed))


def loss_alone(self, network, batch, carry):
    return TinyTask.loss(self, network, batch, carry)[0]


def global_network(self, seed):
    return TinyTask.network(self, torch.seed())


BEFORE = {  # before a file is written
    "no method": ({"loss": None}, r"A task must have the method loss, got Faulty without it\. Add it"),
    "no module": ({"network": lambda self, seed: [1]}, "network must return a torch.nn.Module, got a list"),
    "ignores its seed": ({"network": lambda self, seed: TinyTask.network(self, 0)}, "other weights for another seed"),
    "draws globally": ({"network": global_network}, "network.0. must give the same weights each time, got others"),
    "loss alone": ({"loss": loss_alone}, r"loss must return \(loss, carry\), got a Tensor\. Return None where nothing"),
    "loss of every step": (
        {"loss": lambda self, network, batch, carry: (network(batch), None)},
        r"loss must return a tensor without dimensions, got a tensor of shape \(6, 4, 1\)\. Take the mean\.",
    ),
    "loss as a float": (
        {"loss": lambda self, network, batch, carry: (0.5, None)},
        r"loss must return a tensor without dimensions, got a float\.",
    ),
    "loss without a gradient": (
        {"loss": lambda self, network, batch, carry: (loss_alone(self, network, batch, carry).detach(), None)},
        "loss must have a gradient, got one that is detached",
    ),
    "half a step": ({"steps": lambda self, epoch, seed: 2.5}, r"steps\(0, 0\) must be an int of at least 1, got 2\.5"),
    "no identity": ({"identity": lambda self: None}, "identity must return a dict with string keys .*, got None"),
    "a tensor in the identity": ({"identity": lambda self: {"x": torch.zeros(1)}}, "identity must return a dict"),
    "metric as a string": ({"metric": "accuracy"}, "metric must be a hyperpruning.Metric, got 'accuracy'"),
    "rows as a list": ({"row_groups": lambda self, network: ["rnn"]}, "row_groups must return a mapping .* got a list"),
    "unknown rows": (
        {"row_groups": lambda self, network: {"lstm": 4}},
        "must name parameters of the network, got 'lstm'",
    ),
    "indivisible rows": ({"row_groups": lambda self, network: {"rnn.weight_hh_l0": 4}}, "must divide the 6 rows of"),
    "module alone": (
        {"recurrence": lambda self, network: network.rnn},
        "return .recurrent part, inputs., got a RNN",
    ),
}
AT_ONCE = {  # before a weight is changed
    "tensor": (
        {"evaluate": lambda *given: torch.zeros(())},
        r'"valid"\) must return a finite float, .* got tensor',
    ),
    "NaN": ({"evaluate": lambda *given: float("nan")}, r"a finite float, or .loss, metric. before training, got nan"),
    "writes": (
        {"evaluate": evaluates_and_writes},
        r'"valid"\) must leave the weights as they were, got another',
    ),
    "probe writes": ({"recurrence": probes_and_writes}, "recurrence must leave the weights as they were, got another"),
}
AFTER = {  # in the first epoch, or at the end
    "shorter": ({"batches": batches(lambda all: islice(all, 3))}, r"= 4 batches, got 3\. Correct one of them"),
    "one more": ({"batches": batches(lambda all: chain(all, [torch.zeros(6, 4, 2)]))}, "= 4 batches, got more"),
    "endless": (
        {"batches": batches(lambda all: repeat(next(all)))},
        r"batches\(0, 0\) must give .* = 4 batches, got mo",
    ),
    "test writes": ({"evaluate": writes_in_the_test}, r'"test"\) must leave the weights as they were, got another'),
}


@pytest.mark.parametrize("fault", BEFORE)
def test_what_can_be_seen_without_training_is_said_before_a_file_is_written(tmp_path, fault):
    changes, says = BEFORE[fault]
    with pytest.raises(ValueError, match=says):
        search(plan(faulty(**changes)), tmp_path / "run", lock=False)
    assert not (tmp_path / "run").exists()


def test_the_task_of_the_dense_reference_is_checked_too(tmp_path):
    for changes, says in (BEFORE["loss alone"], BEFORE["ignores its seed"], BEFORE["module alone"]):
        with pytest.raises(ValueError, match=says):
            search(replace(plan(TinyTask()), dense_task=faulty(**changes)), tmp_path / "run", lock=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fault", AT_ONCE)
def test_what_the_first_epoch_shows_is_said_before_a_weight_is_changed(tmp_path, fault):
    changes, says = AT_ONCE[fault]
    with pytest.raises(ValueError, match=says):
        search(plan(faulty(**changes)), tmp_path / "run", lock=False)
    assert all(set(epochs) <= {0} for epochs in read(tmp_path / "run").epochs.values())


@pytest.mark.parametrize("fault", AFTER)
def test_what_training_shows_is_said(tmp_path, fault):
    changes, says = AFTER[fault]
    with pytest.raises(ValueError, match=says):
        search(plan(faulty(**changes)), tmp_path / "run", lock=False)
    with pytest.raises(AssertionError):
        check_task(faulty(**changes))


def writes_in_later_epochs(self, network, split):
    loss = TinyTask.evaluate(self, network, split)
    network.evaluations = getattr(network, "evaluations", 0) + 1
    if network.evaluations > 1 and split == "valid":
        with torch.no_grad():
            network.rnn.weight_hh_l0.fill_(0.01)
    return loss


def test_the_nonzeros_of_the_winner_are_counted_at_export(tmp_path):
    """An evaluate that writes after the first epoch, as a task with caches may, fills pruned places."""
    with pytest.raises(
        ValueError,
        match=r"The weights of c0\d must have at most the 27 nonzeros that are active in the ledger, got \d\d",
    ):
        hp.hyperprune(plan(faulty(evaluate=writes_in_later_epochs)), tmp_path / "run")
    assert not (tmp_path / "run" / "winner.safetensors").exists()


def test_a_dense_network_that_learnt_nothing_is_said_in_verdict_and_report(tmp_path):
    """The mean of the targets is 0 and their variance is 0.5: the loss of the best constant prediction."""
    task = faulty(baseline_loss=lambda self, split: 0.5)
    hp.hyperprune(plan(task, lr=1e-9), tmp_path / "run")
    run = read_run(tmp_path / "run")
    (note,) = (note for note in run.notes if "as many weights" not in note)
    loss = run.history.finals["dense"].valid_loss
    assert loss > 0.5 * 0.99
    assert note == (
        f"The dense network has learnt nothing: its validation loss of {loss:.4f} nats is not 1 % below the 0.5000 of "
        "the best constant prediction. Change the model or the training: until the dense network learns, comparisons "
        "of pruned ones mean nothing."
    )
    assert verdict(tables.results(tmp_path / "run"), run.notes).startswith(note)
    page = (tmp_path / "run" / "report.html").read_text()
    assert note in page.replace("\N{NO-BREAK SPACE}", " ")


def test_a_candidate_whose_first_loss_is_not_finite_fails_alone(tmp_path):
    """Only the dense network must have a finite loss before training: a mask may be to blame."""

    def evaluate(self, network, split):
        loss = TinyTask.evaluate(self, network, split)
        return loss if network.rnn.weight_hh_l0.count_nonzero() > 30 else float("inf")

    with pytest.raises(ValueError, match=r"validation loss must be finite, got inf"):
        search(plan(faulty(evaluate=evaluate)), tmp_path / "run", lock=False)
    assert len(read(tmp_path / "run").epochs["dense"]) == 2


@dataclass(frozen=True)
class Unpicklable(TinyTask):
    function: object = None


def test_a_task_that_cannot_travel_to_a_worker_process(tmp_path):
    task = Unpicklable(function=lambda: None)
    with ProcessPoolExecutor(1) as pool, pytest.raises(ValueError, match="A task must be picklable to train in worker"):
        search(plan(task), tmp_path / "run", executor=pool, lock=False)
    assert not (tmp_path / "run").exists()
    with ThreadPoolExecutor(1) as pool:
        assert search(plan(task), tmp_path / "run", executor=pool, lock=False).winners


def test_a_device_that_is_not_there_and_half_an_epoch(tmp_path):
    for device in ("cuda:99", "gpu"):
        with pytest.raises(ValueError, match=rf'device must be "cpu", "auto" or one of the .* got {device!r}'):
            search(plan(TinyTask(), device=device), tmp_path / "run", lock=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"epochs must be a whole number, got 2\.5"):
        plan(TinyTask(), epochs=2.5)
