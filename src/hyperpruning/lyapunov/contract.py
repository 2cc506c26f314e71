"""The contract of a driven layer, to run any cell through: the package's own, and yours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.testing import assert_close

from hyperpruning.lyapunov.layers import DrivenLayer, LinearisedLayer, automatic_jacobian


def check_driven_layer(layer: DrivenLayer, state: Tensor, input: Tensor) -> None:
    """Check a layer: shapes, rows that do not depend on each other, what it says of its Jacobian, and its path.

    A hand-written Jacobian is compared with forward-mode AD, and that with reverse-mode AD; at random terms it must
    have every entry and all the rank that it has at `state`.

    layer: see `DrivenLayer` and `LinearisedLayer`.
    state, input: (N, D) and (N, I) in float64, N of at least 2.
    Raises: AssertionError, which says what is broken.

    >>> from hyperpruning.lyapunov.layers import StepLayer
    >>> weights = torch.randn(3, 3, dtype=torch.float64)
    >>> layer = StepLayer(lambda state, input: torch.tanh(state @ weights + input), 3)
    >>> check_driven_layer(layer, torch.randn(4, 3).double(), torch.randn(4, 3).double())
    """
    following = layer.step(state, input)
    _check(following.shape == state.shape == (len(state), layer.state_size), "a step keeps its state's shape (N, D)")
    _check(1 <= layer.hidden_size <= layer.state_size, "hidden_size lies between 1 and state_size")
    assert_close(layer.step(state[:1], input[:1]), following[:1], msg="rows of the batch depend on each other")
    for size in {layer.hidden_size, layer.state_size}:
        pushed = automatic_jacobian(layer.step, state, input, size)
        pulled = torch.func.vmap(torch.func.jacrev(lambda s, x: layer.step(s[None], x[None])[0]))(state, input)
        assert_close(pushed, pulled[:, :size, :size], atol=1e-12, rtol=1e-10)
        if isinstance(layer, LinearisedLayer):
            terms = layer.jacobian_terms(state, input)
            assert_close(layer.jacobian(terms, size), pushed, atol=1e-12, rtol=1e-10)
            generic = layer.jacobian(0.5 + torch.rand_like(terms[:1]), size)[0]
            _check(generic.shape == (size, size), "jacobian must return (size, size) per row of its terms")
            _check(not bool(pushed[:, generic == 0].any()), "an entry is zero at random terms, and not zero here")
            full = torch.linalg.matrix_rank(generic)
            _check(
                bool((torch.linalg.matrix_rank(pushed) <= full).all()), "the rank is lower at random terms than here"
            )
    if hasattr(layer, "unroll"):
        visited = layer.unroll(state, torch.stack([input, input]))
        assert_close(visited, torch.stack([state, following, layer.step(following, input)]), atol=1e-12, rtol=1e-10)


def _check(holds: bool, rule: str) -> None:
    if not holds:
        raise AssertionError(rule)
