"""Prune a classifier of scikit-learn's digits, read row by row, in a search of 25 lines; a plain loop to compare."""

import sys
import tempfile

from sklearn.datasets import load_digits

import hyperpruning as hp

epochs, hidden = (3, 8) if "--small" in sys.argv else (20, 64)
digits = load_digits()  # 1,797 images of 8 x 8: sequences of 8 rows
task = hp.SequenceClassification(data=(digits.images / 16, digits.target), hidden=hidden)
plan = hp.Plan(
    task=task,
    dense_task=task,
    train=hp.TrainConfig(epochs=epochs, lr=0.01, schedule="cosine"),
    sparsity=0.9,
    space=hp.SearchSpace({"method": ("rigl", "set", "rigl-erk", "mest", "snfs", "selfish-rnn-gates")}),
    n_candidates=6,
    rungs=(1, 2),
    keep=(3, 2),
    spectrum=hp.SpectrumConfig(warmup=2),
)
history = hp.hyperprune(plan, tempfile.mkdtemp())
for name in ("dense", "small", *dict.fromkeys(history.winners.values())):  # small: dense, with as many weights
    print(f"{name:<6}{history.finals[name].active:>7,} weights, test accuracy {history.finals[name].test_metric:.1f} %")

# For comparison: the dense network trained by a plain PyTorch loop, with the same optimizer and schedule.
import torch  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402


def plain_accuracy(seed):
    network, (x, y) = task.network(seed), task.splits.train
    optimizer, generator = torch.optim.AdamW(network.parameters(), lr=0.01), torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * task.steps(0, 0))
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=generator).split(task.batch):
            optimizer.zero_grad()
            cross_entropy(network(x[chosen]), y[chosen]).backward()
            optimizer.step()
            schedule.step()
    x, y = task.splits.test
    with torch.no_grad():
        return 100 * float((network(x).argmax(1) == y).float().mean())


print(f"plain {history.finals['dense'].active:>7,} weights, test accuracy {plain_accuracy(0):.1f} %")
