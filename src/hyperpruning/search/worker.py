"""The worker: it trains one network up to an epoch, from its checkpoint or from the beginning."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperpruning.files import weights_sha256
from hyperpruning.kernels import float32_precision, no_memory, out_of_memory
from hyperpruning.lyapunov.config import SpectrumConfig
from hyperpruning.lyapunov.spectrum import lyapunov_spectrum
from hyperpruning.search.configured import configured
from hyperpruning.search.deadline import Deadline
from hyperpruning.search.history import DENSE, SMALL, Candidate, FinalResult
from hyperpruning.search.plan import Plan
from hyperpruning.search.references import FrozenDense, NarrowerError, narrower_task
from hyperpruning.search.shared_folder import check_driven, check_seen
from hyperpruning.sparsity.method import Method, MethodError
from hyperpruning.sparsity.serialization import to_config
from hyperpruning.training.checkpoint import KEEP_CHECKPOINTS, best_weights, load, save
from hyperpruning.training.checks import check_evaluated, recurrent_part, unchanged
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.device import matmul_precision, threads
from hyperpruning.training.epochs import epochs, train_batches
from hyperpruning.training.progress import TimeIsUp, Watch
from hyperpruning.training.record import EpochRecord
from hyperpruning.training.state import Training
from hyperpruning.training.task import AnyTask, loss_and_metric, with_batches

OUT_OF_MEMORY = "CUDA out of memory. Start a new run with fewer --workers or a smaller batch or bptt in [training]."
NO_MEMORY = "Out of memory. Start a new run with fewer --workers or a smaller network, batch or bptt."


@dataclass(frozen=True)
class Job:
    """Train `name` until an epoch, from its checkpoint in `folder` or from the beginning.

    With `frozen` weights nothing is trained: they are evaluated once. With `as_many_as` the task's network is made
    narrower, until it has at most as many weights as a pruned one with this number of active prunable weights. Results
    do not depend on how often checkpoints are written, how many are kept, and the deadline.
    With a `token` the run folder must have it (search/shared_folder.py). With `count_multiply_adds` the records
    have them.
    """

    name: str
    task: AnyTask
    train: TrainConfig
    method: Method | None
    sparsity: float
    spectrum: SpectrumConfig
    folder: Path
    until: int
    frozen: FrozenDense | None = None
    as_many_as: int | None = None
    checkpoint_minutes: float = 5.0
    keep_checkpoints: int = KEEP_CHECKPOINTS
    deadline: Deadline = field(default_factory=Deadline)
    token: str | None = None
    count_multiply_adds: bool = False

    def identity(self) -> str:
        """A hash of all settings of the training; a checkpoint with another identity is not used."""
        values = {
            "name": self.name,
            "task": self.task.identity(),
            "train": asdict(self.train),
            "method": None if self.method is None else to_config(self.method),
            "sparsity": self.sparsity,
            "spectrum": asdict(self.spectrum),
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def job_for(plan: Plan, folder: Path, candidate: Candidate | None, until: int) -> Job:
    """The job of training a candidate, or the dense reference (None), up to an epoch.

    Args:
        plan: of the search.
        folder: the run folder.
        candidate: to be trained.
        until: the epoch.
    """
    if candidate is not None:
        one = configured(plan, candidate.config)
        return Job(
            name=candidate.name,
            task=one.task,
            train=one.train,
            method=one.method,
            sparsity=one.sparsity,
            spectrum=plan.spectrum,
            folder=folder / "networks" / candidate.name,
            until=until,
            checkpoint_minutes=plan.checkpoint_minutes,
            keep_checkpoints=plan.keep_checkpoints,
            count_multiply_adds="multiply_adds" in plan.objectives,
        )
    assert plan.dense_task is not None
    return Job(
        name=DENSE,
        task=plan.dense_task,
        train=plan.train,
        method=None,
        sparsity=0.0,
        spectrum=plan.spectrum,
        folder=folder / "networks" / DENSE,
        until=until,
        checkpoint_minutes=plan.checkpoint_minutes,
        keep_checkpoints=plan.keep_checkpoints,
        frozen=plan.dense if isinstance(plan.dense, FrozenDense) else None,
    )


def small_job(plan: Plan, folder: Path, active: int) -> Job:
    """The job of training the dense network with as many weights as the pruned ones to the end.

    Args:
        plan: of the search.
        folder: the run folder.
        active: active prunable weights of the pruned networks.
    """
    assert plan.task is not None
    return Job(
        name=SMALL,
        task=plan.task,
        train=plan.train,
        method=None,
        sparsity=0.0,
        spectrum=plan.spectrum,
        folder=folder / "networks" / SMALL,
        until=plan.train.epochs,
        checkpoint_minutes=plan.checkpoint_minutes,
        keep_checkpoints=plan.keep_checkpoints,
        as_many_as=active,
    )


def narrowed(job: Job) -> Job:
    """The job with the task of the narrower network, if it asks for one.

    Raises:
        NarrowerError: the task does not offer it.
    """
    if job.as_many_as is None:
        return job
    return replace(job, task=narrower_task(job.task, job.train, job.as_many_as), as_many_as=None)


@dataclass(frozen=True)
class JobResult:
    """The result of a job.

    Attributes:
        records: of all epochs up to `Job.until`.
        final: the result of a full training; None before its end.
        failure: the reason if the network diverged or could not be built; else None.
        paused: whether the deadline ended the job; run it again to continue.
    """

    records: tuple[EpochRecord, ...]
    final: FinalResult | None = None
    failure: str | None = None
    paused: bool = False


def run_job(job: Job, *, on_epoch: Callable[[EpochRecord], None] | None = None) -> JobResult:
    """Run a job; every epoch ends with a checkpoint, and within a long one there are more.

    Args:
        job: what to train.
        on_epoch: called with each record up to `job.until`, in order: first the records in the checkpoint, then each
            new one after its checkpoint is written. An exception of it ends the job; when the job is run again, it
            continues from that checkpoint.

    Raises:
        RunFolderError: the run folder does not have the token of the job.
    """
    if job.token is not None:
        check_seen(job.folder.parents[1], job.token)
    records: list[EpochRecord] = []
    try:
        with threads(job.train.threads):
            final = _train(narrowed(job), records, _watched(job, on_epoch))
    # a loss or a score is not finite; or the method does not fit; or there is no narrower network
    except (FloatingPointError, MethodError, NarrowerError) as error:
        return JobResult(tuple(records), failure=str(error))
    except TimeIsUp:
        return JobResult(tuple(record for record in records if record.epoch <= job.until), paused=True)
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            failure = OUT_OF_MEMORY
        elif no_memory(error):
            failure = NO_MEMORY
        else:
            raise
    else:
        return JobResult(tuple(record for record in records if record.epoch <= job.until), final)
    torch.cuda.empty_cache()  # not in the except block, where the error still references the tensors
    return JobResult(tuple(records), failure=failure)


def _watched(job: Job, on_epoch: Callable[[EpochRecord], None] | None) -> Callable[[EpochRecord], None] | None:
    """`on_epoch`, which ends a job that carries a token when its driver has ended."""
    if (token := job.token) is None:
        return on_epoch

    def watched(record: EpochRecord) -> None:
        check_driven(job.folder.parents[1], token)
        if on_epoch is not None:
            on_epoch(record)

    return watched


def _train(job: Job, records: list[EpochRecord], on_epoch: Callable[[EpochRecord], None] | None) -> FinalResult | None:
    """Train, add to the records, and return the result of a full training."""
    training = Training(job.task, job.train, job.method, sparsity=job.sparsity)
    if job.frozen is not None:
        return _measure(job.frozen, job, training, records, on_epoch)
    for record in load(training, job.folder, job.identity()):
        records.append(record)
        if on_epoch is not None and record.epoch <= job.until:
            on_epoch(record)

    def checkpoint() -> None:
        save(training, job.folder, job.identity(), records, keep=job.keep_checkpoints)

    watch = Watch(checkpoint, minutes=job.checkpoint_minutes, time_is_up=job.deadline.clock())
    for record in epochs(training, job.until, watch):
        if job.count_multiply_adds:
            record = replace(record, multiply_adds=training.multiply_adds())
        records.append(_with_spectrum(training, record, job.spectrum))
        checkpoint()
        if on_epoch is not None:
            on_epoch(records[-1])
    if not training.epoch == job.train.epochs == job.until:
        return None
    best = next(record for record in records[1:] if record.valid_loss == training.best_loss)
    return _final(job, training, best)


def _measure(
    frozen: FrozenDense,
    job: Job,
    training: Training,
    records: list[EpochRecord],
    on_epoch: Callable[[EpochRecord], None] | None,
) -> FinalResult:
    """Evaluate frozen weights and take their spectrum; the record has epoch 0."""
    frozen.load_into(training.network)
    training.epoch, training.best = 0, training.network.state_dict()
    records.append(_with_spectrum(training, training.record(), job.spectrum))
    if on_epoch is not None:
        on_epoch(records[-1])
    return _final(job, training, records[-1])


def verified_weights(job: Job, sha256: str) -> dict[str, Tensor]:
    """The best weights of a fully trained network; if the checkpoint is lost, the network is trained again.

    Args:
        job: the job that trained it, `narrowed`.
        sha256: of the weights, from the ledger.

    Raises:
        ValueError: training again gave other weights (another version of torch, or another machine).
    """
    if (weights := stored_weights(job, sha256)) is not None:
        return weights
    run_job(job)
    if (weights := stored_weights(job, sha256)) is None:
        raise ValueError(
            f"The weights of {job.name} must have the SHA-256 in the ledger, got another one after training again. "
            "Use the package versions in the first line of the ledger."
        )
    return weights


def stored_weights(job: Job, sha256: str) -> dict[str, Tensor] | None:
    """The best weights of a fully trained network as they are stored; None if the checkpoint is lost.

    Args:
        job, sha256: as of `verified_weights`; a frozen network has its own weights, whatever the hash.
    """
    if job.frozen is not None:
        network = job.task.network(job.train.seed)
        job.frozen.load_into(network)
        return network.state_dict()
    weights = best_weights(job.folder, job.identity())
    return weights if weights and weights_sha256(weights) == sha256 else None


def seconds_per_epoch(job: Job, *, batches: int = 20, enough: float = 3.0) -> float:
    """Estimate the time of an epoch from a few batches, one evaluation and one spectrum; writes nothing.

    Args:
        job: the training.
        batches: number of batches, if they take less than `enough` seconds; at least one is trained.
        enough: no batch begins after so many seconds.
    """
    with threads(job.train.threads), matmul_precision(job.train):
        training = Training(job.task, job.train, job.method, sparsity=job.sparsity)
        steps = job.task.steps(0, job.train.seed)
        task, count, started = with_batches(job.task), 0, time.perf_counter()

        def several() -> Iterator[Any]:
            nonlocal count
            for batch in islice(task.batches(0, job.train.seed), batches):
                if count and time.perf_counter() - started > enough:
                    return
                count += 1
                yield batch

        train_batches(training, several())
        trained = time.perf_counter()
        _with_spectrum(training, training.record(), job.spectrum)
        return (trained - started) * steps / count + time.perf_counter() - trained


def _with_spectrum(training: Training, record: EpochRecord, config: SpectrumConfig) -> EpochRecord:
    if config.epochs and record.epoch not in config.epochs:
        return record
    spectrum = _spectrum(training, config, untrained=record.epoch == 0)
    moving: tuple[float | None, ...] = ()
    if config.averaged and training.config.half_life:
        moving = spectrum if record.epoch == 0 else _spectrum(training, config, moving=True)
    return replace(record, spectrum=spectrum, averaged_spectrum=moving)


def _spectrum(
    training: Training, config: SpectrumConfig, *, moving: bool = False, untrained: bool = False
) -> tuple[float | None, ...]:
    with training.evaluated(moving=moving) as network, unchanged(network, "recurrence") if untrained else nullcontext():
        recurrent, probe = recurrent_part(training.task, network)
        spectrum = lyapunov_spectrum(recurrent, probe, state=config.state, warmup=config.warmup)
    return tuple(float(value) if math.isfinite(value) else None for value in spectrum.exponents.tolist())


def _final(job: Job, training: Training, best: EpochRecord) -> FinalResult:
    """The result of a training whose best weights are from the epoch of a record."""
    training.network.load_state_dict(training.best)
    training.network.eval()
    with float32_precision(), torch.no_grad():
        with unchanged(training.network, 'evaluate(network, "test")'):
            evaluated = training.task.evaluate(training.network, "test")
        check_evaluated(evaluated, "test", untrained=False)
        test, test_metric = loss_and_metric(evaluated)
    return FinalResult(
        network=job.name,
        best_epoch=best.epoch,
        valid_loss=best.valid_loss,
        test_loss=test,
        active=best.active,
        sha256=weights_sha256(training.best),
        valid_metric=best.valid_metric,
        test_metric=test_metric,
    )
