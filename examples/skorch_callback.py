"""Sparse training with skorch: a callback of 11 lines. It needs the extra `examples`: pip install ".[examples]"."""

import numpy as np
import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback
from torch import nn

import hyperpruning as hp


class Sparse(Callback):
    def __init__(self, method, sparsity):
        self.method, self.sparsity = method, sparsity

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        train, _ = net.get_split_datasets(X, y)
        steps = net.max_epochs * len(net.get_iterator(train, training=True))
        options = {"sparsity": self.sparsity, "total_steps": steps, "interval": 10}
        self.sparsifier_ = hp.Sparsifier(net.module_, net.optimizer_, self.method, **options)

    def on_batch_end(self, net, training=False, **kwargs):
        if training:
            self.sparsifier_.step()


class Mean(nn.Module):
    """Says the mean of a sequence at its end."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, sequences):
        return self.head(self.rnn(sequences)[0][:, -1])


torch.manual_seed(0)
sequences = np.random.default_rng(0).random((256, 6, 1), dtype=np.float32)
sparse = Sparse(hp.METHODS["rigl"], sparsity=0.9)
net = NeuralNetRegressor(
    Mean,
    max_epochs=20,
    batch_size=32,
    optimizer=torch.optim.Adam,
    lr=1e-2,
    callbacks=[("sparse", sparse)],
    verbose=0,
)
net.fit(sequences, sequences.mean(1))
print(f"sparsity {sparse.sparsifier_.sparsity:.3f}, validation error {net.history[-1, 'valid_loss']:.4f}")
