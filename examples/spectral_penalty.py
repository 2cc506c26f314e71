"""Train a pruned network with a penalty: the distance of its Lyapunov spectrum from the dense network's."""

import copy

import torch
from torch import nn
from torch.nn.functional import mse_loss

import hyperpruning as hp


class Predictor(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(1, 16), nn.Linear(16, 1)

    def forward(self, series):  # (T, B, 1) -> (T, B, 1)
        return self.out(self.rnn(series)[0])


def waves(seed, steps=40, count=16):  # sums of two sines with random frequencies and phases
    generator = torch.Generator().manual_seed(seed)
    rates, phases = (torch.rand(2, 1, count, generator=generator) for _ in range(2))
    time = torch.arange(steps + 1.0)[None, :, None]
    return (torch.sin(time * (0.2 + rates) + 6 * phases)).sum(0)[..., None] / 2


def train(network, steps, sparsifier=None, optimizer=None, penalty=0.0, target=None, probe=None):
    optimizer = optimizer or torch.optim.Adam(network.parameters(), lr=5e-3)
    for step in range(steps):
        batch = waves(step)
        loss = mse_loss(network(batch[:-1]), batch[1:])
        if penalty:
            spectrum = hp.lyapunov_spectrum(network.rnn, probe, differentiable=True)
            loss = loss + penalty * hp.spectrum_distance(spectrum, target, kind="relative")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if sparsifier is not None:
            sparsifier.step()


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)  # one thread is faster for a network of this size
    dense, probe, test = Predictor(), waves(10**6, 24, 2)[:-1], waves(10**6 + 1, count=128)
    train(dense, 300)
    target = hp.lyapunov_spectrum(dense.rnn, probe)
    for penalty in (0.0, 0.05):
        network = copy.deepcopy(dense)
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        sparsifier = hp.Sparsifier(network, optimizer, hp.METHODS["static"], sparsity=0.6, seed=1)
        train(network, 60, sparsifier, optimizer, penalty, target, probe)
        distance = hp.spectrum_distance(hp.lyapunov_spectrum(network.rnn, probe), target, kind="relative")
        with torch.no_grad():
            error = mse_loss(network(test[:-1]), test[1:])
        print(f"penalty {penalty}: distance {float(distance):.3f}, test error {float(error):.4f}")
