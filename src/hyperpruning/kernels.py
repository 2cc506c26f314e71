"""Settings and calls of torch's GPU kernels: float32 precision, fused recurrent loops, out-of-memory errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def float32_precision(*, tf32: bool = False) -> Iterator[None]:
    """Set the precision of float32 matrix products on CUDA within the block; restore the settings afterwards.

    By default torch lets cuDNN's recurrent layers compute in TF32, which has 10 bits of mantissa.

    Args:
        tf32: True: products in TF32; False: in full float32.
    """
    backends: Any = torch.backends
    newer = []  # torch 2.9 has one setting per backend, beside the older global ones
    if hasattr(backends.cudnn, "rnn"):
        newer = [backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    precisions = [part.fp32_precision for part in newer]
    matmul = _read_setting(torch.get_float32_matmul_precision, "highest")
    allow_tf32 = _read_setting(lambda: backends.cudnn.allow_tf32, True)
    _set("high" if tf32 else "highest", tf32, newer, ["tf32" if tf32 else "ieee"] * len(newer))
    try:
        yield
    finally:
        _set(matmul, allow_tf32, newer, precisions)


def _read_setting(read: Callable[[], Any], default: Any) -> Any:
    """Read an older setting; return the default where torch raises because a newer setting contradicts it."""
    try:
        return read()
    except RuntimeError:
        return default


def _set(matmul: str, allow_tf32: bool, newer: Sequence[Any], precisions: Sequence[str]) -> None:
    """Set the older settings first, because they change the newer ones."""
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = allow_tf32
    for part, precision in zip(newer, precisions, strict=True):
        part.fp32_precision = precision


def out_of_memory(error: BaseException) -> bool:
    """Tell whether a GPU ran out of memory; torch, CUDA and cuBLAS each report it in a different way."""
    said = str(error)
    cuda = isinstance(error, RuntimeError) and ("CUDA error: out of memory" in said or "_ALLOC_FAILED" in said)
    return cuda or isinstance(error, torch.OutOfMemoryError)


def no_memory(error: BaseException) -> bool:
    """Tell whether the main memory was exhausted, in Python, NumPy or torch."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def run_fused_rnn(loop: Callable[..., Any], inputs: Tensor, state: Any, weights: list[Tensor], *, train: bool) -> Any:
    """Run one recurrent layer by a fused kernel of torch (cuDNN's on CUDA).

    Args:
        loop: `torch.lstm`, `torch.gru`, `torch.rnn_tanh` or `torch.rnn_relu`.
        inputs: (T, N, I).
        state: h, or (h, c) for an LSTM, each (1, N, H).
        weights: w_ih, w_hh, b_ih, b_hh.
        train: True if the outputs will be differentiated; cuDNN requires it for the backward pass.

    Returns:
        the outputs (T, N, H), and the state after the last step.
    """
    with warnings.catch_warnings():  # cuDNN warns that these weights are not one contiguous chunk
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
        return loop(inputs, state, weights, True, 1, 0.0, train, False, False)
