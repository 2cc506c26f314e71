"""One training step of the models against the straightforward modules that they replace.

    python benchmarks/networks.py            # a minute on one core
    python benchmarks/networks.py --paper    # RHN 830 x 10; MoS with 15 experts, 10,000 words: some minutes, 2 GiB

Prints a table: milliseconds of a forward and backward pass, the best of a few, by CPU time. With --json FILE it is
written too.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import best, table
from torch import Tensor, nn
from torch.nn import functional

from hyperpruning.models.language_model import LanguageModel
from hyperpruning.models.rhn import RHNLayer
from hyperpruning.models.softmaxes import MixtureOfSoftmaxes

STEPS, BATCH, REPETITIONS = 35, 20, 7


class PlainHighway(nn.Module):
    """A recurrent highway layer as its equations stand: a Linear for each gate of each micro-step."""

    def __init__(self, size: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.inputs = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(2))
        self.states = nn.ModuleList(nn.ModuleList(nn.Linear(size, size) for _ in range(2)) for _ in range(depth))

    def forward(self, input: Tensor) -> Tensor:
        """Return the state after every step, (T, B, H)."""
        state = input.new_zeros(input.shape[1:])
        mask, outputs = functional.dropout(torch.ones_like(state), self.dropout), []
        for x in input:
            for depth, gates in enumerate(self.states):
                h, t = (gate(state * mask) for gate in gates)
                if depth == 0:
                    h, t = h + self.inputs[0](x), t + self.inputs[1](x)
                state = torch.tanh(h) * torch.sigmoid(t) + state * (1 - torch.sigmoid(t))
            outputs.append(state)
        return torch.stack(outputs)


def plain_mixture(head: MixtureOfSoftmaxes, hidden: Tensor) -> Tensor:
    """The mixture of softmaxes with all K x V probabilities at once."""
    prior = torch.softmax(head.prior(hidden), -1)
    latent = torch.tanh(head.latent(hidden)).unflatten(-1, (prior.shape[-1], -1))
    softmaxes = torch.softmax(functional.linear(latent, head.weight, head.bias), -1)
    return torch.log((prior[..., None] * softmaxes).sum(-2) + 1e-8)


class PlainLSTM(nn.Module):
    """A language model from torch's modules."""

    def __init__(self, vocabulary: int, size: int) -> None:
        super().__init__()
        self.encoder, self.rnn = nn.Embedding(vocabulary, size), nn.LSTM(size, size, 2, dropout=0.2)
        self.dropout, self.decoder = nn.Dropout(0.2), nn.Linear(size, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits, (T, B, V)."""
        return self.decoder(self.dropout(self.rnn(self.dropout(self.encoder(tokens)))[0]))


def trained(forward: Callable[[], Tensor]) -> Callable[[], None]:
    """The job of a forward and backward pass."""
    return lambda: forward().square().mean().backward()


def pairs(paper: bool) -> dict[str, dict[str, Callable[[], Tensor]]]:
    """What is compared: ours and the plain module, by name."""
    size, depth = (830, 10) if paper else (200, 5)
    highway, plain = RHNLayer(size, size, depth=depth, dropout=0.25), PlainHighway(size, depth, 0.25)
    inputs = torch.randn(STEPS, BATCH, size)
    width, latent, words, experts = (620, 280, 10_000, 15) if paper else (200, 100, 2000, 5)
    head, hidden = MixtureOfSoftmaxes(width, latent, words, experts=experts), torch.randn(STEPS, BATCH, width)
    ours, theirs = LanguageModel(10_000, embedding=200, hidden=200, dropout=0.2), PlainLSTM(10_000, 200)
    tokens = torch.randint(10_000, (STEPS, BATCH))
    return {
        "LSTM 2 x 200": {"ours": lambda: ours(tokens)[0], "plain": lambda: theirs(tokens)},
        f"RHN {size} x {depth}": {"ours": lambda: highway(inputs)[0], "plain": lambda: plain(inputs)},
        f"MoS {experts} x {words}": {"ours": lambda: head(hidden), "plain": lambda: plain_mixture(head, hidden)},
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", action="store_true", help="the published sizes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name, jobs in pairs(arguments.paper).items():
        times = best({kind: trained(forward) for kind, forward in jobs.items()}, REPETITIONS)
        spent = {f"{kind} ms": 1000 * seconds for kind, seconds in times.items()}
        rows.append({"network": name} | spent | {"ratio": times["plain"] / times["ours"]})
    table(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
