"""The contestants of benchmarks/inference.py compute the same step."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore:.*(Sparse CSR|quantiz|torch.ao)")

from inference import FORMATS, Network, dense_contestants, markdown, sparse_contestants  # noqa: E402

from hyperpruning.deploy.compiler import CompilerError  # noqa: E402
from hyperpruning.deploy.native import Kernel  # noqa: E402


@pytest.fixture(autouse=True)
def _kernel():
    try:
        Kernel()
    except CompilerError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize(
    "network", [Network("lstm", 24, 2), Network("gru", 24), Network("softmax", 24, 1, 50)], ids=lambda one: one.cell
)
@torch.no_grad()
def test_the_contestants_compute_the_same_step(network):
    jobs, sizes = dense_contestants(network)
    for name in (more := sparse_contestants(network, 0.0))[0]:
        jobs[name], sizes[name] = more[0][name], more[1][name]
    assert jobs.keys() == sizes.keys() >= set(FORMATS)
    outputs = {name: job() for name, job in jobs.items()}
    expected = outputs["addmv"]
    for name, output in outputs.items():
        output = output[0].flatten() if isinstance(output, tuple) else torch.as_tensor(output).flatten()
        tolerance = 0.1 * float(expected.abs().max()) if "int8" in name else 2e-6
        torch.testing.assert_close(output, expected, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("build", ["avx2", "avx512"])
def test_the_page_has_the_measured_table(build):
    root = Path(__file__).parent.parent
    measured = json.loads((root / "benchmarks" / "results" / f"inference_{build}.json").read_text())
    assert measured["kernel"] == build
    assert markdown(measured["networks"]) in (root / "docs" / "results.md").read_text()
