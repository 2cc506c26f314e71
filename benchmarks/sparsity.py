"""Measure the pruning engine (masked steps, updates, memory, exactness), optionally beside the published engine.

    python benchmarks/sparsity.py [--reference DIR] [--hidden 1500] [--small 64] [--steps 3] [--json FILE]

DIR is a checkout of the published code (github FATE4869/hyperpruning), which is imported and measured. Setup: one
thread, float32, a 2-layer LSTM language model of equal widths, batch 20, 35 steps, SGD with clipping. The values of one
row are measured alternately in one run; the best of the repetitions counts.

Tables: (1) the time of a training step without masks, and of masking; (2) the time of a full update of the masks in
seconds, and how many times longer the published engine takes; (3) the bytes that a Sparsifier keeps per weight; (4) the
deviation of the number of active weights from the target, in % of it, over 14 updates of a 2 x 120 LSTM.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import math
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from measuring import best, table
from torch import Tensor, nn

from hyperpruning.models.language_model import LanguageModel
from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import from_config
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.training.snt_asgd import SNTASGD

DENSITY, BATCH, BPTT = 0.33, 20, 35
# the published engine's name of a drop rule -> our config
DROP_CONFIGS = {
    "magnitude": {},
    "SET": {"drop_scope": "sign"},
    "threshold": {"drop_scope": "global"},
    "global_magnitude": {"drop_scope": "global"},
}
ROWS = [
    *(("uniform", drop, share, "random") for drop in DROP_CONFIGS for share in ("none", "magnitude", "nonzeros")),
    ("ER", "magnitude", "none", "random"),
    ("uniform", "magnitude", "none", "gradient"),
]


def network(hidden: int, vocabulary: int, dropout: float = 0.0) -> LanguageModel:
    """Return a language model whose decoder is not tied."""
    return LanguageModel(vocabulary, embedding=hidden, hidden=hidden, dropout=dropout, embedding_std=0.06)


def train_step(model: LanguageModel, optimizer: torch.optim.Optimizer, tokens: Tensor) -> None:
    """Make one training step; tokens (T + 1, B)."""
    optimizer.zero_grad()
    logits, _ = model(tokens[:-1])
    nn.functional.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten()).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    optimizer.step()


def overhead(hidden: int, vocabulary: int, averaging: bool, repetitions: int) -> dict[str, Any]:
    """Measure what masking adds to a training step."""
    torch.manual_seed(0)
    model = network(hidden, vocabulary)
    optimizer = SNTASGD(model.parameters(), lr=1.0)
    sparsifier = Sparsifier(model, optimizer, METHODS["static"], sparsity=1 - DENSITY)
    if averaging:
        optimizer.start_averaging()
    tokens = torch.randint(vocabulary, (BPTT + 1, BATCH))
    jobs = {"step s": lambda: train_step(model, optimizer, tokens), "masking s": sparsifier.step}
    times = best(jobs, repetitions)
    return {
        "H": hidden,
        "V": vocabulary,
        "averages": str(averaging),
        "weights": sum(mask.numel() for mask in sparsifier.masks.values()),
        **times,
        "overhead %": 100 * times["masking s"] / times["step s"],
    }


class Published:
    """The published engine on the CPU without prints, called as in its own script."""

    def __init__(self, folder: Path) -> None:
        sys.path.append(str(folder / "sources" if (folder / "sources").is_dir() else folder))
        warnings.simplefilter("ignore")  # of its byte masks
        self.core = importlib.import_module("sparse_rnn_core")

    def mask(self, model: nn.Module, row: tuple[str, str, str, str], *, fraction: float, steps: int) -> Any:
        """Return its engine with its first masks."""
        start, drop, share, grow = row
        optimizer = torch.optim.SGD(model.parameters(), lr=20.0)
        with self.silent():
            mask = self.core.Masking(
                optimizer,
                death_rate=fraction,
                death_mode=drop,
                growth_mode=grow,
                redistribution_mode=share,
                death_rate_decay=self.core.CosineDecay(fraction, steps),
                model="LSTM",
                args=SimpleNamespace(fix=False, verbose=False),
            )
            mask.add_module(model, density=DENSITY, sparse_init=start)
        return mask

    @staticmethod
    @contextlib.contextmanager
    def silent() -> Any:
        """Suppress its prints, and keep its tensors on the CPU."""
        cuda = Tensor.cuda
        Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        finally:
            Tensor.cuda = cuda  # type: ignore[method-assign]


def method_of(row: tuple[str, str, str, str], fraction: float) -> Method:
    """Return our method for a row of settings of the published engine."""
    start, drop, share, grow = row
    numbers = {"drop_fraction": fraction, "floor": 0.0, "ceiling": 1.0}
    parts = {"allocation": start.lower(), "redistribute": share, "grow": grow}
    return from_config(DROP_CONFIGS[drop] | parts | numbers)


def update_row(row: tuple[str, str, str, str], hidden: int, vocabulary: int, published: Published | None) -> Any:
    """Measure a full update of the masks by our engine and by the published one."""
    torch.manual_seed(0)
    tokens = torch.randint(vocabulary, (BPTT + 1, BATCH))
    result: dict[str, Any] = {"drop": row[1], "redistribute": row[2], "grow": row[3]}
    ours = network(hidden, vocabulary)
    optimizer = torch.optim.SGD(ours.parameters(), lr=1.0)
    sparsifier = Sparsifier(ours, optimizer, method_of(row, 0.5), sparsity=1 - DENSITY, interval=1)
    train_step(ours, optimizer, tokens)
    sparsifier.when = lambda step: False
    masking = best({"masking": sparsifier.step}, 2)["masking"]
    sparsifier.when = lambda step: True
    result["ours s"] = best({"ours": sparsifier.step}, 3)["ours"] - masking
    if published is not None:
        model = network(hidden, vocabulary)
        mask = published.mask(model, row, fraction=0.5, steps=10**6)
        train_step(model, mask.optimizer, tokens)

        def update() -> None:
            with published.silent():
                mask.apply_mask()
                mask.at_end_of_epoch(1)

        try:
            result["published s"] = best({"published": update}, 1 if hidden > 500 else 2)["published"]
            result["ratio"] = result["published s"] / result["ours s"]
        except (RuntimeError, IndexError) as error:
            result["published s"] = type(error).__name__
    return result


def memory() -> list[dict[str, Any]]:
    """Return the bytes that a Sparsifier keeps per weight, after some updates."""
    rows = []
    for name in ("static", "rigl", "snfs", "imp", "iss-p"):
        model = network(48, 200)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        sparsifier = Sparsifier(model, optimizer, METHODS[name], sparsity=1 - DENSITY, interval=2, total_steps=20)
        for _ in range(6):
            train_step(model, optimizer, torch.randint(200, (BPTT + 1, BATCH)))
            sparsifier.step()
        masking = sparsifier._masking
        parts = {
            "masks": masking.masks.values(),
            "ever": masking.ever_active_masks.values(),
            "factors": masking._factors.values(),
            "buffers": sparsifier._buffers.values(),
        }
        weights = sum(mask.numel() for mask in masking.masks.values())
        found = {key: sum(one.nbytes for one in tensors) / weights for key, tensors in parts.items()}
        rows.append({"method": name, **found, "bytes a weight": sum(found.values())})
    return rows


def text(vocabulary: int) -> Tensor:
    """Return a stream of tokens with some structure, (T, B)."""
    generator = torch.Generator().manual_seed(0)
    follows = torch.randint(vocabulary, (vocabulary, 4), generator=generator)
    tokens = [torch.randint(vocabulary, (BATCH,), generator=generator)]
    for _ in range(14 * 10 * BPTT + BPTT):
        tokens.append(follows[tokens[-1], torch.randint(4, (BATCH,), generator=generator)])
    return torch.stack(tokens)


def exactness_row(row: tuple[str, str, str, str], published: Published | None, *, hidden: int, updates: int) -> Any:
    """Count active weights over some updates, one every ten steps, in our engine and in the published one."""
    stream, vocabulary, every = text(800), 800, 10
    spans = [stream[i * BPTT : (i + 1) * BPTT + 1] for i in range(every * updates)]
    result: dict[str, Any] = dict(zip(("start", "drop", "redistribute", "grow"), row, strict=True))
    torch.manual_seed(0)
    ours = network(hidden, vocabulary)
    optimizer = torch.optim.SGD(ours.parameters(), lr=20.0)
    steps = every * updates + 1
    sparsifier = Sparsifier(
        ours, optimizer, method_of(row, 0.7), sparsity=1 - DENSITY, total_steps=steps, interval=every
    )
    target = round(DENSITY * sum(mask.numel() for mask in sparsifier.masks.values()))
    found = []
    for span in spans:
        train_step(ours, optimizer, span)
        if sparsifier.step() is not None:
            found.append(sum(int(parameter.count_nonzero()) for parameter in sparsifier.masks.values()))
    result["ours"] = deviation(found, target)
    if published is not None:
        result["published"] = _published_exactness(row, published, spans, hidden=hidden, target=target)
    return result


def _published_exactness(
    row: tuple[str, str, str, str], published: Published, spans: list[Tensor], *, hidden: int, target: int
) -> str:
    torch.manual_seed(0)
    model = network(hidden, 800)
    mask = published.mask(model, row, fraction=0.7, steps=len(spans))
    found = []
    for step, span in enumerate(spans, 1):
        train_step(model, SimpleNamespace(zero_grad=model.zero_grad, step=mask.step), span)  # type: ignore[arg-type]
        if step % 10 == 0:
            try:
                with published.silent():
                    mask.at_end_of_epoch(step)
            except (RuntimeError, IndexError) as error:
                return f"{deviation(found, target)}, then {type(error).__name__}"
            found.append(sum(int(one.sum()) for one in mask.masks.values()))
    return deviation(found, target)


def deviation(counts: list[int], target: int) -> str:
    """Return the range of deviations in % of the target, as text."""
    off = [100 * (count - target) / target for count in counts] or [math.nan]
    return "0" if counts and set(counts) == {target} else f"{min(off):+.2f}..{max(off):+.2f}"


def main() -> None:
    """Print the tables, and write the JSON file if one is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, help="checkout of the published code")
    parser.add_argument("--hidden", type=int, default=1500, help="of the large network, vocabulary 10,000")
    parser.add_argument("--small", type=int, default=64, help="of the small one, vocabulary 100")
    parser.add_argument("--steps", type=int, default=3, help="repetitions of the large network's training step")
    parser.add_argument("--toy", type=int, default=120, help="width of the network whose active weights are counted")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    published = Published(arguments.reference) if arguments.reference else None
    large, results = (arguments.hidden, 10_000), {}
    results["overhead"] = [
        overhead(*size, averaging, arguments.steps if size == large else 60)
        for size in ((arguments.small, 100), large)
        for averaging in (False, True)
    ]
    table(results["overhead"])
    timed = [row for row in ROWS if row[2] == "none" or row[1] == "global_magnitude"]
    results["updates"] = [update_row(row, *large, published) for row in timed if row[0] == "uniform"]
    table(results["updates"])
    results["memory"] = memory()
    table(results["memory"])
    results["budget"] = [exactness_row(row, published, hidden=arguments.toy, updates=14) for row in ROWS]
    table(results["budget"])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
