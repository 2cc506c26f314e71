"""A small training with a pruning method, and the invariants that hold after every step of it."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from hyperpruning.kernels import run_fused_rnn
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.sparsity.updates import Update
from hyperpruning.testing.comparison import bits, require
from hyperpruning.training.snt_asgd import SNTASGD


def _averaging(parameters: Iterable[nn.Parameter]) -> Optimizer:
    optimizer = SNTASGD(parameters, lr=0.1)
    optimizer.start_averaging()
    return optimizer


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.1),
    "momentum": lambda parameters: SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4),
    "adam": lambda parameters: Adam(parameters, lr=0.01),
    "adamw": lambda parameters: AdamW(parameters, lr=0.01),
    "snt_asgd": _averaging,
}


class Recurrent(nn.Module):
    """Embedding, LSTM with weight dropout, tied decoder: the shape of a language model."""

    gates: ClassVar[Mapping[str, int]] = MappingProxyType({"lstm.weight_ih_l0": 4, "raw": 4})

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(24, 8)
        self.lstm = nn.LSTM(8, 8)
        self.raw = nn.Parameter(torch.as_tensor(self.lstm.weight_hh_l0).detach().clone())
        del self.lstm.weight_hh_l0  # as weight dropout does: the layer gets it anew in every step
        self.decoder = nn.Linear(8, 24)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (T, B) -> (T, B, V)."""
        dropped = self.raw * (torch.arange(8, device=self.raw.device) != tokens[0, 0] % 8)
        names = ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0")
        weight_ih, bias_ih, bias_hh = (getattr(self.lstm, name) for name in names)
        state = self.embedding.weight.new_zeros(2, 1, tokens.shape[1], 8)
        flat = [weight_ih, dropped, bias_ih, bias_hh]
        found = run_fused_rnn(torch.lstm, self.embedding(tokens), tuple(state), flat, train=True)
        decoded: Tensor = self.decoder(found[0])
        return decoded

    def batch(self, source: Generator) -> Tensor:
        """Tokens (4, 3); most words are never seen."""
        return torch.randint(9, (4, 3), generator=source).to(self.raw.device)


class Convolutional(nn.Module):
    """Convolution and linear layer."""

    gates: ClassVar[Mapping[str, int]] = MappingProxyType({"conv.weight": 2, "linear.weight": 2})

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.linear = nn.Linear(32, 8)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 4, 4, 4) -> (B, 8)."""
        linear: Tensor = self.linear(self.conv(images).tanh().flatten(1))
        return linear

    def batch(self, source: Generator) -> Tensor:
        """Images (3, 4, 4, 4)."""
        return torch.randn(3, 4, 4, 4, generator=source).to(self.linear.weight)


class Run:
    """A small training that can be cut in two; it draws its first weights from torch's global generator.

    Args:
        method: how to prune; N:M methods have a sparsity of their own.
        network: `Recurrent` or `Convolutional`.
        optimizer: a key of `OPTIMIZERS`.
        dtype, device: of the network.
        seed: of the Sparsifier.
        sparsity: fraction of zero weights.
        steps: of the whole training.
        interval: steps between two updates.
    """

    def __init__(
        self,
        method: Method,
        *,
        network: type[Recurrent] | type[Convolutional] = Recurrent,
        optimizer: str = "sgd",
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        seed: int = 0,
        sparsity: float = 0.8,
        steps: int = 60,
        interval: int = 2,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(3)
            self.network = network().to(device, dtype)
        self.optimizer = OPTIMIZERS[optimizer](self.network.parameters())
        of = method.granularity.of
        self.sparsity = 1 - method.granularity.keep / of if of else sparsity
        self.sparsifier = Sparsifier(
            self.network,
            self.optimizer,
            method,
            sparsity=self.sparsity,
            total_steps=steps,
            interval=interval,
            row_groups=self.network.gates,
            calibration=lambda: self.loss(1000),
            seed=seed,
        )
        self.parts: tuple[Any, ...] = (self.network, self.optimizer, self.sparsifier)
        self.size = sum(mask.numel() for mask in self.sparsifier.masks.values())
        self.density = self.scheduled_density(0)

    def scheduled_density(self, step: int) -> float:
        """The density that the schedule asks for, by its definition."""
        method, end, steps = self.sparsifier.method, 1 - self.sparsity, self.sparsifier.weight_budget.total_steps
        assert steps is not None
        begin, until = method.density_from * steps, method.density_until * steps
        progress = min(1.0, max(0.0, (step - begin) / (until - begin)))
        return method.density(progress, max(end, method.density_start), end)

    def loss(self, step: int) -> Tensor:
        """The loss of a step's batch."""
        loss: Tensor = self.network(self.network.batch(Generator().manual_seed(step))).square().mean()
        return loss

    def train(self, steps: Iterable[int]) -> Iterator[Update | None]:
        """Train on some steps; the update of the masks after each."""
        for step in steps:
            self.optimizer.zero_grad()
            self.loss(step).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            yield self.sparsifier.step()

    def saved(self) -> bytes:
        """The state of network, optimizer and Sparsifier, as a file."""
        file = io.BytesIO()
        torch.save([part.state_dict() for part in self.parts], file)
        return file.getvalue()

    def bits(self) -> Any:
        """The same, to compare it bit for bit."""
        return bits([part.state_dict() for part in self.parts])

    def load(self, saved: bytes) -> Run:
        """Continue from what `saved` returned."""
        for part, state in zip(self.parts, torch.load(io.BytesIO(saved), weights_only=True), strict=True):
            part.load_state_dict(state)
        return self

    def counts(self) -> dict[str, int]:
        """The number of active weights of each tensor."""
        return {name: int(mask.sum()) for name, mask in self.sparsifier.masks.items()}


