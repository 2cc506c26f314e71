"""Inference on a CPU, step by step: weights are packed once, each matrix in the format that is fastest."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperpruning.deploy.compiler import CompilerError
from hyperpruning.deploy.model_folder import load
from hyperpruning.deploy.native import Kernel
from hyperpruning.deploy.native_network import MatrixReport, NativeNetwork
from hyperpruning.deploy.parts import Linear, Mixture, NetworkParts, network_parts
from hyperpruning.deploy.torch_network import TorchNetwork
from hyperpruning.files import weights_sha256
from hyperpruning.models.softmaxes import PROBABILITY_FLOOR
from hyperpruning.settings import did_you_mean

PRECISIONS = ("exact", "int8")


class Decoder:
    """Runs a recurrent network step by step on one core of a CPU.

    The weights are packed once; later changes of the network have no effect. For each matrix the fastest of the formats
    dense, window (unstructured zeros) and blocks of 8 outputs x 4 inputs is chosen by a short timing; `report` and
    `repr` show the choice. The state of the sequences is kept between steps, from zeros. A decoder is for one thread.

    The kernel is compiled at its first use, by the compiler in HYPERPRUNING_CC or by cc, gcc or clang. Without one, a
    warning says why and torch computes the steps.

    Args:
        network: `LanguageModel`, `SequenceClassifier`, `Forecaster`, `nn.LSTM`, `nn.GRU`, `nn.RNN`, `RHNLayer` or
            `Stack`.
        precision: "exact": float32, the same as torch up to rounding; "int8": weights with a scale for each row,
            activations with a scale for each vector.
        head: a module of your own for the output of the top layer, (B, H) -> anything; only for recurrent layers
            without a head.
        batch: number B of sequences that advance together.
        instructions: "plain", "avx2", "avx512" or "neon"; default: the best that the processor has. int8 gives the same
            bits with all of them.
        formats: the format of a matrix by the name of its weight, e.g. {"rnn.weight_hh_l0": "window_int8"}, instead of
            the timing.

    Raises:
        TypeError: a network that the decoder does not know; the message names it.
        ValueError: an option of the network or an argument is out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        precision: str = "exact",
        head: nn.Module | None = None,
        batch: int = 1,
        instructions: str | None = None,
        formats: Mapping[str, str] | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}."
                f"{did_you_mean(precision, PRECISIONS) or ' Choose one of these.'}"
            )
        self._parts, self.precision, self._head = network_parts(network), precision, head
        if head is not None and self._parts.head is not None:
            raise ValueError(
                f"head must be None for a {type(network).__name__}, which has its own, got {type(head).__name__}. Give "
                "the recurrent layers alone."
            )
        self._network = _network(self._parts, precision, instructions, dict(formats or {}))
        self._sha256 = weights_sha256(self._parts.tensors())
        self._tokens = self._parts.embedding is not None
        self._dtype = torch.int64 if self._tokens else torch.float32
        self._more = not self._network.direct or self._parts.horizon > 0  # than the kernel computes
        if head is None and self._parts.head is None:
            self._more = False
        self._state = torch.zeros(0)
        self.reset(batch)

    @classmethod
    def load(cls, path: Path | str, **options: Any) -> Decoder:
        """The decoder of a model folder or of a model file.

        Args:
            path: a folder that `hyperprune export --out DIR` wrote, or a ``*.safetensors`` that a search wrote.
            options: as of `Decoder`.

        Raises:
            ModelFileError: not a network of this package.
        """
        return cls(load(path), **options)

    def reset(self, batch: int | None = None) -> None:
        """Start again from a state of zeros.

        Args:
            batch: number of sequences from now on; None: as before.

        Raises:
            ValueError: less than one sequence.
        """
        batch = len(self._state) if batch is None else batch
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}. Raise it.")
        self._state = torch.zeros(batch, self._parts.state_size)
        self._sum, self._steps = torch.zeros(batch, self._parts.hidden), 0  # of the outputs so far, for a mean
        self._step = self._network.bound(self._state)
        self._shape = torch.Size([batch] if self._tokens else [batch, self._parts.inputs])

    def step(self, x: Tensor | int) -> Tensor:
        """Advance by one step.

        Args:
            x: tokens (B,) of a network with an embedding, or one int; otherwise float32 vectors (B, I).

        Returns:
            language model: logits (B, V), log-probabilities for a mixture of softmaxes; classifier: logits (B, C) of
            the sequence so far; forecaster: (B, horizon, F) after the sequence so far; layers alone: the top layer's h
            (B, H), or what `head` returns for it.

        Raises:
            IndexError: a token outside the vocabulary.
            ValueError: x has another shape.
        """
        if not isinstance(x, Tensor):
            x = torch.tensor([x])
        elif x.dim() == 0 and tuple(self._shape) == (1,):
            x = x.reshape(1)  # a token as argmax() returns it
        if x.dtype is not self._dtype or not x.is_cpu or not x.is_contiguous():
            x = x.to("cpu", self._dtype).contiguous()
        if x.shape != self._shape:
            raise ValueError(
                f"Inputs of a step must have the shape {tuple(self._shape)}, got {tuple(x.shape)}. Call reset(batch) "
                "for another number of sequences."
            )
        output = self._step(x)
        return self._after(output) if self._more else output

    def state_dict(self) -> dict[str, Any]:
        """The state of the sequences: tensors, numbers and a hash of the network, for `torch.save` or memory."""
        return {
            "network": self._sha256,
            "state": self._state.clone(),
            "sum": self._sum.clone(),
            "steps": self._steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned; the number of sequences becomes that of the state.

        Raises:
            ValueError: the state of another network, or no state.
        """
        rule = "A state must come from state_dict of a decoder of the same network, got"
        remedy = "Load the network that it belongs to, or call reset()."
        if state.keys() != {"network", "state", "sum", "steps"}:
            raise ValueError(f"{rule} one with the keys {', '.join(sorted(state)) or 'of nothing'}. {remedy}")
        if state["network"] != self._sha256:
            raise ValueError(f"{rule} one of another network. {remedy}")
        values, sums, steps = state["state"], state["sum"], state["steps"]
        sizes = (self._parts.state_size, self._parts.hidden)
        fits = all(isinstance(part, Tensor) and part.ndim == 2 for part in (values, sums))
        if not fits or (values.shape[1], sums.shape[1]) != sizes or not 0 < len(values) == len(sums) or steps < 0:
            raise ValueError(f"{rule} one with other sizes. {remedy}")
        self.reset(len(values))
        self._state.copy_(values)
        self._sum.copy_(sums)
        self._steps = int(steps)

    def report(self) -> list[MatrixReport]:
        """How each matrix is multiplied: name, chosen format, bytes, microseconds by format."""
        return list(self._network.reports)

    def product_microseconds(self) -> dict[str, float]:
        """The microseconds of one product with each matrix in its chosen format, by the name of the weight.

        Raises:
            CompilerError: the decoder has no compiled kernel.
        """
        if not isinstance(self._network, NativeNetwork):
            raise CompilerError("products must be measured in the compiled kernel, got none. Install a C compiler.")
        return {name: 1e6 * time for name, time in self._network.product_seconds().items()}

    @property
    def instructions(self) -> str:
        """The instructions of the kernel, or "torch" without one."""
        return self._network.kernel.build if isinstance(self._network, NativeNetwork) else "torch"

    def __repr__(self) -> str:
        rows = [f"Decoder({self.precision}, {self.instructions}, batch {len(self._state)})"]
        for one in self._network.reports:
            shape = f"{one.rows} x {one.columns}"
            rows.append(f"  {one.name:28} {shape:>14} {one.sparsity:7.1%} zero {one.format:>12} {one.bytes:12,} bytes")
        return "\n".join(rows)

    def _after(self, output: Tensor) -> Tensor:
        """What follows the top layer's h (B, H), or the scales of a forecast."""
        parts, head = self._parts, self._parts.head
        if self._head is not None:
            with torch.no_grad():
                return self._head(output)  # type: ignore[no-any-return]
        if isinstance(head, Mixture):
            return self._mixed(head, output)
        if parts.pooled and isinstance(head, Linear):
            self._sum += output
            self._steps += 1
            output = self._network.product(head, self._sum / self._steps)
        if parts.horizon and parts.deviation is not None and parts.mean is not None:
            return output.view(len(output), parts.horizon, -1) * parts.deviation + parts.mean
        return output

    def _mixed(self, mixture: Mixture, h: Tensor) -> Tensor:
        """Log-probabilities (B, V) as of `MixtureOfSoftmaxes`."""
        prior = torch.softmax(self._network.product(mixture.prior, h), -1)  # (B, K)
        latent = torch.tanh(self._network.product(mixture.latent, h)).reshape(prior.numel(), -1)  # (B K, E)
        each = torch.softmax(self._network.product(mixture.decoder, latent), -1).view(*prior.shape, -1)  # (B, K, V)
        return torch.log(torch.bmm(prior[:, None], each)[:, 0] + PROBABILITY_FLOOR)


def _network(
    parts: NetworkParts, precision: str, instructions: str | None, formats: dict[str, str]
) -> NativeNetwork | TorchNetwork:
    """The network in the kernel, or in torch with a warning where there is no kernel."""
    if unknown := sorted(formats.keys() - {linear.name for linear in parts.linears()}):
        names = [linear.name for linear in parts.linears()]
        raise ValueError(
            f"formats must name matrices of the network ({', '.join(names)}), got {unknown[0]!r}."
            f"{did_you_mean(unknown[0], names)}"
        )
    try:
        kernel = Kernel(instructions)
    except CompilerError as error:
        warnings.warn(f"{error} The decoder computes in torch until then, which is slower.", stacklevel=3)
        return TorchNetwork(parts, precision)
    return NativeNetwork(parts, precision, kernel, formats)
