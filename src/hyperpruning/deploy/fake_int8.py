"""Training with the weights that the int8 decoder will have: fake quantisation with a straight-through estimator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hyperpruning.deploy.packing import quantised
from hyperpruning.deploy.parts import network_parts


@contextmanager
def fake_int8(network: nn.Module) -> Iterator[None]:
    """Within the block every matrix that the decoder multiplies by has the values that its int8 form has.

    The weights are rounded to the 255 levels of their row, exactly as `Decoder(network, precision="int8")` does, and
    restored at the end of the block. A gradient that is computed inside is that of the rounded weights, and the
    optimizer applies it to the full ones (straight-through estimator, Bengio et al. 2013). Compute the loss and call
    backward inside, the optimizer's step outside:

        with hp.fake_int8(network):
            loss(network, batch).backward()
        optimizer.step()

    Pruned weights stay zero. Vectors, embeddings and activations are not rounded; an embedding that is tied to the
    output layer is, since it is the same tensor.

    Args:
        network: as of `Decoder`; of a network of your own, its recurrent layers.

    Raises:
        TypeError: a network that the decoder does not know; the message names it.
        ValueError: a matrix is not finite.
    """
    named = dict(network.named_parameters())
    matrices = [named[linear.name] for linear in network_parts(network).linears()]
    kept = [matrix.detach().clone() for matrix in matrices]
    for matrix in kept:
        if not bool(torch.isfinite(matrix).all()):
            raise ValueError("A matrix to round must be finite, got one with inf or nan. Lower the learning rate.")
    try:
        _copy(matrices, [_rounded(matrix) for matrix in kept])
        yield
    finally:
        _copy(matrices, kept)


def _rounded(matrix: Tensor) -> Tensor:
    """A matrix (R, C) as int8 has it."""
    values, scales = quantised(matrix.to("cpu", torch.float32).numpy())
    return torch.from_numpy(values.astype(scales.dtype) * scales[:, None])


def _copy(matrices: list[nn.Parameter], values: list[Tensor]) -> None:
    """Change weights in place; autograd then refuses a backward pass that needs the earlier values."""
    with torch.no_grad():
        for matrix, value in zip(matrices, values, strict=True):
            matrix.copy_(value)
