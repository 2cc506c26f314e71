"""Measure what it costs to leave out the Sparsifier's `total_steps`: test accuracy on scikit-learn's digits.

    python benchmarks/total_steps.py

A GRU of 64 units reads each image row by row; rigl-erk at 90 % sparsity updates its masks every 20 of 860 steps, Adam
with learning rate 0.01. The last 450 images are the test. Three seeds, on one thread. Prints a table and writes
benchmarks/results/total_steps.json.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from measuring import table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.sparsifier import Sparsifier

RESULTS = Path(__file__).parent / "results" / "total_steps.json"
EPOCHS, BATCH, TEST, SEEDS = 20, 32, 450, (0, 1, 2)


def digits() -> tuple[Tensor, Tensor]:
    """The images (N, rows, columns) from 0 to 1 and the labels (N,), shuffled."""
    data = load_digits()
    order = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.images, dtype=torch.float32)[order] / 16, torch.tensor(data.target)[order]


def accuracy(seed: int, images: Tensor, labels: Tensor, *, given: bool) -> float:
    """The test accuracy of a sparse network, trained with or without `total_steps`."""
    torch.manual_seed(seed)
    network = nn.ModuleDict({"rnn": nn.GRU(8, 64, batch_first=True), "out": nn.Linear(64, 10)})
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    count, order = len(images) - TEST, torch.Generator().manual_seed(seed)
    steps = EPOCHS * -(-count // BATCH) if given else None
    sparsifier = Sparsifier(
        network, optimizer, METHODS["rigl-erk"], sparsity=0.9, total_steps=steps, interval=20, seed=seed
    )

    def logits(chosen: Tensor) -> Tensor:
        scores: Tensor = network["out"](network["rnn"](images[chosen])[0][:, -1])
        return scores

    for _ in range(EPOCHS):
        for chosen in torch.randperm(count, generator=order).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(logits(chosen), labels[chosen]).backward()
            optimizer.step()
            sparsifier.step()
    test = torch.arange(count, len(images))
    with torch.no_grad():
        return float((logits(test).argmax(1) == labels[test]).double().mean())


def main() -> None:
    """Train, print the table, write the file."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "total_steps must be given")
    images, labels = digits()
    found = [{given: accuracy(seed, images, labels, given=given) for given in (True, False)} for seed in SEEDS]
    rows = {"with": [round(one[True], 3) for one in found], "without": [round(one[False], 3) for one in found]}
    numbered = zip(SEEDS, rows["with"], rows["without"], strict=True)
    table([{"seed": seed, "with total_steps": first, "without": second} for seed, first, second in numbered])
    RESULTS.write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
