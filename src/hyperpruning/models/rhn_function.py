"""The unrolled recurrent highway layer: its micro-steps, and a backward pass that is faster than autograd's.

Autograd would store a dozen nodes for each of the T x depth micro-steps and accumulate each weight's gradient as often.
`HighwayFunction` stores states and gates in one tensor each and computes the gradient of a weight matrix as one product
over all time steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def next_state(state: Tensor, gates: Tensor) -> Tensor:
    """Return the state (N, H) after a micro-step.

    Args:
        state: (N, H).
        gates: pre-activations of h, t, and c unless c = 1 - t, (N, G H).
    """
    h, t, *c = torch.split(gates, state.shape[-1], -1)
    if c:
        return torch.tanh(h) * torch.sigmoid(t) + state * torch.sigmoid(c[0])
    return torch.lerp(state, torch.tanh(h), torch.sigmoid(t))  # h t + s (1 - t)


def micro_steps(
    state: Tensor, projection: Tensor, mask: Tensor | None, weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (state before, gates' pre-activations, state after) for each micro-step of each time step.

    Args:
        state: (N, H).
        projection: W x + b of the first micro-step, (T, N, G H).
        mask: (N, H), multiplied with the state that the gates read; None for no mask.
        weights: (G H, H) of each micro-step.
        biases: (G H,) of each micro-step but the first.
    """
    transposed = [weight.T for weight in weights]
    for first in projection:
        for weight, bias in zip(transposed, [first, *biases], strict=True):
            gates = torch.addmm(bias, state if mask is None else state * mask, weight)
            gates = gates.to(state.dtype)  # autocast computes only the products in bf16
            after = next_state(state, gates)
            yield state, gates, after
            state = after


class HighwayFunction(torch.autograd.Function):
    """(state, projection, mask, depth, *weights, *biases) -> the state after each step, (T, N, H).

    The arguments are those of `micro_steps`; the mask is a constant. Under autocast only the products with the weights
    are in autocast's dtype. Second derivatives are those that autograd computes for `micro_steps`.
    """

    @staticmethod
    def forward(
        ctx: Any, state: Tensor, projection: Tensor, mask: Tensor | None, depth: int, *parameters: Tensor
    ) -> Tensor:
        """Run all micro-steps and store states and gates."""
        steps, size, device = len(projection), state.shape[-1], state.device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else state.dtype
        states = state.new_empty(steps * depth + 1, *state.shape)
        gates = state.new_empty(steps * depth, *projection.shape[1:])  # after their nonlinearities
        weights, biases = [weight.T.to(dtype) for weight in parameters[:depth]], parameters[depth:]
        states[0] = state
        for number, (before, gate, after) in enumerate(zip(states, gates, states[1:], strict=False)):
            time, level = divmod(number, depth)
            bias = biases[level - 1] if level else projection[time]
            read = before if mask is None else before * mask
            if dtype == state.dtype:
                torch.addmm(bias, read, weights[level], out=gate)
            else:
                torch.add(bias, read.to(dtype) @ weights[level], out=gate)
            h, t, *c = gate.split(size, -1)
            h.tanh_()
            gate[:, size:].sigmoid_()
            if c:
                torch.addcmul(h * t, before, c[0], out=after)
            else:
                torch.lerp(before, h, t, out=after)
        ctx.save_for_backward(state, projection, mask, states, gates, *parameters)
        ctx.depth, ctx.dtype = depth, dtype
        return states[depth::depth].clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of state, projection and parameters."""
        state, projection, mask, states, gates, *parameters = ctx.saved_tensors
        depth, size, dtype = ctx.depth, state.shape[-1], ctx.dtype
        if torch.is_grad_enabled():  # a second derivative is requested
            after_micro = [
                after for *_, after in micro_steps(state, projection, mask, parameters[:depth], parameters[depth:])
            ]
            outputs, inputs = torch.stack(after_micro[depth - 1 :: depth]), [state, projection, *parameters]
            wanted = [value for value in inputs if value.requires_grad]
            found = iter(torch.autograd.grad(outputs, wanted, gradient, create_graph=True))
            given = [next(found) if value.requires_grad else None for value in inputs]
            return given[0], given[1], None, None, *given[2:]
        weights = [weight.to(dtype) for weight in parameters[:depth]]
        # derivatives of each next state; the loop turns those by the gates into the gates' gradients, in place
        gate_gradients, carry = _state_derivatives(states[:-1], gates)
        state_gradient = torch.zeros_like(state)
        for number in reversed(range(len(gates))):
            time, level = divmod(number, depth)
            if level == depth - 1:
                state_gradient = state_gradient + gradient[time]
            gate_gradients[number].view(len(state_gradient), -1, size).mul_(state_gradient[:, None])
            back = (gate_gradients[number].to(dtype) @ weights[level]).to(state.dtype)
            state_gradient = state_gradient * carry[number]
            state_gradient = state_gradient.add_(back) if mask is None else state_gradient.addcmul_(back, mask)
        by_level = gate_gradients.view(len(projection), depth, -1, gate_gradients.shape[-1]).transpose(0, 1)
        read = states[:-1] if mask is None else states[:-1] * mask
        read = read.view(len(projection), depth, -1, size).transpose(0, 1)  # (depth, T, N, H)
        weight_gradients = [
            (into.flatten(0, 1).T.to(dtype) @ seen.flatten(0, 1).to(dtype)).to(state.dtype)
            for into, seen in zip(by_level, read, strict=True)  # (T, N, G H) and (T, N, H)
        ]
        bias_gradients = [into.sum((0, 1)) for into in by_level[1:]]
        return state_gradient, by_level[0], None, None, *weight_gradients, *bias_gradients


def _state_derivatives(states: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives of each next state by the gates' pre-activations and by the previous state (the carry).

    Args:
        states: before each micro-step, (S, N, H).
        gates: h, t, and c unless c = 1 - t, after their nonlinearities, (S, N, G H).

    Returns:
        (S, N, G H) and (S, N, H).
    """
    h, t, *c = torch.split(gates, states.shape[-1], -1)
    derivatives = torch.empty_like(gates)
    by_h, by_t, *by_c = torch.split(derivatives, states.shape[-1], -1)
    aten.tanh_backward.grad_input(t, h, grad_input=by_h)
    aten.sigmoid_backward.grad_input(h if c else h - states, t, grad_input=by_t)
    if c:
        aten.sigmoid_backward.grad_input(states, c[0], grad_input=by_c[0])
    return derivatives, c[0] if c else 1 - t
