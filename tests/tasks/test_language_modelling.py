"""The language modelling task: its loss against the formulas."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from hyperpruning.models.penalties import activation_penalty, temporal_penalty
from hyperpruning.tasks.language_modelling import LanguageModelling


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (2.0, 0.0), (0.0, 1.0), (2.0, 1.0)])
def test_the_loss_is_cross_entropy_and_while_training_penalties(text, alpha, beta):
    task = LanguageModelling(folder=text, hidden=6, dropout=0.5, activation_penalty=alpha, temporal_penalty=beta)
    network = task.network(0)
    batch = next(iter(task.batches(0, 0))).parts[0]
    torch.manual_seed(0)
    loss, _ = task.loss(network, batch, None)
    torch.manual_seed(0)
    hidden, _ = network.hidden_states(batch[0])
    dropped = network.output_dropout(hidden)
    logits = network.decoder(dropped)
    expected = functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten())
    penalties = alpha * activation_penalty(dropped) + beta * temporal_penalty(hidden)
    torch.testing.assert_close(loss, expected + penalties)
    assert (penalties.item() > 1e-3) == (alpha + beta > 0)
    network.eval()
    plain = functional.cross_entropy(network(batch[0])[0].flatten(0, 1), batch[1].flatten())
    assert task.loss(network, batch, None)[0].equal(plain)


@pytest.mark.parametrize(
    "sizes",
    [
        {"dropout": 0.1},
        {"cell": "rhn", "layers": 1, "depth": 2, "dropout": {"embedding": 0.1, "state": 0.1, "output": 0.1}},
        {"experts": 2, "tied": True, "dropout": {"weight": 0.5, "latent": 0.1, "hidden": 0.1}},
    ],
)
def test_everything_is_computed_on_the_device_of_the_network(text, sizes):
    """The device "meta" computes nothing, and refuses what lies elsewhere as a GPU does."""
    task = LanguageModelling(folder=text, hidden=6, embedding=6, activation_penalty=1.0, temporal_penalty=1.0, **sizes)
    network, carry = task.network(0).to("meta"), None
    for step in list(task.batches(0, 0))[:2]:
        loss, carry = task.loss(network, step.parts[0], carry)
        loss.backward()
    assert loss.is_meta
    assert all(parameter.grad.is_meta for parameter in network.parameters())
    assert task.recurrence(network)[1].is_meta


def test_the_example_of_a_task_of_ones_own_moves_its_data_to_the_network():
    example = Path(__file__).parents[2] / "examples" / "own_task.py"
    task = runpy.run_path(str(example))["FirstSymbol"]()
    network = task.network(0).to("meta")
    loss, _ = task.loss(network, next(task.batches(0, 0)), None)
    loss.backward()
    assert loss.is_meta
    recurrent, probe = task.recurrence(network)
    assert recurrent(probe)[0].is_meta


def chain(network, tokens):
    """Mean cross-entropy of a text read in one go, every token but the first."""
    logits, _ = network(tokens[:-1, None])
    return float(functional.cross_entropy(logits[:, 0].double(), tokens[1:]).detach())


def test_the_test_loss_is_of_one_unbroken_text_and_the_validation_loss_of_columns(text):
    task = LanguageModelling(folder=text, hidden=6, eval_batch=4, bptt=7, batch=3)
    network = task.network(0).eval()
    assert task.evaluate(network, "test") == pytest.approx(chain(network, task.corpus().test), abs=1e-6)
    valid = task.corpus().valid
    cut = valid[: len(valid) // 4 * 4].view(4, -1)
    expected = sum(chain(network, column) for column in cut) / 4
    assert task.evaluate(network, "valid") == pytest.approx(expected, abs=1e-6)
    columns = replace(task, test_batch=20).evaluate(network, "test")
    assert columns != pytest.approx(task.evaluate(network, "test"), abs=1e-6)


def seen(monkeypatch, task, network, *, room):
    """Evaluate where only so many tokens fit into the memory: the loss, and the lengths of all windows."""
    lengths, loss = [], LanguageModelling.loss

    def limited(self, network, batch, carry):
        lengths.append(len(batch[0]))
        if batch[0].numel() > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss(self, network, batch, carry)

    with monkeypatch.context() as patched:
        patched.setattr(LanguageModelling, "loss", limited)
        return task.evaluate(network, "test"), lengths


def test_windows_of_few_columns_are_longer_and_shorter_where_they_do_not_fit(text, monkeypatch):
    task = LanguageModelling(folder=text, hidden=6, bptt=35, batch=20)
    network = task.network(0).eval()
    whole, lengths = seen(monkeypatch, task, network, room=700)
    assert lengths[0] == 700
    again, lengths = seen(monkeypatch, task, network, room=87)
    assert lengths[:2] == [700, 87]
    assert sum(lengths[1:]) == len(task.corpus().test) - 1
    assert again == pytest.approx(whole, abs=1e-6)
    with pytest.raises(torch.OutOfMemoryError):
        seen(monkeypatch, task, network, room=86)


def test_a_share_changes_the_text_and_its_identity(text):
    task = LanguageModelling(folder=text)
    part = replace(task, fraction=0.5)
    assert len(part.corpus().train) == round(len(task.corpus().train) / 2)
    assert part.identity()["text_sha256"] != task.identity()["text_sha256"]
    assert part.describe(part.network(0))["fraction"] == 0.5
    with pytest.raises(ValueError, match=r"The train text is too short\. Each column .* at least two tokens, got"):
        replace(task, fraction=0.002).steps(0, 0)
