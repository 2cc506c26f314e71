"""The path of a recurrent highway layer: its micro-steps, and a backward pass that is faster than autograd's.

Autograd would keep a dozen nodes for each of the T x depth micro-steps and add to each weight's gradient as often. Here
states and gates are kept in one tensor each, and the gradient of a weight matrix is one product over all time steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def next_state(state: Tensor, gates: Tensor) -> Tensor:
    """Return the state (N, H) after a micro-step, from what enters the gates (N, G H): h, t, and c unless c = 1 - t."""
    h, t, *c = torch.split(gates, state.shape[-1], -1)
    if c:
        return torch.tanh(h) * torch.sigmoid(t) + state * torch.sigmoid(c[0])
    return torch.lerp(state, torch.tanh(h), torch.sigmoid(t))  # h t + s (1 - t)


def micro_steps(
    state: Tensor, drive: Tensor, mask: Tensor | None, weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield, for each micro-step of each step, the state before, what enters the gates, and the state after.

    Args:
        state: (N, H).
        drive: W x + b of the first micro-step, (T, N, G H).
        mask: (N, H), a factor on the state as the gates read it; None is one.
        weights: (G H, H) of each micro-step.
        biases: (G H,) of each but the first.
    """
    transposed = [weight.T for weight in weights]
    for first in drive:
        for weight, outside in zip(transposed, [first, *biases], strict=True):
            gates = torch.addmm(outside, state if mask is None else state * mask, weight)
            gates = gates.to(state.dtype)  # autocast gives products alone in bf16
            after = next_state(state, gates)
            yield state, gates, after
            state = after


class HighwayFunction(torch.autograd.Function):
    """(state, drive, mask, depth, *weights, *biases) -> the state after each step, (T, N, H); all as in `micro_steps`.

    The mask is a constant. Under autocast the products with the weights are in its dtype, all else in the state's.
    Second derivatives are autograd's, of `micro_steps`.
    """

    @staticmethod
    def forward(ctx: Any, state: Tensor, drive: Tensor, mask: Tensor | None, depth: int, *parameters: Tensor) -> Tensor:
        """Run all micro-steps; keep states and gates."""
        steps, size, device = len(drive), state.shape[-1], state.device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else state.dtype
        states = state.new_empty(steps * depth + 1, *state.shape)
        gates = state.new_empty(steps * depth, *drive.shape[1:])  # after their nonlinearities
        weights, biases = [weight.T.to(dtype) for weight in parameters[:depth]], parameters[depth:]
        states[0] = state
        for number, (before, gate, after) in enumerate(zip(states, gates, states[1:], strict=False)):
            time, level = divmod(number, depth)
            outside = biases[level - 1] if level else drive[time]
            read = before if mask is None else before * mask
            if dtype == state.dtype:
                torch.addmm(outside, read, weights[level], out=gate)
            else:
                torch.add(outside, read.to(dtype) @ weights[level], out=gate)
            h, t, *c = gate.split(size, -1)
            h.tanh_()
            gate[:, size:].sigmoid_()
            if c:
                torch.addcmul(h * t, before, c[0], out=after)
            else:
                torch.lerp(before, h, t, out=after)
        ctx.save_for_backward(state, drive, mask, states, gates, *parameters)
        ctx.depth, ctx.dtype = depth, dtype
        return states[depth::depth].clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of state, drive and parameters."""
        state, drive, mask, states, gates, *parameters = ctx.saved_tensors
        depth, size, dtype = ctx.depth, state.shape[-1], ctx.dtype
        if torch.is_grad_enabled():  # a second derivative is asked for
            every = [after for *_, after in micro_steps(state, drive, mask, parameters[:depth], parameters[depth:])]
            outputs, inputs = torch.stack(every[depth - 1 :: depth]), [state, drive, *parameters]
            wanted = [value for value in inputs if value.requires_grad]
            found = iter(torch.autograd.grad(outputs, wanted, gradient, create_graph=True))
            given = [next(found) if value.requires_grad else None for value in inputs]
            return given[0], given[1], None, None, *given[2:]
        weights = [weight.to(dtype) for weight in parameters[:depth]]
        entering, carried = _slopes(states[:-1], gates)  # the gradients of what entered: slopes, times the flow below
        flow = torch.zeros_like(state)
        for number in reversed(range(len(gates))):
            time, level = divmod(number, depth)
            if level == depth - 1:
                flow = flow + gradient[time]
            entering[number].view(len(flow), -1, size).mul_(flow[:, None])
            back = (entering[number].to(dtype) @ weights[level]).to(state.dtype)
            flow = flow * carried[number]
            flow = flow.add_(back) if mask is None else flow.addcmul_(back, mask)
        by_level = entering.view(len(drive), depth, -1, entering.shape[-1]).transpose(0, 1)  # (depth, T, N, G H)
        read = (states[:-1] if mask is None else states[:-1] * mask).view(len(drive), depth, -1, size).transpose(0, 1)
        products = [
            (into.flatten(0, 1).T.to(dtype) @ seen.flatten(0, 1).to(dtype)).to(state.dtype)
            for into, seen in zip(by_level, read, strict=True)
        ]
        return flow, by_level[0], None, None, *products, *(into.sum((0, 1)) for into in by_level[1:])


def _slopes(states: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    """Differentiate each next state by what entered its gates, and by the state that it carries on.

    Args:
        states: before each micro-step, (S, N, H).
        gates: h, t, and c unless c = 1 - t, after their nonlinearities, (S, N, G H).

    Returns:
        (S, N, G H) and (S, N, H).
    """
    h, t, *c = torch.split(gates, states.shape[-1], -1)
    slopes = torch.empty_like(gates)
    by_h, by_t, *by_c = torch.split(slopes, states.shape[-1], -1)
    aten.tanh_backward.grad_input(t, h, grad_input=by_h)
    aten.sigmoid_backward.grad_input(h if c else h - states, t, grad_input=by_t)
    if c:
        aten.sigmoid_backward.grad_input(states, c[0], grad_input=by_c[0])
    return slopes, c[0] if c else 1 - t
