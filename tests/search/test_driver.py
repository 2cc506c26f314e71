"""The search itself, on tabulated curves (no training) and on small networks."""

import math
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace

import pytest
import torch

from hyperpruning.report.page import write_report
from hyperpruning.search.driver import search
from hyperpruning.search.executors import process_pool
from hyperpruning.search.history import DENSE, SMALL, Candidate, Epoch, FinalResult
from hyperpruning.search.ledger import LEDGER, RunFolderError, read
from hyperpruning.search.plan import Plan
from hyperpruning.search.validation import validate
from hyperpruning.search.worker import OUT_OF_MEMORY, JobResult, job_for, run_job
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.tasks.language_modelling import LanguageModelling
from hyperpruning.training.record import EpochRecord
from small import small


class Curves(Executor):
    """Answers every job from a formula: the loss of a network falls to its own end, its exponents tell that end."""

    def __init__(self, ends=None, diverging=None):
        self.ends, self.diverging, self.trained = ends or {}, diverging or {}, {}

    def submit(self, fn, job):
        future = Future()
        future.set_result(self.answer(job))
        return future

    def answer(self, job):
        end = self.ends.get(job.name, 2.0 if job.name in (DENSE, SMALL) else 3.0 + int(job.name[1:]) / 10)
        if self.diverging.get(job.name, 99) <= job.until:
            records = tuple(self.record(epoch, end) for epoch in range(self.diverging[job.name]))
            return JobResult(records, failure="the loss was nan")
        self.trained[job.name] = max(self.trained.get(job.name, 0), job.until)
        final = None
        if job.until == job.train.epochs:
            final = FinalResult(job.name, job.until, end, end, 4, job.name)
        return JobResult(tuple(self.record(epoch, end) for epoch in range(job.until + 1)), final)

    def record(self, epoch, end):
        spectrum = (-end, None) if end > 3.35 else (-end, -2.0)
        loss = end + 5 - epoch
        return EpochRecord(epoch, None, loss, 4, {}, 0.0, spectrum=spectrum, averaged_loss=loss)


@pytest.fixture
def plan(text) -> Plan:
    return small(text).plan()


def test_the_better_half_goes_on_and_the_best_finalist_wins(plan, tmp_path):
    curves = Curves()
    history = search(plan, tmp_path / "run", executor=curves)
    assert list(history.candidates) == ["c01", "c02", "c03", "c04", "c05"]
    assert history.rounds["loss", 0].kept == ("c01", "c02", "c03")
    assert history.rounds["loss", 1].kept == ("c01", "c02")
    assert history.winners == {"ls": "c01", "loss": "c01", "averaged_loss": "c01"}
    assert curves.trained == {"dense": 4, "c01": 4, "c02": 4, "c03": 2, "c04": 1, "c05": 1}


def test_an_executor_that_returns_nothing_is_noticed(plan, tmp_path):
    class Idle(Curves):
        def answer(self, job):
            return JobResult(())

    with pytest.raises(RuntimeError, match="must return what it trained, got nothing new for Train"):
        search(plan, tmp_path / "run", executor=Idle())


def test_with_one_worker_each_epoch_is_recorded_as_soon_as_it_is_trained(plan, tmp_path, monkeypatch):
    seen, trained = [], []

    def slow_run_job(job, *, on_epoch):
        def told(record):
            if (job.name, record.epoch) not in trained:  # else it is read from the checkpoint
                trained.append((job.name, record.epoch))
            on_epoch(record)

        return run_job(job, on_epoch=told)

    def on_fact(fact):
        if isinstance(fact, Epoch):
            seen.append((fact.network, fact.record.epoch))
            assert seen == trained  # no epoch is trained before the one before it is in the ledger
            assert read(tmp_path / "run").epochs[fact.network][fact.record.epoch] == replace(fact.record, seconds=0.0)

    monkeypatch.setattr("hyperpruning.search.driver.run_job", slow_run_job)
    search(plan, tmp_path / "run", on_fact=on_fact)
    assert len(seen) > 20


