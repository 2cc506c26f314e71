"""The driver: carries out the actions of `decide`, and appends the results to the ledger.

A result that is in the ledger is not computed again. So a search that was killed continues when it is called again, and
gives the same result as without the interruption. All criteria share their networks: a network that several criteria
keep is trained once.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hyperpruning.faults import fault
from hyperpruning.files import write_atomic
from hyperpruning.search.actions import Abort, Action, Finish, Record, Suggest, Train
from hyperpruning.search.asha import is_asynchronous
from hyperpruning.search.configured import constrained
from hyperpruning.search.deadline import deadline_in
from hyperpruning.search.executors import workers_of
from hyperpruning.search.history import (
    DENSE,
    SMALL,
    Candidate,
    Epoch,
    Fact,
    Failure,
    Header,
    History,
    RoundDecision,
    SpaceExhausted,
    Winner,
    candidate_and_seed,
)
from hyperpruning.search.ledger import LEDGER, Ledger, RunFolderError, compare, locked, read
from hyperpruning.search.plan import Plan, batches
from hyperpruning.search.references import baseline_loss
from hyperpruning.search.samplers import Observation, sampler_of, suggest
from hyperpruning.search.schedulers import decide, observations, pruned_weights, survivors
from hyperpruning.search.shared_folder import token_in
from hyperpruning.search.space import Config
from hyperpruning.search.validation import validate
from hyperpruning.search.worker import NO_MEMORY, OUT_OF_MEMORY, Job, JobResult, job_for, run_job, small_job
from hyperpruning.search.worker_pool import WorkerPool
from hyperpruning.training.checkpoint import remove_tensors
from hyperpruning.training.checks import check_travels
from hyperpruning.training.device import device_of
from hyperpruning.training.record import EpochRecord

logger = logging.getLogger(__name__)
KILLED = (
    "Its worker process was killed twice, possibly because memory was full. Start a new run with fewer --workers or a "
    "smaller network."
)
SEEDS_APART = 7919  # between the seeds of a finalist's trainings: searches with the seeds 0, 1, 2, ... share none


def search(
    plan: Plan,
    folder: Path,
    *,
    executor: Executor | None = None,
    on_fact: Callable[[Fact], None] | None = None,
    files: Mapping[str, bytes] | None = None,
    lock: bool = True,
) -> History:
    """Run a search, or continue it.

    Args:
        plan: the search.
        folder: the run folder; an interrupted search in it continues.
        executor: trains the candidates; None trains them in this process, one after the other, and writes each epoch to
            the ledger as soon as it is trained.
        on_fact: called with each new fact after it is written to the ledger.
        files: contents by file name, written into the run folder after the plan is validated and before training.
        lock: lock the folder against other drivers (needs the package filelock).

    Returns:
        the content of the ledger at the end; if the plan's max_hours ended the search before, `decide` has further
        actions for it, and the same call continues it.

    Raises:
        ValueError: the plan is invalid, or too many networks failed.
        RunFolderError: the folder belongs to another search, or is in use.
    """
    validate(plan)
    if isinstance(
        executor, ProcessPoolExecutor | WorkerPool
    ):  # others may have ways of their own to send what pickle cannot
        for task in (plan.task, plan.dense_task):
            check_travels(task)
    with locked(folder) if lock else nullcontext():
        run = _Run(plan, folder, executor, on_fact)
        run.open(files or {})
        with token_in(folder) if executor is not None else nullcontext() as run.token:
            if not run.until_finished():
                return run.history
        run.remove_eliminated_tensors()
    return run.history


def check_run_folder(plan: Plan, folder: Path) -> None:
    """Check that a run folder is new or belongs to this search.

    Raises:
        RunFolderError: it belongs to another search; the message lists the differences.
    """
    header = read(folder).header if (folder / LEDGER).exists() else None
    if header is not None and (differences := compare(header.identity, _to_json_types(plan.identity()))):
        raise RunFolderError(
            f"A run folder must belong to one search, got {folder} of another one ({'; '.join(differences)}). "
            "Give another --out, or restore the settings."
        )


class _Run:
    """A running search: the plan, the ledger and its content."""

    def __init__(
        self, plan: Plan, folder: Path, executor: Executor | None, on_fact: Callable[[Fact], None] | None
    ) -> None:
        check_run_folder(plan, folder)
        self.plan, self.folder, self.executor, self.on_fact = plan, folder, executor, on_fact
        self.token: str | None = None
        self.ledger = Ledger(folder)
        self.history = read(folder, warn=True) if self.ledger.path.exists() else History()
        self.deadline = deadline_in(plan.max_hours)
        self.time_is_up = self.deadline.clock()
        self.paused = False

    def open(self, files: Mapping[str, bytes]) -> None:
        """Write the files and the header; if there is a header already, compare the versions."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomic(self.folder / name, content)
        header = Header(_to_json_types(self.plan.identity()), _versions(self.plan), self.plan.metric)
        if self.history.header is None:
            assert self.plan.dense_task is not None
            header = replace(header, baseline_loss=baseline_loss(self.plan.dense_task))
            if self.ledger.path.exists():  # its lines could be from another search; checkpoints have an identity
                logger.warning(
                    "The first line of %s is missing. The search continues from the checkpoints.", self.ledger.path
                )
                self.ledger.path.replace(self.ledger.path.with_suffix(".damaged"))
                self.history = History()
            self.record(header)
        elif differences := compare(self.history.header.versions, header.versions):
            logger.warning(
                "The search was started with other versions or on another device, so that results may differ: %s.",
                "; ".join(differences),
            )

    def until_finished(self) -> bool:
        """Carry out what `decide` says until it says nothing more; False if the time is up before."""
        if self.executor is not None and is_asynchronous(self.plan, self.history):
            self.asynchronously(self.executor)
        before: list[Action] = []
        while actions := decide(self.plan, self.history):
            if self.paused or self.time_is_up():
                logger.warning("The %g hours of max_hours are over. The search can be continued.", self.plan.max_hours)
                return False
            if actions == before:
                raise RuntimeError(f"The executor must return what it trained, got nothing new for {actions[0]}.")
            fault("driver.decide")
            self.carry_out(actions)
            before = actions
        return True

    def asynchronously(self, executor: Executor) -> None:
        """Give each free worker what `decide` says, until all promotions are made or the time is up."""
        running: dict[Future[JobResult], Job] = {}
        try:
            while is_asynchronous(self.plan, self.history):
                while len(running) < workers_of(executor) and not (self.paused or self.time_is_up()):
                    actions = decide(self.plan, self.history, [job.name for job in running.values()])
                    fault("driver.decide")
                    if not isinstance(next(iter(actions), None), Train):
                        self.carry_out(actions)
                    for action in actions:
                        if isinstance(action, Train):
                            job = self.job_of(action)
                            running[executor.submit(run_job, job)] = job
                    if not actions or not is_asynchronous(self.plan, self.history):
                        break
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda future: running[future].name):
                    job = running.pop(future)
                    result = self.result_of(job, future)
                    self.record_result(job.name, result)
                    if not (result.paused or result.failure or self.history.trained(job.name) >= job.until):
                        raise RuntimeError(f"The executor must return what it trained, got nothing new for {job.name}.")
        except BaseException:
            for future in running:
                future.cancel()
            raise

    def job_of(self, action: Train) -> Job:
        """The job of a training, for an executor if there is one."""
        job = job_of(self.plan, self.folder, self.history, action.network, action.until)
        job = replace(job, deadline=self.deadline.again())
        return job if self.executor is None else replace(job, folder=job.folder.resolve(), token=self.token)

    def record(self, fact: Fact) -> None:
        """Append a fact to the ledger and to the history."""
        self.ledger.append(fact)
        self.history.add(fact)
        if self.on_fact is not None:
            self.on_fact(fact)

    def carry_out(self, actions: Sequence[Action]) -> None:
        """Carry out actions of `decide`; facts are recorded in the order of the actions."""
        for action in actions:
            match action:
                case Abort(reason):
                    raise ValueError(reason)
                case Suggest():
                    self.suggest(action)
                case Record(fact):
                    self.record(fact)
                case Finish(winners):
                    for criterion, network in winners.items():
                        if criterion not in self.history.winners:
                            self.record(Winner(criterion, network))
        if trainings := [action for action in actions if isinstance(action, Train)]:
            self.train(trainings)
        if any(isinstance(action, Record) and isinstance(action.fact, RoundDecision) for action in actions):
            self.remove_eliminated_tensors()

    def suggest(self, action: Suggest) -> None:
        """Ask the sampler for a batch, and record the candidates that are missing."""
        names = list(batches(self.plan))[action.batch]
        configs = ask(self.plan, action.batch, observations(self.plan, self.history, action.batch))
        for name, config in zip(names, configs, strict=False):
            if name in action.names:
                self.record(Candidate(name, action.batch, config))
        if len(configs) < len(names):
            self.record(SpaceExhausted(len(self.history.candidates)))

    def train(self, actions: Sequence[Train]) -> None:
        """Train networks, all at the same time with an executor, else one after the other.

        After one that the deadline has stopped, no further result is recorded: it would be in another order than in a
        search without a pause. The checkpoints have it.
        """
        jobs = [self.job_of(action) for action in actions]
        if self.executor is None:
            for job in jobs:
                if not self.paused:
                    self.record_result(job.name, run_job(job, on_epoch=partial(self.record_epoch, job.name)))
            return
        futures = [self.executor.submit(run_job, job) for job in jobs]
        try:
            for job, future in zip(jobs, futures, strict=True):
                result = self.result_of(job, future)
                if not self.paused:
                    self.record_result(job.name, result)
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    def result_of(self, job: Job, future: Future[JobResult]) -> JobResult:
        """The result of a job; if its process died, it is tried once more, and then this network has failed.

        Raises:
            BrokenExecutor: the executor is not usable any more.
        """
        assert self.executor is not None
        try:
            return future.result()
        except BrokenExecutor:
            again = self.executor.submit(run_job, job)  # raises if no process is left
        logger.warning("The process that trained %s was killed. It is started once more.", job.name)
        try:
            return again.result()
        except BrokenExecutor:
            return JobResult((), failure=KILLED)

    def record_epoch(self, name: str, record: EpochRecord) -> None:
        """Record an epoch if it is new."""
        if record.epoch not in self.history.epochs.get(name, {}):
            self.record(Epoch(name, record))

    def record_result(self, name: str, result: JobResult) -> None:
        """Record those results of a job that are new."""
        self.paused = self.paused or result.paused
        for record in result.records:
            self.record_epoch(name, record)
        if result.final is not None and name not in self.history.finals:
            self.record(result.final)
        if name == DENSE and result.failure in (OUT_OF_MEMORY, NO_MEMORY, KILLED):  # with fewer networks it may fit
            raise ValueError(
                f"The dense reference must train without failure, got: {result.failure.split('.')[0]}. Resume with "
                "fewer --workers, or start a new run with a smaller batch or bptt in [training]."
            )
        if result.failure is not None:
            self.record(Failure(name, result.failure))
            if name == DENSE:
                self.carry_out(decide(self.plan, self.history))  # aborts: candidates need the dense reference

    def remove_eliminated_tensors(self) -> None:
        """Remove the tensors in the checkpoints of eliminated candidates."""
        kept = {name for names in survivors(self.plan, self.history).values() for name in names}
        if not self.plan.train_all:
            for name in self.history.candidates.keys() - kept:
                remove_tensors(self.folder / "networks" / name)


