"""The contract suite of a driven layer, for the package's own cells and for any other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.testing import assert_close

from hyperpruning.lyapunov.layers import DrivenLayer, LayerWithJacobian, forward_mode_jacobian
from hyperpruning.testing.comparison import require


def check_driven_layer(layer: DrivenLayer, state: Tensor, input: Tensor) -> None:
    """Check a driven layer: its shapes, the independence of the rows, its Jacobian and its `unroll`.

    A hand-written Jacobian is compared with forward-mode AD, which is compared with reverse-mode AD. With random terms
    it must be non-zero wherever it is non-zero at `state`, and have at least the same rank.

    layer: see `DrivenLayer` and `LayerWithJacobian`.
    state, input: (N, D) and (N, I) in float64, N >= 2.
    Raises: AssertionError with the rule that does not hold.

    >>> from hyperpruning.lyapunov.steps import StepLayer
    >>> weights = torch.randn(3, 3, dtype=torch.float64)
    >>> layer = StepLayer(lambda state, input: torch.tanh(state @ weights + input), 3)
    >>> check_driven_layer(layer, torch.randn(4, 3).double(), torch.randn(4, 3).double())
    """
    following = layer.step(state, input)
    expected = (len(state), layer.state_size)
    require(
        tuple(state.shape) == tuple(following.shape) == expected,
        f"state and step(state, input) must have the shape (N, state_size) = {expected}, got {tuple(state.shape)} and "
        f"{tuple(following.shape)}. Return the whole next state.",
    )
    require(
        1 <= layer.hidden_size <= layer.state_size,
        f"hidden_size must be between 1 and state_size={layer.state_size}, got {layer.hidden_size}.",
    )
    _check_close(
        layer.step(state[:1], input[:1]),
        following[:1],
        "step must treat the rows of the batch independently, got another result for the first row alone. Avoid "
        "operations across the batch.",
    )
    for size in {layer.hidden_size, layer.state_size}:
        forward = forward_mode_jacobian(layer.step, state, input, size)
        reverse = torch.func.vmap(torch.func.jacrev(lambda s, x: layer.step(s[None], x[None])[0]))(state, input)
        _check_close(
            forward,
            reverse[:, :size, :size],
            "Forward- and reverse-mode AD of step must agree, got different Jacobians. Use differentiable operations.",
        )
        if isinstance(layer, LayerWithJacobian):
            terms = layer.jacobian_terms(state, input)
            _check_close(
                layer.jacobian(terms, size),
                forward,
                f"jacobian(jacobian_terms(state, input), {size}) must equal the Jacobian of step, got another. Correct "
                "one of the two methods.",
            )
            _check_random_terms(layer.jacobian(0.5 + torch.rand_like(terms[:1]), size)[0], forward)
    if hasattr(layer, "unroll"):
        _check_close(
            layer.unroll(state, torch.stack([input, input])),
            torch.stack([state, following, layer.step(following, input)]),
            "unroll must return the state before the first step and after each step, got other states. Correct it.",
        )


def _check_random_terms(random: Tensor, jacobians: Tensor) -> None:
    """Check that the Jacobian (D, D) with random terms has all entries and the rank of the Jacobians (N, D, D)."""
    require(
        not bool(jacobians[:, random == 0].any()),
        "jacobian with random terms must be non-zero at every entry that can be non-zero, got a zero at an entry that "
        "is non-zero at this state. Move what makes it zero into jacobian_terms.",
    )
    rank, found = torch.linalg.matrix_rank(random), torch.linalg.matrix_rank(jacobians).max()
    require(
        bool(found <= rank),
        f"jacobian with random terms must have the highest rank, got {int(rank)} and rank {int(found)} at this state. "
        "Move what varies into jacobian_terms.",
    )


def _check_close(found: Tensor, expected: Tensor, rule: str) -> None:
    assert_close(found, expected, atol=1e-12, rtol=1e-10, msg=lambda difference: f"{rule}\n{difference}")