def test_criteria_that_disagree_share_what_they_train(plan, tmp_path):
    curves = Curves({"dense": 9.0})  # the spectra of bad networks are now nearer to the dense one
    history = search(plan, tmp_path / "run", executor=curves)
    assert history.rounds["ls", 1].kept != history.rounds["loss", 1].kept
    finalists = {name for key, fact in history.rounds.items() if key[1] == 1 for name in fact.kept}
    assert {name for name, epochs in curves.trained.items() if epochs == 4} == {"dense", *finalists}


def test_a_candidate_that_diverges_is_left_behind(plan, tmp_path):
    history = search(plan, tmp_path / "run", executor=Curves(diverging={"c01": 1}))
    assert history.failures == {"c01": "the loss was nan"}
    assert history.winners["loss"] == "c02"


def test_a_candidate_that_diverges_late_changes_no_earlier_decision(plan, tmp_path):
    history = search(plan, tmp_path / "run", executor=Curves(diverging={"c01": 3}))
    assert history.rounds["loss", 0].kept == ("c01", "c02", "c03")
    assert history.winners["loss"] == "c02"
    again = search(plan, tmp_path / "run", executor=Curves(diverging={"c01": 3}))
    assert again.rounds == history.rounds
    assert again.winners == history.winners


def test_all_candidates_diverging_is_an_error_with_the_reason(plan, tmp_path):
    with pytest.raises(ValueError, match="of all that criterion 'ls' kept: the loss was nan"):
        search(plan, tmp_path / "run", executor=Curves(diverging={f"c0{index}": 1 for index in range(1, 6)}))


def test_a_dense_network_that_diverges_is_an_error(plan, tmp_path):
    with pytest.raises(ValueError, match="The dense reference must train without failure"):
        search(plan, tmp_path / "run", executor=Curves(diverging={"dense": 1}))


def test_a_search_with_train_all_trains_everybody_to_the_end(text, tmp_path):
    plan = small(
        text, search={"n_candidates": 5, "ask_batch": 3, "rungs": (1, 2), "keep": (3, 2), "train_all": True}
    ).plan()
    history = search(plan, tmp_path / "run", executor=Curves())
    assert set(history.finals) == {"dense", *history.candidates}


@pytest.fixture
def validated(monkeypatch):
    """The plan of this test is valid: it is not validated again for each of many searches."""
    monkeypatch.setattr("hyperpruning.search.driver.validate", lambda plan: None)


class Crash(Exception):
    """A driver that dies."""


@pytest.mark.parametrize("diverging", [{}, {"c01": 3}, {"c02": 1, "c03": 2}])
@pytest.mark.usefixtures("validated")
def test_a_search_that_dies_after_any_line_ends_as_if_it_had_not(plan, tmp_path, diverging):
    search(plan, tmp_path / "whole", executor=Curves(diverging=diverging))
    whole = (tmp_path / "whole" / LEDGER).read_bytes()
    for line in range(1, whole.count(b"\n")):
        folder, said = tmp_path / f"dies-{line}", []

        def die(fact, said=said, line=line):
            said.append(fact)
            if len(said) == line:
                raise Crash

        with pytest.raises(Crash):
            search(plan, folder, executor=Curves(diverging=diverging), on_fact=die)
        search(plan, folder, executor=Curves(diverging=diverging))
        assert (folder / LEDGER).read_bytes() == whole


@pytest.mark.usefixtures("validated")
def test_a_ledger_torn_anywhere_ends_as_if_it_had_not(plan, tmp_path):
    folder = tmp_path / "run"
    search(plan, folder, executor=Curves())
    whole = (folder / LEDGER).read_bytes()
    for length in range(0, len(whole), 397):
        (folder / LEDGER).write_bytes(whole[:length])
        search(plan, folder, executor=Curves())
        assert (folder / LEDGER).read_bytes() == whole


@pytest.mark.usefixtures("validated")
def test_a_damaged_line_anywhere_changes_no_decision(plan, tmp_path):
    folder = tmp_path / "run"
    expected = search(plan, folder, executor=Curves())
    lines = (folder / LEDGER).read_bytes().splitlines(keepends=True)
    for number in range(len(lines)):
        damaged = [b"{}\n" if index == number else line for index, line in enumerate(lines)]
        (folder / LEDGER).write_bytes(b"".join(damaged))
        history = search(plan, folder, executor=Curves())
        assert (history.winners, history.rounds, history.candidates, history.epochs) == (
            expected.winners,
            expected.rounds,
            expected.candidates,
            expected.epochs,
        )


