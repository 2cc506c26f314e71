"""The task of the executor's suite: a search on it takes a second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss


class TinyNetwork(nn.Module):
    """A recurrent layer of 6 units, and a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.output = nn.RNN(2, 6), nn.Linear(6, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (T, B, 2) -> (T, B, 1)."""
        outputs: Tensor = self.output(self.rnn(inputs)[0])
        return outputs


@dataclass(frozen=True)
class TinyTask:
    """The mean of two inputs of the step before, from random inputs; `length` steps at a time."""

    length: int = 6

    def network(self, seed: int) -> TinyNetwork:
        """A new network."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return TinyNetwork()

    def _inputs(self, seed: int) -> Tensor:
        return torch.randn(self.length, 4, 2, generator=Generator().manual_seed(seed))

    def steps(self, epoch: int, seed: int) -> int:
        """Always 4."""
        return 4

    def batches(self, epoch: int, seed: int) -> Iterator[Tensor]:
        """New random inputs (T, 4, 2)."""
        return (self._inputs(seed * 1000 + epoch * 4 + step) for step in range(4))

    def loss(self, network: nn.Module, batch: Tensor, carry: Any) -> tuple[Tensor, None]:
        """The mean squared error."""
        batch = batch.to(next(network.parameters()).device)
        return mse_loss(network(batch)[1:], batch[:-1].mean(-1, keepdim=True)), None

    def evaluate(self, network: nn.Module, split: str) -> float:
        """The same on fixed inputs."""
        return float(self.loss(network, self._inputs({"valid": 10**9, "test": 10**9 + 1}[split]), None)[0])

    def recurrence(self, network: nn.Module) -> tuple[Any, Tensor]:
        """The recurrent layer on fixed inputs."""
        return network.rnn, self._inputs(10**9 + 2).to(next(network.parameters()).device)

    def row_groups(self, network: nn.Module) -> Mapping[str, int]:
        """No gates."""
        return {}

    def identity(self) -> dict[str, Any]:
        """Its name and length."""
        return {"task": "mean of the step before", "length": self.length}

    def describe(self, network: nn.Module) -> dict[str, Any]:
        """The same."""
        return self.identity()
