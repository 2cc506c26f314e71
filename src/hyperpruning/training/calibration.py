"""The quantity that a mask initialisation differentiates: the loss of some batches, or the recurrent Jacobian."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from hyperpruning.sparsity.mask_inits import Calibration, grasp, jacobian, jacobian_norm, snip
from hyperpruning.sparsity.method import Method
from hyperpruning.training.checks import recurrent_part
from hyperpruning.training.device import seeded
from hyperpruning.training.task import AnyTask, as_step, loss_and_carry, with_batches

BATCHES = 8  # of the first epoch, whose losses are added up
STEPS = 20  # of the probe, the last four of which are measured


def calibration(task: AnyTask, network: nn.Module, method: Method, *, seed: int) -> Calibration:
    """The calibration function for the mask initialisation of a method; it computes nothing until it is called.

    Args:
        task: its batches or its probe are used.
        network: the network to prune.
        method: mask initialisation "jacobian" uses the recurrent part, all others use the loss.
        seed: seed of batches and dropout.

    Raises:
        ValueError: "jacobian" cannot measure the network's recurrent part, or "snip" or "grasp" finds no loss.
    """
    device = next(network.parameters()).device

    def loss() -> Tensor:
        learnt = with_batches(task)
        found, carries = [], dict[int, Any]()
        # dropout draws from the global generators; cuDNN's recurrent layers cannot be differentiated twice
        with seeded(seed, device), torch.backends.cudnn.flags(enabled=False):
            for step in map(as_step, islice(learnt.batches(0, seed), BATCHES)):
                for number, part in enumerate(step.parts):
                    one, carries[number] = loss_and_carry(learnt, network, part, carries.get(number))
                    found.append(one / len(step.parts))
        return torch.stack(found).sum()

    if method.mask_init in (snip, grasp):
        with_batches(task)
    if method.mask_init is not jacobian:
        return loss
    recurrent, probe = recurrent_part(task, network)
    if not isinstance(recurrent, nn.RNNBase):
        raise ValueError(
            "The recurrent part must be an nn.LSTM, nn.GRU or nn.RNN when mask_init is 'jacobian', got a "
            f"{type(recurrent).__name__}. Use another mask_init, or give the Sparsifier a calibration by jacobian_norm."
        )

    def norm() -> Tensor:
        with torch.backends.cudnn.flags(enabled=False):
            steps = probe.transpose(0, 1) if recurrent.batch_first else probe
            return stacked_norm(recurrent, steps[:STEPS].detach())

    return norm


def stacked_norm(recurrent: nn.RNNBase, inputs: Tensor) -> Tensor:
    """The `jacobian_norm` of one of torch's recurrent layers; the state of an LSTM is (h, c).

    Args:
        recurrent: the dropout between its layers is not applied.
        inputs: (T, B, I), also for a module with `batch_first`.
    """
    parts = 2 if isinstance(recurrent, nn.LSTM) else 1
    shape = parts, recurrent.num_layers, inputs.shape[1], recurrent.hidden_size

    def step(state: Tensor, one: Tensor) -> Tensor:
        stacked = state.view(shape[2], parts, shape[1], shape[3]).permute(1, 2, 0, 3).contiguous()
        steps = one[:, None] if recurrent.batch_first else one[None]
        after = recurrent(steps, (stacked[0], stacked[1]) if parts == 2 else stacked[0])[1]
        together = torch.stack(after) if parts == 2 else after[None]  # (parts, layers, B, H)
        return together.permute(2, 0, 1, 3).reshape(shape[2], -1)  # (B, D)

    training, start = recurrent.training, inputs.new_zeros(shape[2], parts * shape[1] * shape[3])
    recurrent.eval()
    try:
        return jacobian_norm(step, start, inputs)
    finally:
        recurrent.train(training)
