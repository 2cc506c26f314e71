"""Dynamic evaluation: a language model that learns from the text it is tested on (Krause et al. 2018).

arXiv 1709.07432, in the form of the published code of mixtures of softmaxes (Yang et al. 2018, arXiv 1711.03953). The
text is read in short windows; the loss of a window is computed before the model learns from it, so that every token is
predicted before it is seen. With w0 the trained weights, g the gradient of a window's mean loss, and M = sqrt(sum of
g^2 over the windows of the training text):

    w <- w + min(decay c, 1) (w0 - w) - lr g / (M + epsilon),    c = M / (sum over the tensors of mean(M))

A pruned network stays pruned: weights that are zero stay zero and are not included in the means. Biases always change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hyperpruning.data.batches import batchify, bptt_windows
from hyperpruning.models.language_model import LanguageModel, repackage_hidden
from hyperpruning.settings import check_settings, documented, setting


@documented
@dataclass(frozen=True)
class DynamicEvaluation:
    """Settings of dynamic evaluation. The defaults are the published ones for the Penn Treebank.

    M grows with the length of the training text, so that a much shorter or longer text needs another lr and epsilon.

    Raises:
        ValueError: a value out of its range.
    """

    lr: float = setting(0.002, "step size; 0 leaves the model as it is", ge=0)
    decay: float = setting(0.075, "lambda: how fast weights return to the trained ones", ge=0)
    epsilon: float = setting(0.001, "limits the steps of weights with small gradients", gt=0)
    bptt: int = setting(5, "window in tokens, of the text and of the statistics M", ge=1)
    batch: int = setting(100, "parallel streams of the training text for the statistics M", ge=1)
    fraction: float = setting(
        1.0, "fraction of the training text, from its start, for M; the sum is extrapolated to all", gt=0, le=1
    )

    def __post_init__(self) -> None:
        check_settings(self)

    def sentence(self) -> str:
        """The protocol in a sentence."""
        part = "" if self.fraction == 1 else f"the first {self.fraction:.3g} of "
        return (
            f"Dynamic evaluation: the model learns from each {self.bptt} tokens once they are predicted (lr {self.lr}, "
            f"decay {self.decay}, epsilon {self.epsilon}; gradients of {part}the training text in {self.batch} "
            "columns); pruned weights stay zero."
        )


PTB = DynamicEvaluation()
# the published constants, by the name of the corpus
PUBLISHED = {"ptb": PTB, "wikitext-2": DynamicEvaluation(decay=0.02, epsilon=0.002)}


def gradient_scale(network: LanguageModel, train: Tensor, settings: DynamicEvaluation = PTB) -> dict[str, Tensor]:
    """The scale M of the gradients on the training text.

    Args:
        network: in evaluation mode.
        train: (N,) token numbers.
        settings: window length, streams and fraction of the text.

    Returns:
        M by name of the parameter, in its shape; tied weights once.

    Raises:
        ValueError: the network is in training mode, or the text is too short.
    """
    _check(network)
    stream = batchify(train, settings.batch).to(network.encoder.weight.device)
    count = math.ceil((len(stream) - 1) / settings.bptt)
    read = math.ceil(settings.fraction * count)
    sums = {name: torch.zeros_like(weight) for name, weight in network.named_parameters()}
    carry = None
    for inputs, targets in islice(bptt_windows(stream, settings.bptt), read):
        _, gradients, carry = _window_gradients(network, inputs, targets, carry)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total.addcmul_(gradient, gradient)
    return {name: (total * (count / read)).sqrt_() for name, total in sums.items()}


def dynamic_loss(
    network: LanguageModel, text: Tensor, scale: Mapping[str, Tensor], settings: DynamicEvaluation = PTB
) -> float:
    """Mean cross-entropy in nats of a text from which the network learns while it reads.

    Args:
        network: in evaluation mode; its weights are restored at the end.
        text: (N,) token numbers, read as one column; all but the first are predicted.
        scale: from `gradient_scale`.
        settings: of the evaluation.

    Raises:
        ValueError: the network is in training mode, or the text has one token.
    """
    _check(network)
    weights = list(network.parameters())
    stream = batchify(text, 1).to(weights[0].device)
    trained = [weight.detach().clone() for weight in weights]
    coefficients = _update_coefficients(trained, [scale[name] for name, _ in network.named_parameters()], settings)
    total, carry = torch.zeros((), dtype=torch.float64, device=stream.device), None
    try:
        for inputs, targets in bptt_windows(stream, settings.bptt):
            loss, gradients, carry = _window_gradients(network, inputs, targets, carry)
            total += loss.double() * len(targets)
            with torch.no_grad():
                for weight, start, gradient, (back, step) in zip(
                    weights, trained, gradients, coefficients, strict=True
                ):
                    weight.lerp_(start, back).addcmul_(step, gradient, value=-1)
    finally:
        with torch.no_grad():
            for weight, start in zip(weights, trained, strict=True):
                weight.copy_(start)
    return float(total) / (len(stream) - 1)


def _check(network: LanguageModel) -> None:
    if network.training:
        raise ValueError(
            "The network must be in evaluation mode for dynamic evaluation, got training mode. Call network.eval()."
        )


def _update_coefficients(
    trained: list[Tensor], scales: list[Tensor], settings: DynamicEvaluation
) -> list[tuple[Tensor, Tensor]]:
    """Return for each tensor the decay rate min(decay c, 1) and the step size lr / (M + epsilon), 0 if pruned."""
    active = [weight != 0 if weight.ndim > 1 else torch.ones_like(weight, dtype=torch.bool) for weight in trained]
    means = [float(scale[mask].mean()) if mask.any() else 0.0 for scale, mask in zip(scales, active, strict=True)]
    total_mean = sum(means) or 1.0  # without any gradient, M and c are 0
    return [
        ((settings.decay / total_mean * scale).clamp_(max=1), settings.lr / (scale + settings.epsilon) * mask)
        for scale, mask in zip(scales, active, strict=True)
    ]


def _window_gradients(
    network: LanguageModel, inputs: Tensor, targets: Tensor, carry: Any
) -> tuple[Tensor, tuple[Tensor, ...], Any]:
    """Read a window (T, B): its mean loss in nats, the gradients, and the state to carry on."""
    # cuDNN gives gradients in training mode only, which would enable dropout
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        logits, state = network(inputs, carry)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        gradients = torch.autograd.grad(loss, list(network.parameters()))
    return loss.detach(), gradients, repackage_hidden(state)
