"""A training loop of your own in a search: AdamW, OneCycleLR, clipping and two losses on scikit-learn's digits."""

import tempfile
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import hyperpruning as hp

# What you have: data, a network and a loop. An image is read row by row, and the second loss is about its next row.
DIGITS, ORDER = load_digits(), torch.randperm(1797, generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor(DIGITS.images / 16, dtype=torch.float32)[ORDER].transpose(0, 1)  # (T = 8, images, 8)
LABELS = torch.tensor(DIGITS.target)[ORDER]
SPLITS = {"train": range(1200), "valid": range(1200, 1500), "test": range(1500, 1797)}
EPOCHS, STEPS, BATCH = 6, 40, 30


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.label, self.row = nn.GRU(8, 48), nn.Linear(48, 10), nn.Linear(48, 8)

    def forward(self, rows):  # (T, B, 8) -> (B, 10), (T - 1, B, 8)
        hidden = self.rnn(rows)[0]
        return self.label(hidden[-1]), self.row(hidden[:-1])


def start(network):
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=EPOCHS * STEPS)


def train_epoch(network, optimizer, scheduler, sparsifier):
    total = 0.0
    for chosen in torch.randperm(1200).view(STEPS, BATCH):
        label, row = network(ROWS[:, chosen])
        loss = cross_entropy(label, LABELS[chosen]) + 0.5 * mse_loss(row, ROWS[1:, chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        sparsifier.step()  # the only line that is new in the loop
        total += loss.item() / STEPS
    return total


def loss_and_accuracy(network, images):
    label, truth = network(ROWS[:, images])[0], LABELS[images]
    return float(cross_entropy(label, truth)), 100 * float((label.argmax(1) == truth).float().mean())


# What you add: at most 30 lines.
@dataclass(frozen=True)
class Digits:
    metric = hp.Metric("accuracy", unit="%", from_loss=None, maximize=True)

    def network(self, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Reader()

    def start(self, network):
        return dict(zip(("optimizer", "scheduler"), start(network), strict=True))

    def train_epoch(self, network, state, sparsifier, epoch):
        return train_epoch(network, **state, sparsifier=sparsifier)

    def steps(self, epoch, seed):
        return STEPS

    def evaluate(self, network, split):
        return loss_and_accuracy(network, SPLITS[split])

    def recurrence(self, network):
        return network.rnn, ROWS[:, SPLITS["valid"][:8]]

    def row_groups(self, network):
        return {"rnn.weight_ih_l0": 3, "rnn.weight_hh_l0": 3}

    def identity(self):
        return {"task": "digits by rows", "epochs": EPOCHS}

    def describe(self, network):
        return self.identity()


if __name__ == "__main__":
    task, train = Digits(), hp.TrainConfig(epochs=EPOCHS, device="cpu")
    space = hp.SearchSpace({"drop_scope": ("tensor", "global"), "drop_fraction": hp.FloatRange(0.2, 0.6, 0.2)})
    rounds = {"n_candidates": 3, "ask_batch": 3, "rungs": (2,), "keep": (2,), "spectrum": hp.SpectrumConfig(warmup=2)}
    plan = hp.Plan(task=task, dense_task=task, train=train, sparsity=0.8, space=space, **rounds)
    for name, final in hp.hyperprune(plan, tempfile.mkdtemp()).finals.items():
        print(f"{name:<6} {final.active:>6,} weights  test accuracy {final.test_metric:.1f} %")