def test_a_folder_of_another_search_is_refused_with_the_difference(plan, text, tmp_path):
    folder = tmp_path / "run"
    search(plan, folder, executor=Curves())
    before = (folder / LEDGER).read_bytes()
    other = small(text, pruning={"sparsity": 0.7, "updates_per_epoch": 3}).plan()
    with pytest.raises(RunFolderError, match=r"sparsity is 0\.6 in the ledger and 0\.7 now"):
        search(other, folder, executor=Curves())
    assert (folder / LEDGER).read_bytes() == before


def test_other_versions_are_warned_of(plan, tmp_path, caplog, monkeypatch):
    folder = tmp_path / "run"
    search(plan, folder, executor=Curves())
    monkeypatch.setattr("hyperpruning.search.driver.version", lambda name: "9.9")
    search(plan, folder, executor=Curves())
    assert "torch is" in caplog.text


def test_a_sparsity_that_a_layer_cannot_hold_is_refused_before_training(text, tmp_path):
    plan = small(text, pruning={"sparsity": 0.999}).plan()
    with pytest.raises(ValueError, match="leave every tensor at least one active weight"):
        search(plan, tmp_path / "run", executor=Curves())


@pytest.mark.parametrize(
    ("model", "space", "says"),
    [
        ({}, {"granularity": ("column",)}, "have the same cost"),
        (
            {"cell": "rhn"},
            {"mask_init": ("jacobian",)},
            "nn.RNN when mask_init is .jacobian., got a Stack",
        ),
        ({"dropout": {"weight": 0.1}}, {"mask_init": ("jacobian",)}, "got a Stack"),
        (
            {},
            {"mask_init": ("jacobian",), "mask_init_scope": ("tensor", "global")},
            "must prune recurrent weights only",
        ),
        (
            {"cell": "rnn"},
            {"drop_scope": ("tensor", "gate")},
            "when weights are ranked or counted by gate, got none.* or use another scope",
        ),
        (
            {"cell": "rnn"},
            {"grow_scope": ("gate_equal",)},
            "when weights are ranked or counted by gate, got none",
        ),
        ({}, {"redistribute": ("momentum",)}, "the optimizer of the training keeps no momentum, got 'random'"),
        ({}, {"grow": ("none",)}, "n_candidates = 5 valid methods, got 0 .first invalid one: "),
    ],
)
def test_what_no_training_could_be_built_of_is_refused_before_training(text, model, space, says):
    plan = small(text, model={"hidden": 8, "embedding": 8} | model, space=space).plan()
    with pytest.raises(ValueError, match=says):
        validate(plan)


def test_a_candidate_that_cannot_be_built_fails_alone(plan, tmp_path, monkeypatch):
    def built(network, optimizer, method, **options):
        if method == history.candidates["c02"].method:
            raise ValueError("it does not fit")
        return Sparsifier(network, optimizer, method, **options)

    history = search(plan, tmp_path / "fits", executor=Curves())
    monkeypatch.setattr("hyperpruning.training.pruning.Sparsifier", built)
    found = search(plan, tmp_path / "run")
    assert found.failures == {"c02": "it does not fit"}
    assert found.winners["ls"] in found.finals
    write_report(tmp_path / "run")


def test_a_pool_larger_than_the_space_is_refused(text, tmp_path):
    space = {"drop_scope": ("tensor",), "grow": ("random",), "redistribute": ("none",), "allocation": ("er",)}
    plan = small(text, space=space | {"drop_fraction": {"low": 0.3, "high": 0.5, "step": 0.1}}).plan()
    with pytest.raises(ValueError, match="n_candidates = 5 valid methods, got 3"):
        search(plan, tmp_path / "run", executor=Curves())


def test_one_and_two_workers_decide_alike_to_the_byte(plan, tmp_path):
    one = search(plan, tmp_path / "one")
    with process_pool(2) as pool:
        two = search(plan, tmp_path / "two", executor=pool)
    assert (tmp_path / "one" / LEDGER).read_bytes() == (tmp_path / "two" / LEDGER).read_bytes()
    assert one.winners == two.winners
    assert all(record.active == two.finals["c01"].active for record in two.at(1).values() if "c01" in two.finals)
    assert all(math.isfinite(record.valid_loss) for record in one.at(1).values())


