"""The part of a task's suite that is about a training loop of its own."""

from __future__ import annotations

import io
import pickle

import torch

from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.testing.comparison import bits, require
from hyperpruning.training.config import TrainConfig
from hyperpruning.training.epochs import epochs
from hyperpruning.training.own_loop import OwnLoop
from hyperpruning.training.state import Training

EPOCHS = 2


def check_own_loop(task: OwnLoop, *, seed: int = 0) -> None:
    """Train a network pruned by RigL for two epochs, at a stretch and cut in two; and a dense one for one epoch.

    The training itself checks that every optimizer step is followed by a step of the Sparsifier, that pruned weights
    are zero after an epoch, and that the evaluation leaves the weights as they are.

    Args:
        task: to be checked.
        seed: of the training; default 0.

    Raises:
        AssertionError: the two trainings differ.
        ValueError: the training refuses what the loop does.
    """
    list(epochs(_begin(task, seed, pruned=False), 1))
    whole = _trained(task, seed)
    half = _begin(task, seed)
    list(epochs(half, EPOCHS - 1))
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    continued = _begin(task, seed)
    continued.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    list(epochs(continued))
    if bits(continued.state_dict()) == bits(whole.state_dict()):
        return
    require(
        bits(_trained(task, seed).state_dict()) == bits(whole.state_dict()),
        "The same seed must give the same training, got others. Draw numbers from the global generators of torch, "
        "NumPy or Python, which are seeded for each epoch, or from a torch.Generator in start.",
    )
    raise AssertionError(
        "A training that continues from a checkpoint must be the same as one without a pause, got another. Return "
        "every object that the loop changes from start (optimizer, scheduler, scaler, generator ...)."
    )


def _begin(task: OwnLoop, seed: int, *, pruned: bool = True) -> Training:
    """A training of a copy of the task, as in another process."""
    copied: OwnLoop = pickle.loads(pickle.dumps(task))
    config = TrainConfig(epochs=EPOCHS, updates_per_epoch=1, seed=seed, device="cpu")
    return Training(copied, config, METHODS["rigl"] if pruned else None, sparsity=0.5 if pruned else 0.0)


def _trained(task: OwnLoop, seed: int) -> Training:
    training = _begin(task, seed)
    list(epochs(training))
    return training
