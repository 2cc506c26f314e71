"""The callbacks of examples/ in the frameworks that they are for."""

import ast
import runpy
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from hyperpruning.sparsity.catalogue import METHODS

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.filterwarnings("ignore")  # of the frameworks


@pytest.mark.parametrize("name", ["lightning_callback", "skorch_callback"])
def test_a_callback_has_at_most_15_lines(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    (found,) = (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == "Sparse")
    lines = [line for line in text.splitlines()[found.lineno - 1 : found.end_lineno] if line.strip()]
    assert len(lines) <= 15
    assert f"a callback of {len(lines)} lines" in text.splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning_resumes_bit_for_bit_and_counts_optimizer_steps(precision, tmp_path, capsys):
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")
    names = runpy.run_path(str(EXAMPLES / "lightning_callback.py"))
    data = DataLoader(TensorDataset(torch.rand(64, 6, 1, generator=torch.Generator().manual_seed(0))), batch_size=8)

    class Save(lightning.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch}.ckpt")

    def fit(**resumed):
        sparse = names["Sparse"](METHODS["rigl"], sparsity=0.9)
        torch.manual_seed(0)
        network = names["Mean"]()
        trainer = lightning.Trainer(
            max_epochs=8,
            accelerator="cpu",
            precision=precision,
            accumulate_grad_batches=2,
            callbacks=[sparse] if resumed else [sparse, Save()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(network, data, **resumed)
        return network, sparse.sparsifier

    expected, whole = fit()
    network, resumed = fit(ckpt_path=tmp_path / "3.ckpt")  # after 16 of 32 steps
    assert whole.state_dict()["step"] == 8 * 4
    assert all(torch.equal(mask, resumed.masks[name]) for name, mask in whole.masks.items())
    assert all(torch.equal(one, two) for one, two in zip(expected.parameters(), network.parameters(), strict=True))
    assert all(not network.get_parameter(name)[~mask].any() for name, mask in resumed.masks.items())