def check_updates(run: Run, steps: int) -> int:
    """Train, and check the invariants after every step; return how many updates changed something."""
    counts, changes = run.counts(), 0
    for step, update in enumerate(run.train(range(steps)), start=1):
        counts = _check_step(run, counts, update, f"after step {step}")
        changes += update is not None and sum(update.dropped.values()) > 0
    return changes


def _check_step(run: Run, before: dict[str, int], update: Update | None, when: str) -> dict[str, int]:
    """Check the invariants after one step; return the counts."""
    counts = run.counts()
    if update is not None:
        run.density = run.scheduled_density(update.step)
    _check_budget(run, sum(counts.values()), when)
    for name in counts:
        _check_tensor(run, name, when)
    if update is None:
        require(
            counts == before,
            f"Active weights of a tensor must change in an update only, got {before} and then {counts} {when}. Do not "
            "write to the masks.",
        )
    else:
        _check_report(run, before, counts, update, when)
    return counts


def _check_budget(run: Run, active: int, when: str) -> None:
    sparsifier, expected = run.sparsifier, run.density * run.size
    budget = sparsifier.weight_budget
    unit = max(math.prod(shape) for shape in budget.block_shapes.values())
    most = active
    if any(grid.partial for grid in budget.grids.values()):  # their number is exact, and the weights are at most that
        most = budget.cost({name: budget.grids[name].most_weights(n) for name, n in sparsifier.active_blocks.items()})
    exact = round(expected) if unit == 1 else most if sparsifier.method.scheduled else budget.target_cost
    require(
        active == sparsifier.active_cost <= most == exact and abs(most - expected) < unit * len(sparsifier.masks),
        f"The number of active weights must be {exact if unit == 1 else f'{expected:g} to a unit of {unit}'}, got "
        f"{active} {when}. Return masks from update that keep and grow the numbers in targets.",
    )
    require(
        unit == 1 or active <= round(expected),
        f"The number of active weights must be at most {round(expected)}, got {active} {when}. Round the number of "
        "blocks down.",
    )


def _check_tensor(run: Run, name: str, when: str) -> None:
    """Check the values of one parameter and of its optimizer state, and the shape of its mask."""
    sparsifier, granularity = run.sparsifier, run.sparsifier.method.granularity
    parameter, mask = sparsifier.parameters[name], sparsifier.masks[name]
    state = run.optimizer.state[parameter]
    for what, values in {"weight": parameter.detach(), **state}.items():
        if getattr(values, "shape", None) != parameter.shape:
            continue
        require(
            bool(values.isfinite().all()),
            f"Every {what} of {name!r} must be finite, got others {when}. Check what regrowth_init returns.",
        )
        require(
            sparsifier.soft_shrinking or not bool(values[~mask].any()),
            f"Every {what} of {name!r} outside the mask must be 0, got others {when}. Let the Sparsifier alone write "
            "weights and optimizer state.",
        )
    require(
        not bool((mask & ~sparsifier.ever_active_masks[name]).any()),
        f"Active weights of {name!r} must be in ever_active_masks, got others {when}. Do not write to the masks.",
    )
    rows, columns = granularity.block_shape(mask.shape)
    if rows * columns > 1:
        matrix = mask.flatten(1)
        first = torch.arange(len(matrix)) // rows * rows, torch.arange(matrix.shape[1]) // columns * columns
        require(
            matrix.equal(matrix[first[0]][:, first[1]]),  # every weight is as the first of its block
            f"Blocks of {rows} x {columns} of {name!r} must be active or pruned whole, got parts {when}. Return whole "
            "blocks from update.",
        )
    if granularity.of:
        require(
            bool((mask.view(-1, granularity.of).sum(1) == granularity.keep).all()),
            f"Of every {granularity.of} weights of {name!r}, {granularity.keep} must be active, got others {when}. "
            "Keep the pattern in update.",
        )


def _check_report(run: Run, before: dict[str, int], counts: dict[str, int], update: Update, when: str) -> None:
    """Check what an update says of itself."""
    dropped, grown = update.dropped, update.grown
    require(
        update.active == counts == {name: before[name] - dropped[name] + grown[name] for name in before},
        f"An update must report the active, dropped and grown weights of each tensor, got {update} with {before} "
        f"before it and {counts} {when}. Return disjoint masks kept and grown from update.",
    )
    ever = sum(int(mask.sum()) for mask in run.sparsifier.ever_active_masks.values()) / run.size
    require(
        update.ever_active == ever and 0 <= update.churn <= 1,
        f"An update must report ever_active = {ever} and a churn from 0 to 1, got {update.ever_active} and "
        f"{update.churn} {when}. Return disjoint masks kept and grown from update.",
    )
