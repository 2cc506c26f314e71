"""benchmarks/deployed_metrics.py: the networks of the digits example in the decoder."""

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("onnxruntime")

import deployed_metrics


@pytest.mark.slow
def test_the_digits_example_is_evaluated_in_every_form():
    found = deployed_metrics.digits_metrics("--small")
    assert "dense" in found
    assert len(found) >= 2
    for forms in found.values():
        assert list(forms) == ["torch", "decoder exact", "decoder int8"]
        torch.testing.assert_close(forms["decoder exact"], forms["torch"], rtol=1e-5, atol=1e-5)
        assert forms["decoder int8"][0] == pytest.approx(forms["torch"][0], rel=0.05)
