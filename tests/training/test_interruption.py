"""Checkpoints within an epoch: an interrupted training is bit for bit the one that was not interrupted."""

import os
import signal
import threading

import pytest
import torch

import hyperpruning.training.progress as progress_module
from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.tasks.classification import SequenceClassification
from hyperpruning.testing.comparison import bits
from hyperpruning.testing.tiny_task import TinyTask
from hyperpruning.training.checkpoint import load, save
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.epochs import epochs
from hyperpruning.training.progress import TimeIsUp, Watch
from hyperpruning.training.state import Training
from small import small


class Stop(Exception):
    pass


def language(text, **training):
    """With dropout, a carry, the moving average, and averaging from epoch 2 on."""
    settings = {"epochs": 3, "average_from": 0.5, **training}
    return small(text, model={"hidden": 8, "embedding": 8, "dropout": 0.4}, training=settings).plan()


def classification():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 12, 2, generator=draw), torch.arange(60) % 3
    task = SequenceClassification(data=(x, y), hidden=6, batch=10)
    return task, TrainConfig(epochs=3, updates_per_epoch=2)


def beginning(kind, text, method="rigl"):
    """A function that begins a training."""
    if kind == "classification":
        task, config = classification()
    elif kind == "tiny":
        task, config = TinyTask(), TrainConfig(epochs=3, updates_per_epoch=1)
    else:
        more = {"accumulated": {"gradient_accumulation": 2}, "finetuned": {"finetune_from": 0.6, "average_from": 1.0}}
        plan = language(text, **more.get(kind, {}))
        task, config = plan.task, plan.train
    return lambda: Training(task, config, METHODS[method] if method else None, sparsity=0.5)


def without_time(records):
    return [record.to_json() | {"seconds": None} for record in records]


def interrupted(begin, folder, steps):
    """Train in pieces of so many steps, each begun from the checkpoint of the one before; return it and its records."""
    while True:
        training, count = begin(), 0
        records = list(load(training, folder, "me"))

        def save_step(training=training, records=records):
            nonlocal count
            count += 1
            if count == steps:
                save(training, folder, "me", records)
                raise Stop

        watch = Watch(save_step, minutes=0)
        try:
            for record in epochs(training, watch=watch):
                records.append(record)
                save(training, folder, "me", records)
        except Stop:
            continue
        return training, records


@pytest.mark.parametrize(
    ("kind", "method", "steps"),
    [
        ("language", "rigl", 7),
        ("language", "iss-p", 11),
        ("accumulated", "snfs", 7),
        ("finetuned", "set", 11),
        ("classification", "rigl", 2),
        ("tiny", "gmp", 1),
    ],
)
def test_an_interrupted_epoch_goes_on_bit_for_bit(text, tmp_path, kind, method, steps):
    begin = beginning(kind, text, method)
    whole = begin()
    expected = list(epochs(whole))
    training, records = interrupted(begin, tmp_path / "net", steps)
    assert bits(training.state_dict()) == bits(whole.state_dict())
    assert without_time(records) == without_time(expected)
    assert not list((tmp_path / "net").glob("*-step-*.pt")) or len(list((tmp_path / "net").iterdir())) == 4


def test_it_saves_every_so_many_minutes_and_keeps_the_last_two(text, tmp_path, monkeypatch):
    clock, saved = [0.0], []
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    training = beginning("language", text)()

    def save_step():
        saved.append(training.progress.step)
        save(training, tmp_path / "net", "me", [])

    watch = Watch(save_step, minutes=5.0, time_is_up=lambda: clock.__setitem__(0, clock[0] + 61))
    list(epochs(training, 1, watch=watch))
    assert saved[:2] == [5, 10]
    assert sorted(path.name for path in (tmp_path / "net").glob("*.pt"))[-1].endswith(f"step-{saved[-1]:08d}.pt")
    assert len(list((tmp_path / "net").iterdir())) == 4


def test_when_the_time_is_up_it_ends_after_the_running_step(text):
    training, saved, left = beginning("language", text)(), [], iter([False] * 6 + [True])
    watch = Watch(lambda: saved.append(training.progress.step), time_is_up=lambda: next(left))
    with pytest.raises(TimeIsUp):
        list(epochs(training, watch=watch))
    assert saved == [5]  # the time is also looked at before each of the first two epochs' first steps, epoch 0 included


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_takes_effect_after_the_step_and_its_checkpoint(text, number):
    """The signal comes in the middle of the third step, while the loss is computed."""
    training, saved = beginning("language", text)(), []
    loss = type(training.task).loss

    def hit(task, *words):
        if training.progress is not None and training.progress.step == 2:
            os.kill(os.getpid(), number)
        return loss(task, *words)

    def handler(number, frame):
        raise KeyboardInterrupt

    before = {each: signal.signal(each, handler) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(training.task), "loss", hit)
            with pytest.raises(KeyboardInterrupt):
                list(epochs(training, watch=Watch(lambda: saved.append(training.progress.step))))
        assert signal.getsignal(number) is handler
    finally:
        for each, old in before.items():
            signal.signal(each, old)
    assert saved == [3]


def test_a_second_signal_is_not_waited_with(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    watch = Watch(lambda: None)
    before = signal.signal(signal.SIGTERM, lambda *words: (_ for _ in ()).throw(Stop))
    try:
        with watch.steps():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            clock[0] = 1.0
            with pytest.raises(Stop):
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_no_handler_is_changed(text):
    found = []

    def train():
        list(epochs(beginning("tiny", text)(), 1, watch=Watch(lambda: None)))
        found.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [before]


def test_a_carry_that_cannot_be_saved_costs_the_epoch_only(text, caplog):
    training, tried = beginning("language", text)(), []

    def save_step():
        tried.append(1)
        training.progress.carries[0] = object()
        training.state_dict()

    watch = Watch(save_step, minutes=0.0)
    with pytest.MonkeyPatch.context() as patch:
        loss = type(training.task).loss
        patch.setattr(type(training.task), "loss", lambda task, network, batch, carry: loss(task, network, batch, None))
        list(epochs(training, 1, watch=watch))
    assert tried == [1]
    assert "An interrupted epoch begins anew: What loss carries must be tensors" in caplog.text