def test_eliminated_networks_release_their_tensors_and_keep_their_records(plan, tmp_path):
    search(plan, tmp_path / "run")
    history = read(tmp_path / "run")
    for name in history.candidates:
        folder = tmp_path / "run" / "networks" / name
        assert bool(list(folder.glob("*.pt"))) == (name in history.finals)
        assert list(folder.glob("*.json"))


def test_a_search_without_its_first_line_goes_back_to_the_checkpoints(text, tmp_path):
    folder, other = tmp_path / "run", tmp_path / "other"
    sparser = small(text, pruning={"sparsity": 0.7, "updates_per_epoch": 3}).plan()
    search(small(text).plan(), folder)
    search(sparser, other)
    (folder / LEDGER).write_bytes(b"{}\n" + b"".join((folder / LEDGER).read_bytes().splitlines(keepends=True)[1:]))
    search(sparser, folder)  # nothing of the first search is taken for this one's
    assert (folder / LEDGER).read_bytes() == (other / LEDGER).read_bytes()


def test_a_dense_network_that_diverged_is_said_again_on_resume(plan, tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="The dense reference must train without failure"):
            search(plan, tmp_path / "run", executor=Curves(diverging={"dense": 1}))


def test_texts_that_are_too_short_are_refused_before_training(text, tmp_path):
    for split, says in (
        ("valid", r"\[data\] eval_batch"),
        ("test", r"\[data\] test_batch"),
        ("train", r"\[training\] b"),
    ):
        before = (text / f"{split}.txt").read_text()
        (text / f"{split}.txt").write_text("a")
        with pytest.raises(ValueError, match=rf"The {split} text is too short.*{says}"):
            search(small(text).plan(), tmp_path / "run", executor=Curves())
        (text / f"{split}.txt").write_text(before)
    with pytest.raises(ValueError, match="The validation text must have at least probe_steps x probe_batch"):
        search(small(text, spectrum={"probe_steps": 5000}).plan(), tmp_path / "run", executor=Curves())
    assert not (tmp_path / "run").exists()


def test_any_seed_will_do(text, tmp_path):
    plan = small(text, training={"epochs": 4, "seed": 2**32 - 1}).plan()
    assert search(plan, tmp_path / "run", executor=Curves()).winners


@dataclass(frozen=True)
class Greedy(LanguageModelling):
    """Needs more memory than there is."""

    when: str = "train"
    says: str = ""

    def loss(self, network, batch, carry):
        if network.training == (self.when == "train"):
            raise RuntimeError(self.says) if self.says else torch.OutOfMemoryError
        return super().loss(network, batch, carry)


@pytest.mark.parametrize(
    ("when", "epochs", "says"),
    [
        ("train", 1, ""),
        ("evaluate", 0, ""),
        ("train", 1, "CUDA error: out of memory"),
        ("evaluate", 0, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        ("train", 1, "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_a_network_that_does_not_fit_into_a_gpu_fails_alone(plan, tmp_path, when, epochs, says):
    greedy = replace(plan, task=Greedy(**vars(plan.task), when=when, says=says))
    assert run_job(job_for(greedy, tmp_path, None, 2)).failure is None
    one = Candidate("c01", 0, {"drop_fraction": 0.5})
    candidate = run_job(job_for(greedy, tmp_path, one, 2))
    assert "CUDA out of memory. Start a new run with fewer --workers" in candidate.failure
    assert len(candidate.records) == epochs


def test_a_dense_network_that_does_not_fit_is_trained_when_the_search_goes_on(plan, tmp_path):
    class Full(Curves):
        def answer(self, job):
            return JobResult((), failure=OUT_OF_MEMORY) if job.name == DENSE else super().answer(job)

    with pytest.raises(ValueError, match=r"got: CUDA out of memory\. Resume with fewer --workers"):
        search(plan, tmp_path / "run", executor=Full())
    assert not read(tmp_path / "run").failures
    assert search(plan, tmp_path / "run", executor=Curves()).winners