def job_of(plan: Plan, folder: Path, history: History, network: str, until: int) -> Job:
    """The job of training a network up to an epoch.

    Args:
        plan: the search.
        folder: the run folder.
        history: the results so far, on which the size of the dense network with as many weights depends.
        network: its name.
        until: the epoch.
    """
    if network == SMALL:
        return small_job(plan, folder, pruned_weights(plan, history))
    name, seed = candidate_and_seed(network)
    job = job_for(plan, folder, history.candidates.get(name), until)
    if seed == 1:
        return job
    train = replace(job.train, seed=(job.train.seed + SEEDS_APART * (seed - 1)) % 2**32)
    return replace(job, name=network, train=train, folder=job.folder.parent / network)


def ask(plan: Plan, batch: int, observed: Sequence[Observation] = ()) -> list[Config]:
    """The configs that the sampler suggests for a batch; equal observations give equal configs.

    Args:
        plan: the search.
        batch: number of the batch, from 0.
        observed: see `observations`.
    """
    return suggest(
        constrained(plan),
        observed,
        sampler=sampler_of(plan.sampler),
        seed=(plan.train.seed * 1_000_003 + batch) % 2**32,  # the samplers' limit
        count=len(list(batches(plan))[batch]),
        n_objectives=len(plan.objectives),
    )


def _to_json_types(settings: dict[str, Any]) -> dict[str, Any]:
    """Convert settings to JSON types (tuples become lists); a path raises an error."""
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _versions(plan: Plan) -> dict[str, str]:
    """The versions and the device type, on which results may depend besides the plan."""
    packages = {name: _version(name) for name in ("hyperpruning", "torch", "numpy", "optuna")}
    return packages | {"python": platform.python_version(), "device": device_of(plan.train.device).type}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # imported from a source tree that is not installed
        return "source tree"
