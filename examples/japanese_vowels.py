"""Nine speakers are told apart by 7 to 29 steps of a vowel (JapaneseVowels, in the package aeon), and pruned."""

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import hyperpruning as hp

SMALL = "--small" in sys.argv
EPOCHS, HIDDEN = (3, 8) if SMALL else (30, 64)


def vowels(split):
    """Read the file in aeon's folder: sequences (T_i, 12) and speakers. (aeon itself, and numba, are not imported.)"""
    folder = Path(find_spec("aeon").origin).parent / "datasets" / "data" / "JapaneseVowels"
    lines = (folder / f"JapaneseVowels_{split}.ts").read_text().split("@data\n")[1].splitlines()
    parts = [line.split(":") for line in lines]
    return [np.array([series.split(",") for series in each[:-1]], float).T for each in parts], [p[-1] for p in parts]


def splits():
    """A fifth of the training utterances become the validation split."""
    sequences, speakers = vowels("TRAIN")
    order = np.random.default_rng(0).permutation(len(sequences))
    parts = {"train": order[54:], "valid": order[:54]}
    data = {name: ([sequences[i] for i in part], [speakers[i] for i in part]) for name, part in parts.items()}
    return data | {"test": vowels("TEST")}


def plain_accuracy(task, seed):
    """Return the test accuracy of the dense network after a plain loop with the same optimizer and schedule."""
    network, (x, y, lengths) = task.network(seed), task.splits.train
    optimizer, generator = torch.optim.AdamW(network.parameters(), lr=0.01), torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * task.steps(0, 0))
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(x), generator=generator).split(task.batch):
            optimizer.zero_grad()
            cross_entropy(network(x[chosen], lengths[chosen]), y[chosen]).backward()
            optimizer.step()
            schedule.step()
    x, y, lengths = task.splits.test
    with torch.no_grad():
        return 100 * float((network(x, lengths).argmax(1) == y).float().mean())


if __name__ == "__main__" and find_spec("aeon") is None:
    print("The data come with the package aeon, which is not installed: pip install --no-deps aeon")
elif __name__ == "__main__":
    torch.set_num_threads(1)  # faster for a small network
    task = hp.SequenceClassification(data=splits(), hidden=HIDDEN, batch=16)
    space = hp.SearchSpace({"method": ("rigl", "set", "rigl-erk", "mest", "snfs", "selfish-rnn-gates")})
    rounds = {"n_candidates": 6, "rungs": (1, 2), "keep": (3, 2), "spectrum": hp.SpectrumConfig(warmup=2)}
    train = hp.TrainConfig(epochs=EPOCHS, lr=0.01, schedule="cosine")
    plan = hp.Plan(task=task, dense_task=task, train=train, sparsity=0.9, space=space, **rounds)
    history = hp.hyperprune(plan, tempfile.mkdtemp())
    print(f"plain {history.finals['dense'].active:>7,} weights, test accuracy {plain_accuracy(task, 0):.1f} %")
    for name in ("dense", "small", *dict.fromkeys(history.winners.values())):  # small: dense, with as many weights
        final, config = history.finals[name], history.candidates[name].config if name in history.candidates else {}
        print(f"{name:<6}{final.active:>7,} weights, test accuracy {final.test_metric:.1f} %", config.get("method", ""))
