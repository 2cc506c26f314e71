"""What torch's kernels for GPUs are told, and tell, in every room: precision, recurrent loops, too small a memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def float32_products(*, tf32: bool = False) -> Iterator[None]:
    """Within the block products of float32 on CUDA are those of float32; afterwards all is set as it was.

    Unless told, torch has cuDNN's recurrent layers compute in TF32, with 10 bits of mantissa.

    Args:
        tf32: they are in TF32 instead.
    """
    of: Any = torch.backends
    newer = []  # torch 2.9 has a setting for each, beside the older ones for all
    if hasattr(of.cudnn, "rnn"):
        newer = [of.cuda.matmul, of.mkldnn.matmul, of.cudnn.conv, of.cudnn.rnn]
    each = [part.fp32_precision for part in newer]
    matmul, allowed = _told(torch.get_float32_matmul_precision, "highest"), _told(lambda: of.cudnn.allow_tf32, True)
    _set("high" if tf32 else "highest", tf32, newer, ["tf32" if tf32 else "ieee"] * len(newer))
    try:
        yield
    finally:
        _set(matmul, allowed, newer, each)


def _told(older: Callable[[], Any], default: Any) -> Any:
    """Read one of the older settings; where a newer one contradicts it torch does not tell, and raises."""
    try:
        return older()
    except RuntimeError:
        return default


def _set(matmul: str, allow_tf32: bool, newer: Sequence[Any], each: Sequence[str]) -> None:
    """Set the older ones first, for they change the newer."""
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = allow_tf32
    for part, precision in zip(newer, each, strict=True):
        part.fp32_precision = precision


def out_of_memory(error: BaseException) -> bool:
    """Tell whether a GPU's memory was too small: torch, CUDA and cuBLAS each say so in their own way."""
    said = str(error)
    cuda = isinstance(error, RuntimeError) and ("CUDA error: out of memory" in said or "_ALLOC_FAILED" in said)
    return cuda or isinstance(error, torch.OutOfMemoryError)


def fused(loop: Callable[..., Any], inputs: Tensor, state: Any, weights: list[Tensor], *, train: bool) -> Any:
    """Run one layer by `torch.lstm`, `torch.gru`, `torch.rnn_tanh` or `torch.rnn_relu`, which are cuDNN's on CUDA.

    Args:
        loop: one of these.
        inputs: (T, N, I).
        state: h, or (h, c), each (1, N, H).
        weights: w_ih, w_hh, b_ih, b_hh.
        train: whether the outputs will be differentiated; cuDNN refuses otherwise.

    Returns:
        the outputs (T, N, H), and the state after the last step.
    """
    with warnings.catch_warnings():  # cuDNN's, that these weights do not lie beside each other
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
        return loop(inputs, state, weights, True, 1, 0.0, train, False, False)
