"""Measure what a window of 35 steps tells of a trained network's Lyapunov spectrum, and draw how exponents settle.

    python benchmarks/convergence.py [FIGURE]

Trains a 2 x 64 LSTM on the letters of randomly ordered words (about ten seconds), takes its spectrum and those of its
magnitude-pruned copies over short and long windows, and prints the numbers that docs/theory.md quotes.
"""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from hyperpruning.lyapunov.distances import spectrum_distance
from hyperpruning.lyapunov.spectrum import Spectrum, lyapunov_spectrum

WARMUP, STEPS, LONG = 10, 35, 1000
SPARSITIES = (0.3, 0.6, 0.9)


def words(steps: int, batch: int, generator: torch.Generator) -> Tensor:
    """Return tokens (T, B) of a language of twenty words over twelve letters, in random order: all it has to learn."""
    lexicon = torch.randint(1, 12, (20, 5), generator=torch.Generator().manual_seed(1))
    lexicon[:, -1] = 0  # the blank
    return lexicon[torch.randint(20, (batch, steps // 5 + 1), generator=generator)].flatten(1)[:, :steps].T


def trained() -> tuple[nn.LSTM, nn.Embedding, float]:
    """Return a 2 x 64 LSTM that predicts the next letter, its embedding, and its last loss in nats."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network, embedding, decoder = nn.LSTM(64, 64, 2), nn.Embedding(12, 64), nn.Linear(64, 12)
    parameters = [*network.parameters(), *embedding.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    for _ in range(400):
        tokens = words(51, 16, generator)
        scores = decoder(network(embedding(tokens[:-1]))[0])
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), tokens[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network, embedding, loss.item()


def pruned(network: nn.LSTM, sparsity: float) -> nn.LSTM:
    """Return a copy without its smallest weights, each matrix for itself."""
    copy = deepcopy(network)
    with torch.no_grad():
        for name, weight in copy.named_parameters():
            if "weight" in name:
                weight[weight.abs() <= weight.abs().flatten().kthvalue(int(sparsity * weight.numel())).values] = 0
    return copy


def main(figure: Path | None) -> None:
    """Train, measure, print and draw."""
    torch.set_num_threads(1)
    network, embedding, loss = trained()
    long = embedding(words(WARMUP + LONG, 8, torch.Generator().manual_seed(2))).detach()
    windows = {"first": long[: WARMUP + STEPS], "later": long[500 : 500 + WARMUP + STEPS], "long": long}
    dense = {name: lyapunov_spectrum(network, inputs, segments=LONG) for name, inputs in windows.items()}
    print(f"trained to a loss of {loss:.3f} nats")
    for state in ("h", "full"):
        spectrum = lyapunov_spectrum(network, long, state=state)
        print(f"state {state}: largest exponent {spectrum.exponents.max():.3f}, lowest {spectrum.exponents.min():.2f}")
    exact = [lyapunov_spectrum(network, long, segments=parts, dtype=torch.float64).exponents for parts in (1, LONG)]
    gap = (exact[0] - exact[1]).abs().max()
    print(f"{LONG} steps in float64, measured at the end alone against at every step: {gap:.1e}")
    for name, segments in (("first", 1), ("long", 8)):
        error = lyapunov_spectrum(network, windows[name], segments=segments).standard_error()
        print(f"L2 of the standard errors, 8 sequences of {dense[name].steps} steps: {error.norm():.2f}")
    print(f"L2 from {STEPS} to {LONG} steps: {spectrum_distance(dense['first'], dense['long']):.2f}")
    print(f"L2 from {STEPS} to {STEPS} later steps: {spectrum_distance(dense['first'], dense['later']):.2f}")
    sparse = {
        sparsity: {
            name: lyapunov_spectrum(pruned(network, sparsity), inputs, segments=LONG)
            for name, inputs in windows.items()
        }
        for sparsity in SPARSITIES
    }
    for sparsity, spectra in sparse.items():
        same, long_run = (spectrum_distance(spectra[name], dense[name]) for name in ("first", "long"))
        other = spectrum_distance(spectra["first"], dense["later"])
        print(f"L2 to sparsity {sparsity}: same window {same:.2f}, another {other:.2f}, {LONG} steps {long_run:.2f}")
    if figure:
        draw(dense["long"], {sparsity: spectra["long"] for sparsity, spectra in sparse.items()}, figure)


def draw(dense: Spectrum, sparse: dict[float, Spectrum], figure: Path) -> None:
    """Draw exponents and distances against the length of the window."""
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    steps = range(1, dense.steps + 1)
    left.semilogx(steps, dense.convergence()[:, ::9], linewidth=0.8)
    left.set(title="every ninth exponent of the dense network", ylabel="nats per step")
    for sparsity, spectrum in sparse.items():
        gaps = zip(spectrum.convergence(), dense.convergence(), strict=True)
        right.semilogx(steps, [float(spectrum_distance(*gap)) for gap in gaps], label=f"sparsity {sparsity}")
    right.set(title="L2 distance to the dense network, same window")
    right.legend(frameon=False, loc=(0.55, 0.55))
    for axis in (left, right):
        axis.axvline(STEPS, color="grey", linewidth=0.7, linestyle=":")
        axis.set_xlabel("measured steps T")
    plt.tight_layout()
    plt.savefig(figure, dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
