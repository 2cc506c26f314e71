"""Training steps, dense and sparse, against the plain PyTorch loop with the plain modules that they replace.

    python benchmarks/training.py                      # small networks, one core: a few minutes
    python benchmarks/training.py --paper              # the published sizes: memory of some GiB, best on a GPU
    python benchmarks/training.py --device cuda --precision tf32 --paper --json FILE

A step is forward, backward, clipping, SGD and, where sparse, masking (mask updates, a few an epoch, are timed in
benchmarks/sparsity.py). Ours is `train_batches`; the plain loop is what one writes by hand with `nn.Embedding`,
`nn.LSTM`, `nn.Linear` and `torch.optim.SGD`; the plain RHN and mixture of softmaxes are the modules as their equations
stand. Both take their batches from the CPU, look at the loss at the end of a turn, and leave torch's recurrent layers
out of bf16. Ours, dense and sparse, and the plain loop take turns; the best of
a few is taken, by CPU time on the CPU and by the clock on a GPU. Prints tokens a second, ours over the plain loop, and
the operations of a step that compute something, views and allocations left out: each is a kernel or more on a GPU,
where a recurrent step is often shorter than the launch of its kernels.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from measuring import best, table
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.tasks.language_modelling import LanguageModelling
from hyperpruning.training.config import PRECISIONS, TrainConfig
from hyperpruning.training.device import forward_precision, matmul_precision, threads
from hyperpruning.training.epochs import train_batches
from hyperpruning.training.state import Training

STEPS, BATCH, REPETITIONS, COUNT = 35, 20, 5, 4  # tokens, columns, turns, steps in a turn
SMALL: dict[str, dict[str, Any]] = {
    "LSTM 2 x 200": {"embedding": 200, "hidden": 200, "dropout": 0.2, "words": 10_000},
    "RHN 200 x 5": {"cell": "rhn", "embedding": 200, "hidden": 200, "layers": 1, "depth": 5, "words": 2000},
    "LSTM 200, MoS 5": {"embedding": 100, "hidden": 200, "layers": 1, "experts": 5, "words": 2000},
}
PAPER: dict[str, dict[str, Any]] = {
    "LSTM 2 x 1500": {"embedding": 1500, "hidden": 1500, "dropout": 0.65, "words": 10_000},
    "RHN 830 x 10": {"cell": "rhn", "embedding": 830, "hidden": 830, "layers": 1, "depth": 10, "words": 10_000},
    "LSTM 960, MoS 15": {"embedding": 280, "hidden": 960, "layers": 1, "experts": 15, "words": 10_000},
}


class PlainHighway(nn.Module):
    """A recurrent highway layer as its equations stand: a Linear for each gate of each micro-step."""

    def __init__(self, size: int, depth: int) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(2))
        self.states = nn.ModuleList(nn.ModuleList(nn.Linear(size, size) for _ in range(2)) for _ in range(depth))

    def forward(self, input: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the state after every step (T, B, H), and the last."""
        state, outputs = input.new_zeros(input.shape[1:]) if state is None else state, []
        for x in input:
            for depth, gates in enumerate(self.states):
                h, t = (gate(state) for gate in gates)
                if depth == 0:
                    h, t = h + self.inputs[0](x), t + self.inputs[1](x)
                state = torch.tanh(h) * torch.sigmoid(t) + state * (1 - torch.sigmoid(t))
            outputs.append(state)
        return torch.stack(outputs), state


class PlainMixture(nn.Module):
    """The mixture of softmaxes with all K x V probabilities at once."""

    def __init__(self, hidden: int, size: int, words: int, experts: int) -> None:
        super().__init__()
        self.prior, self.latent = nn.Linear(hidden, experts, bias=False), nn.Linear(hidden, experts * size)
        self.decoder = nn.Linear(size, words)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return log-probabilities, (T, B, V)."""
        prior = torch.softmax(self.prior(hidden), -1)
        latent = torch.tanh(self.latent(hidden)).unflatten(-1, (prior.shape[-1], -1))
        softmaxes = torch.softmax(self.decoder(latent), -1)
        return torch.log((prior[..., None] * softmaxes).sum(-2) + 1e-8)


class Plain(nn.Module):
    """A language model from plain modules."""

    def __init__(
        self,
        words: int,
        *,
        embedding: int,
        hidden: int,
        cell: str = "lstm",
        layers: int = 2,
        depth: int = 1,
        dropout: float = 0.0,
        experts: int = 1,
    ) -> None:
        super().__init__()
        self.encoder, self.dropout = nn.Embedding(words, embedding), nn.Dropout(dropout)
        between = dropout if layers > 1 else 0.0
        self.rnn = PlainHighway(hidden, depth) if cell == "rhn" else nn.LSTM(embedding, hidden, layers, dropout=between)
        plain = experts == 1
        self.decoder = nn.Linear(hidden, words) if plain else PlainMixture(hidden, embedding, words, experts)

    def forward(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return logits (T, B, V) and the state."""
        embedded = self.dropout(self.encoder(tokens))
        fused = isinstance(
            self.rnn, nn.LSTM
        )  # cuDNN's would be in float16 under autocast: it stays outside, as ours do
        with torch.autocast(embedded.device.type, enabled=False) if fused else nullcontext():
            hidden, state = self.rnn(embedded, state)
        return self.decoder(self.dropout(hidden)), state


