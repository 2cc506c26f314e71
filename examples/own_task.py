"""A search on a task of your own: a GRU reads a few symbols and says which came first. A task is any such object."""

import tempfile
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import hyperpruning as hp


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.answer = nn.GRU(4, 24), nn.Linear(24, 4)

    def forward(self, sequences):  # (T, B, 4) -> (B, 4)
        return self.answer(self.rnn(sequences)[0][-1])


@dataclass(frozen=True)
class FirstSymbol:
    length: int = 6

    def network(self, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Reader()

    def sequences(self, seed, count):
        numbers = torch.randint(4, (self.length, count), generator=torch.Generator().manual_seed(seed))
        return one_hot(numbers, 4).float()

    def steps(self, epoch, seed):
        return 40

    def batches(self, epoch, seed):
        return (self.sequences(40 * epoch + step, 32) for step in range(40))

    def loss(self, network, batch, carry):
        batch = batch.to(network.answer.weight.device)  # where the network is, on a GPU perhaps
        return cross_entropy(network(batch), batch[0]), None

    def evaluate(self, network, split):
        return float(self.loss(network, self.sequences({"valid": 10**9, "test": 10**9 + 1}[split], 256), None)[0])

    def recurrence(self, network):  # what moves, and the inputs that drive it
        return network.rnn, self.sequences(0, 4).to(network.answer.weight.device)

    def identity(self):  # all that results depend on
        return {"task": "first symbol", **vars(self)}


if __name__ == "__main__":
    task, train = FirstSymbol(), hp.TrainConfig(epochs=10, lr=0.01)
    space = hp.SearchSpace({"drop_scope": ("tensor", "sign"), "drop_fraction": hp.FloatRange(0.2, 0.6, 0.1)})
    spectrum = hp.SpectrumConfig(warmup=2)
    rounds = {"n_candidates": 4, "rungs": (3,), "keep": (2,)}
    plan = hp.Plan(task=task, dense_task=task, train=train, sparsity=0.5, space=space, spectrum=spectrum, **rounds)
    history = hp.hyperprune(plan, tempfile.mkdtemp())
    for criterion, winner in history.winners.items():
        loss, dense = (history.finals[name].test_loss for name in (winner, "dense"))
        print(f"{criterion} chooses {history.candidates[winner].config}: test loss {loss:.3f}, dense {dense:.3f}")
