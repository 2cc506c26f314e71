"""Sparse training with Lightning: a callback of 13 lines. It needs the extra `examples`: pip install ".[examples]"."""

import logging
import warnings

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hyperpruning as hp


class Sparse(lightning.Callback):
    def __init__(self, method, sparsity):
        self.method, self.sparsity, self.saved = method, sparsity, None

    def on_train_start(self, trainer, module):  # trainer.model is the wrapped one under DDP
        steps, optimizer = int(trainer.estimated_stepping_batches), trainer.optimizers[0]
        options = {"sparsity": self.sparsity, "total_steps": steps, "interval": 10, "state": self.saved}
        self.sparsifier = hp.Sparsifier(trainer.model, optimizer, self.method, **options)

    def on_train_batch_end(self, *batch):  # with gradient accumulation too: only optimizer steps count
        self.sparsifier.step()

    def state_dict(self):  # saved in Lightning's checkpoints
        return self.sparsifier.state_dict()

    def load_state_dict(self, state):
        self.saved = state


class Mean(lightning.LightningModule):
    """Says the mean of a sequence at its end."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 1)

    def training_step(self, batch, index):
        (sequences,) = batch
        loss = nn.functional.mse_loss(self.head(self.rnn(sequences)[0][:, -1]), sequences.mean(1))
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")  # hints on workers and logging
lightning.seed_everything(0, verbose=False)
data = DataLoader(TensorDataset(torch.rand(256, 6, 1)), batch_size=32)
sparse = Sparse(hp.METHODS["rigl"], sparsity=0.9)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = lightning.Trainer(max_epochs=20, accelerator="cpu", accumulate_grad_batches=2, callbacks=[sparse], **quiet)
trainer.fit(Mean(), data)
loss = float(trainer.callback_metrics["loss"])
print(f"sparsity {sparse.sparsifier.sparsity:.3f} after {trainer.global_step} steps, training error {loss:.4f}")
