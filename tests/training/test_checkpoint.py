"""Checkpoints: what is damaged is noticed and passed over."""

import hashlib
import io
import json
import logging
import pickle

import pytest
import torch

from hyperpruning.files import json_check
from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.training.checkpoint import load, newest_records, remove_tensors, save
from hyperpruning.training.epochs import epochs
from hyperpruning.training.state import Training
from small import small


@pytest.fixture
def begin(text):
    plan = small(text).plan()
    return lambda: Training(plan.task, plan.train, METHODS["set"], sparsity=0.6)


@pytest.fixture
def saved(begin, tmp_path):
    training, records = begin(), []
    for record in epochs(training, 3):
        records.append(record)
        save(training, tmp_path / "net", "me", records)
    return tmp_path / "net"


def test_two_generations_are_kept(saved):
    assert sorted(path.name for path in saved.iterdir()) == [
        "epoch-0002.json",
        "epoch-0002.pt",
        "epoch-0003.json",
        "epoch-0003.pt",
    ]


@pytest.mark.parametrize("ends", ["saved", "released"])
def test_what_a_killed_writer_left_is_removed(saved, begin, ends):
    for name in (".epoch-0003.pt.77", ".epoch-0004.pt.78", ".epoch-0004.json.78"):
        (saved / name).write_bytes(b"torn")
    if ends == "saved":
        training = begin()
        records = load(training, saved, "me")
        save(training, saved, "me", records)
    else:
        remove_tensors(saved)
    assert not list(saved.glob(".*"))


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("suffix", [".pt", ".json"])
@pytest.mark.parametrize(
    "damage",
    [
        *(lambda path, place=place: flip(path, place) for place in (0.05, 0.3, 0.5, 0.7, 0.95)),
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
)
def test_a_damaged_checkpoint_falls_back_one_generation(saved, begin, damage, suffix, caplog):
    damage(saved / f"epoch-0003{suffix}")
    training = begin()
    with caplog.at_level(logging.WARNING):
        records = load(training, saved, "me")
    assert training.epoch == 2
    assert [record.epoch for record in records] == [0, 1, 2]
    if (saved / "epoch-0003.json").exists():
        assert "the previous one is used" in caplog.text


def test_when_both_are_damaged_training_begins_anew(saved, begin):
    for path in saved.glob("*.pt"):
        path.write_bytes(b"no")
    training = begin()
    assert load(training, saved, "me") == ()
    assert training.epoch == -1


def test_a_checkpoint_of_another_network_is_refused(saved, begin, caplog):
    training = begin()
    assert load(training, saved, "you") == ()
    assert "belongs to another network" in caplog.text


def forge(saved, content):
    """Replace the newest checkpoint's tensors; all hashes are right."""
    (saved / "epoch-0003.pt").write_bytes(content)
    sidecar = json.loads((saved / "epoch-0003.json").read_text())
    sidecar |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    sidecar.pop("check")
    (saved / "epoch-0003.json").write_text(json.dumps(sidecar | {"check": json_check(sidecar)}))


@pytest.mark.parametrize("state", [torch.zeros(3), [], None, {"x": 1}, {"best": None}, {"best": {"x": 1}}])
def test_a_checkpoint_of_something_else_falls_back_one_generation(saved, begin, state, caplog):
    file = io.BytesIO()
    torch.save(state, file)
    forge(saved, file.getvalue())
    training = begin()
    assert len(load(training, saved, "me")) == 3
    assert "is skipped (its best weights are no tensors); the previous one is used." in caplog.text


def test_a_pickle_with_code_is_not_executed(saved, begin, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "boom"), "w"))

    forge(saved, pickle.dumps(Bomb(), protocol=2))
    training = begin()
    load(training, saved, "me")
    assert training.epoch == 2
    assert not (tmp_path / "boom").exists()


def test_records_stay_readable_when_the_tensors_are_released(saved):
    remove_tensors(saved)
    assert not list(saved.glob("*.pt"))
    assert [record.epoch for record in newest_records(saved)] == [0, 1, 2, 3]


def test_the_records_of_another_network_are_not_read(saved):
    assert newest_records(saved.rename(saved.with_name("other"))) == ()


def test_a_full_disk_leaves_the_last_checkpoint_and_no_temporary_file(saved, begin, monkeypatch):
    training = begin()
    records = list(load(training, saved, "me"))
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    records += epochs(training, 4)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(training, saved, "me", records)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