def plain_loop(model: Plain, config: TrainConfig, batches: list[tuple[Tensor, Tensor]]) -> Callable[[], float]:
    """A turn of the loop that one would write by hand: batches come from the CPU, and a GPU is not waited for."""
    optimizer, device = torch.optim.SGD(model.parameters(), lr=config.lr), model.encoder.weight.device

    def turn() -> float:
        state, total = None, torch.zeros((), device=device)
        for batch in batches:
            inputs, targets = (part.to(device, non_blocking=True) for part in batch)
            optimizer.zero_grad()
            with forward_precision(config):
                logits, state = model(inputs, state)
                loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            state = state.detach() if isinstance(state, Tensor) else tuple(part.detach() for part in state)
            total += loss.detach()
        return float(total) / len(batches)

    return turn


def turns(sizes: dict[str, Any], words: int, config: TrainConfig, folder: Path) -> Iterator[tuple[str, Any]]:
    """What takes turns: ours dense, ours sparse, the plain loop."""
    numbers = torch.randint(words, (BATCH * (STEPS * COUNT + 1),), generator=torch.Generator().manual_seed(0)).tolist()
    for split in ("train", "valid", "test"):
        every = " ".join(f"w{number}" for number in range(words))
        text = " ".join(f"w{number}" for number in numbers)
        (folder / f"{split}.txt").write_text(text if split == "train" else f"{every} {text}")
    task = LanguageModelling(folder=folder, unit="word", batch=BATCH, bptt=STEPS, **sizes)
    for name, method in (("dense", None), ("sparse", METHODS["set"])):
        training = Training(task, config, method, sparsity=0.67 if method else 0.0)
        batches = list(islice(task.batches(0, 0), COUNT))
        yield name, lambda training=training, batches=batches: train_batches(training, batches)
    model = Plain(len(task.corpus().vocabulary), **sizes).to(training.device)
    yield "plain", plain_loop(model, config, [step.parts[0] for step in batches])


class Computing(TorchDispatchMode):
    """Counts the operations within the block that compute something."""

    count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Count it unless it returns a view or fresh memory."""
        idle = any(part in operation.__name__ for part in ("empty", "detach", "local_scalar", "alias"))
        self.count += not (operation.is_view or idle)
        return operation(*args, **(kwargs or {}))


def operations(turn: Callable[[], object]) -> int:
    """Operations of a step that compute something."""
    with Computing() as computing:
        turn()
    return round(computing.count / COUNT)


def clock(config: TrainConfig) -> Callable[[], float]:
    """Processor time, or on a GPU the time of day once it has done all."""
    if config.device == "cpu":
        return time.process_time
    return lambda: (torch.cuda.synchronize(), time.perf_counter())[1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", action="store_true", help="the published sizes")
    parser.add_argument("--device", default="cpu", help='"cpu" or "cuda"')
    parser.add_argument("--precision", default="float32", choices=PRECISIONS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    # masks that are updated every 100 steps are not updated here
    config = TrainConfig(
        epochs=1000, lr=1.0, max_grad_norm=0.25, updates_per_epoch=0, device=options.device, precision=options.precision
    )
    rows = []
    for name, sizes in (PAPER if options.paper else SMALL).items():
        sizes = dict(sizes)
        words = sizes.pop("words")
        sizes.setdefault("dropout", 0.0)
        with threads(1), matmul_precision(config), tempfile.TemporaryDirectory() as folder:
            taking = dict(turns(sizes, words, config, Path(folder)))
            times = best(taking, REPETITIONS, clock(config))
            counts = {f"{kind}, operations": operations(turn) for kind, turn in taking.items()}
        speeds = {f"{kind}, tokens/s": STEPS * BATCH * COUNT / seconds for kind, seconds in times.items()}
        ratios = {f"{kind} / plain": times["plain"] / times[kind] for kind in ("dense", "sparse")}
        setting = {"network": name, "device": options.device, "precision": options.precision}
        rows.append(setting | speeds | ratios | counts)
        table(rows[-1:])
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
