"""AR and TAR against their formulas."""

import pytest
import torch

from hyperpruning.models.penalties import activation_penalty, temporal_penalty


def test_penalties_are_means_of_squares():
    h = torch.tensor([[[1.0, -2.0]], [[3.0, 0.0]], [[3.0, 6.0]]])  # (T, B, H) = (3, 1, 2)
    assert activation_penalty(h).item() == pytest.approx((1 + 4 + 9 + 9 + 36) / 6)
    assert temporal_penalty(h).item() == pytest.approx((4 + 4 + 0 + 36) / 4)


def test_a_single_step_has_no_change():
    h = torch.randn(1, 3, 4, requires_grad=True)
    assert temporal_penalty(h).item() == 0
    assert not torch.autograd.grad(temporal_penalty(h), h)[0].any()
