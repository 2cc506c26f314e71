"""A slice of one network's training: what a worker is given, and what it gives back."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hyperpruning.kernels import float32_precision, out_of_memory
from hyperpruning.lyapunov.spectrum import lyapunov_spectrum
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import to_config
from hyperpruning.training.checkpoint import best_weights, load, save
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.device import products, threads
from hyperpruning.training.epochs import EpochRecord, Training, epochs, train_batches
from hyperpruning.training.pruning import MethodError
from hyperpruning.training.task import Task

OUT_OF_MEMORY = (
    "A GPU must hold what is trained on it side by side, and its memory did not, so that in this run this network has "
    "failed: begin another run with fewer --workers, or with a lower batch or bptt in [training]."
)


@dataclass(frozen=True)
class SpectrumConfig:
    """How the spectra that are compared are taken.

    Attributes:
        state: "h", or "full" for an LSTM's (h, c).
        warmup: first steps of the probe, not measured.
    """

    state: Literal["h", "full"] = "h"
    warmup: int = 20


@dataclass(frozen=True)
class Job:
    """Train `name` until an epoch, from its checkpoint in `folder` or from the beginning."""

    name: str
    task: Task
    train: TrainConfig
    method: Method | None
    sparsity: float
    spectrum: SpectrumConfig
    folder: Path
    until: int

    def identity(self) -> str:
        """What is trained; a checkpoint of anything else is refused."""
        values = {
            "name": self.name,
            "task": self.task.identity(),
            "train": asdict(self.train),
            "method": None if self.method is None else to_config(self.method),
            "sparsity": self.sparsity,
            "spectrum": asdict(self.spectrum),
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Slice:
    """What training found.

    Attributes:
        records: of all epochs up to the one asked for.
        final: after the last epoch of a full training: best epoch, losses on both splits, hash of the best weights.
        failure: why it diverged or could not be built, if so.
    """

    records: tuple[EpochRecord, ...]
    final: Mapping[str, Any] | None = None
    failure: str | None = None


def train_slice(job: Job, *, on_epoch: Callable[[EpochRecord], None] | None = None) -> Slice:
    """Carry a job out; every epoch ends with a checkpoint.

    Args:
        job: what to train.
        on_epoch: is called after each checkpoint; what it raises ends the slice there, and carrying the job out again
            goes on from that checkpoint.
    """
    records: list[EpochRecord] = []
    try:
        with threads(job.train.threads):
            final = _train(job, records, on_epoch)
    except (FloatingPointError, MethodError) as error:  # what is trained or ranked is not finite; nothing to train
        return Slice(tuple(records), failure=str(error))
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    else:
        return Slice(tuple(record for record in records if record.epoch <= job.until), final)
    torch.cuda.empty_cache()  # and not above: the error holds on to what filled the memory
    return Slice(tuple(records), failure=OUT_OF_MEMORY)


def _train(
    job: Job, records: list[EpochRecord], on_epoch: Callable[[EpochRecord], None] | None
) -> dict[str, Any] | None:
    """Train, add to the records, and return what the end of a full training tells."""
    training = Training(job.task, job.train, job.method, sparsity=job.sparsity)
    records += load(training, job.folder, job.identity())
    for record in epochs(training, job.until):
        records.append(_with_spectrum(training, record, job.spectrum))
        save(training, job.folder, job.identity(), records)
        if on_epoch is not None:
            on_epoch(records[-1])
    return _final(training, records) if training.epoch == job.train.epochs == job.until else None


def best_of(job: Job, sha256: str) -> dict[str, Tensor]:
    """The best weights of a network that was trained to the end; where they were lost, it is trained again.

    Args:
        job: as it was carried out.
        sha256: of the weights, from the ledger.

    Raises:
        ValueError: training again gave other weights (another version of torch, or another machine).
    """
    weights = best_weights(job.folder, job.identity())
    if not weights or weights_sha256(weights) != sha256:
        train_slice(job)
        weights = best_weights(job.folder, job.identity())
    if weights_sha256(weights) != sha256:
        raise ValueError(
            f"The weights of {job.name} must have the SHA-256 in the ledger, and trained again here they have another: "
            "use the versions that the ledger names."
        )
    return weights


def seconds_per_epoch(job: Job, *, batches: int = 20) -> float:
    """Time a slice of a training (a few batches, one evaluation, one spectrum) and scale it up; writes nothing."""
    with threads(job.train.threads), products(job.train):
        training = Training(job.task, job.train, job.method, sparsity=job.sparsity)
        steps = job.task.steps(0, job.train.seed)
        count = min(batches, steps)
        started = time.perf_counter()
        train_batches(training, islice(job.task.batches(0, job.train.seed), count))
        trained = time.perf_counter()
        _with_spectrum(training, training.record(), job.spectrum)
        return (trained - started) * steps / count + time.perf_counter() - trained


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """The hash of a network's weights: names, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _with_spectrum(training: Training, record: EpochRecord, config: SpectrumConfig) -> EpochRecord:
    with training.evaluated() as network:
        recurrent, probe = training.task.recurrence(network)
        spectrum = lyapunov_spectrum(recurrent, probe, state=config.state, warmup=config.warmup)
    exponents = tuple(float(value) if math.isfinite(value) else None for value in spectrum.exponents.tolist())
    return replace(record, spectrum=exponents)


def _final(training: Training, records: list[EpochRecord]) -> dict[str, Any]:
    training.network.load_state_dict(training.best)
    training.network.eval()
    with float32_precision(), torch.no_grad():
        test = training.task.evaluate(training.network, "test")
    best = next(record for record in records[1:] if record.valid_loss == training.best_loss)
    return {
        "best_epoch": best.epoch,
        "valid_loss": training.best_loss,
        "test_loss": test,
        "active": best.active,
        "sha256": weights_sha256(training.best),
    }
