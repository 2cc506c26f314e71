"""What blocks of 8 x 4 cost: the metric of block_8x4 against single weights at equal sparsity.

    python benchmarks/blocks.py

Two tasks, gradual pruning (gmp: dense, then along a cubic schedule to its density at 3/4 of the training), 80 and 90 %
sparsity, three seeds, the dense network beside them, on one thread:

- digits: a GRU of 64 units reads scikit-learn's images row by row; 20 epochs, Adam at 0.01. Test error in percent, of
  the last 450 images.
- text: an LSTM of 64 units on a fifth of the built-in text, character by character; 8 epochs, Adam at 0.005. Test
  perplexity after the last epoch.

Every network is written to benchmarks/results/blocks.json as soon as it is trained; a run that is stopped goes on from
there. Prints the table in Markdown.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from total_steps import TEST, digits

from hyperpruning.data.batches import batchify, bptt_windows
from hyperpruning.data.corpus import builtin_text, first_fraction
from hyperpruning.files import write_atomic
from hyperpruning.models.language_model import LanguageModel
from hyperpruning.sparsity.serialization import from_config
from hyperpruning.sparsity.sparsifier import Sparsifier

RESULTS = Path(__file__).parent / "results" / "blocks.json"
SEEDS, SPARSITIES, GRANULARITIES = (0, 1, 2), (0.8, 0.9), ("weight", "block_8x4")
HIDDEN, BATCH, BPTT = 64, 32, 35
EPOCHS = {"digits": 20, "text": 8}


def sparsifier_of(
    network: nn.Module, optimizer: torch.optim.Optimizer, granularity: str, sparsity: float, steps: int, seed: int
) -> Sparsifier | None:
    """Gradual pruning of this granularity; None for the dense network."""
    if granularity == "dense":
        return None
    method = from_config({"method": "gmp", "granularity": granularity})
    return Sparsifier(network, optimizer, method, sparsity=sparsity, total_steps=steps, interval=20, seed=seed)


def digits_error(granularity: str, sparsity: float, seed: int, epochs: int) -> tuple[float, float]:
    """The test error in percent, and the sparsity that was reached."""
    images, labels = digits()
    torch.manual_seed(seed)
    network = nn.ModuleDict({"rnn": nn.GRU(8, HIDDEN, batch_first=True), "out": nn.Linear(HIDDEN, 10)})
    optimizer, order = torch.optim.Adam(network.parameters(), lr=0.01), torch.Generator().manual_seed(seed)
    count = len(images) - TEST
    sparsifier = sparsifier_of(network, optimizer, granularity, sparsity, epochs * -(-count // BATCH), seed)

    def logits(chosen: Tensor) -> Tensor:
        scores: Tensor = network["out"](network["rnn"](images[chosen])[0][:, -1])
        return scores

    for _ in range(epochs):
        for chosen in torch.randperm(count, generator=order).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(logits(chosen), labels[chosen]).backward()
            optimizer.step()
            if sparsifier is not None:
                sparsifier.step()
    test = torch.arange(count, len(images))
    with torch.no_grad():
        right = float((logits(test).argmax(1) == labels[test]).double().mean())
    return 100 * (1 - right), _reached(sparsifier)


def text_perplexity(granularity: str, sparsity: float, seed: int, epochs: int) -> tuple[float, float]:
    """The test perplexity, and the sparsity that was reached."""
    corpus = first_fraction(builtin_text(), 0.2)
    network = LanguageModel(len(corpus.vocabulary), embedding=HIDDEN, hidden=HIDDEN, layers=1, seed=seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.005)
    train, test = batchify(corpus.train, BATCH), batchify(corpus.test, BATCH)
    steps = epochs * -(-(len(train) - 1) // BPTT)
    sparsifier = sparsifier_of(network, optimizer, granularity, sparsity, steps, seed)
    for _ in range(epochs):
        state = None
        for inputs, targets in bptt_windows(train, BPTT):
            optimizer.zero_grad()
            scores, state = network(inputs, state)
            state = tuple(one.detach() for one in state)
            cross_entropy(scores.flatten(0, 1), targets.flatten()).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.25)
            optimizer.step()
            if sparsifier is not None:
                sparsifier.step()
    with torch.no_grad():
        scores, _ = network.eval()(test[:-1])
        loss = float(cross_entropy(scores.flatten(0, 1), test[1:].flatten()))
    return math.exp(loss), _reached(sparsifier)


def _reached(sparsifier: Sparsifier | None) -> float:
    if sparsifier is None:
        return 0.0
    sparsifier.warn_if_unfinished()
    return sparsifier.sparsity


TASKS: dict[str, Callable[[str, float, int, int], tuple[float, float]]] = {
    "digits": digits_error,
    "text": text_perplexity,
}


def measure(path: Path, seeds: tuple[int, ...], epochs: dict[str, int]) -> dict[str, list[float]]:
    """Train what the file lacks: "task granularity sparsity seed" -> its metric and its sparsity."""
    found: dict[str, list[float]] = json.loads(path.read_text()) if path.exists() else {}
    variants = [("dense", 0.0), *((kind, sparsity) for sparsity in SPARSITIES for kind in GRANULARITIES)]
    for seed in seeds:
        for task, run in TASKS.items():
            for granularity, sparsity in variants:
                name = f"{task} {granularity} {sparsity} {seed}"
                if name not in found:
                    found[name] = [round(value, 4) for value in run(granularity, sparsity, seed, epochs[task])]
                    write_atomic(path, (json.dumps(found, indent=1) + "\n").encode())
    return found


def markdown(found: dict[str, list[float]], seeds: tuple[int, ...]) -> str:
    """The table: mean and standard deviation over the seeds."""
    lines = [
        "| task | sparsity | dense | single weights | blocks 8 x 4 | reached by blocks |",
        "|---|---|---|---|---|---|",
    ]
    for task, what in (("digits", "digits, test error %"), ("text", "text, test perplexity")):
        for sparsity in SPARSITIES:
            cells = [_cell([found[f"{task} dense 0.0 {seed}"][0] for seed in seeds])]
            for kind in GRANULARITIES:
                cells.append(_cell([found[f"{task} {kind} {sparsity} {seed}"][0] for seed in seeds]))
            reached = statistics.mean(found[f"{task} block_8x4 {sparsity} {seed}"][1] for seed in seeds)
            lines.append(f"| {what} | {sparsity:.0%} | {' | '.join(cells)} | {reached:.1%} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {spread:.2f}"


def main() -> None:
    """Train, write the file, print the table."""
    torch.set_num_threads(1)
    print(markdown(measure(RESULTS, SEEDS, EPOCHS), SEEDS))


if __name__ == "__main__":
    main()
