"""Device, threads, precision and random generators of a training; context managers restore them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from hyperpruning.kernels import float32_precision
from hyperpruning.training.config import TrainConfig


def device_of(name: str) -> torch.device:
    """The device of a name: "cpu", "cuda", "cuda:1"; "auto" is "cuda" if available, else "cpu".

    Raises:
        ValueError: torch does not see this device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    known = device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < torch.cuda.device_count())
    if not known:
        raise ValueError(
            f'device must be "cpu", "auto" or one of the {torch.cuda.device_count()} CUDA devices that torch sees, got '
            f"{name!r}."
        )
    return device


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within the block torch uses this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def matmul_precision(config: TrainConfig) -> AbstractContextManager[None]:
    """Within the block, float32 matrix products on CUDA use TF32 if the precision is "tf32" or "bf16"."""
    if device_of(config.device).type != "cuda":
        return nullcontext()
    return float32_precision(tf32=config.precision != "float32")


def forward_precision(config: TrainConfig) -> AbstractContextManager[None]:
    """Within the block, the forward pass uses autocast to bf16 if the precision is "bf16"."""
    return torch.autocast(device_of(config.device).type, torch.bfloat16, enabled=config.precision == "bf16")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within the block, torch's global generators (used by dropout) start from a seed."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
