"""The mixture-of-softmaxes head (Yang et al. 2018, arXiv 1711.03953, section 2.4)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hyperpruning.models.dropout import locked_dropout

PROBABILITY_FLOOR = 1e-8  # added to each probability, as in the published code: logarithm and gradient stay finite
LOGITS_PER_CHUNK = 2**25  # logits in memory at a time, 128 MiB in float32


class MixtureOfSoftmaxes(nn.Linear):
    """p = sum_k prior_k softmax(W latent_k + b): prior = softmax(P h), latent_k = tanh(L_k h + l_k), k = 1 ... K.

    All K experts share one decoder W (V, E), b (V,), this module's `weight` and `bias`. W can therefore be tied to an
    embedding of width E for any width of h.

    Args:
        hidden: width H of the input h.
        size: width E of each latent.
        vocabulary: number of tokens V.
        experts: number of softmaxes K.
        dropout: probability of locked dropout on the latents (dropoutl in the published code).
    """

    def __init__(self, hidden: int, size: int, vocabulary: int, *, experts: int, dropout: float = 0.0) -> None:
        super().__init__(size, vocabulary)
        self.dropout = dropout
        self.prior = nn.Linear(hidden, experts, bias=False)
        self.latent = nn.Linear(hidden, experts * size)

    def forward(self, input: Tensor) -> Tensor:
        """Return log(p + 1e-8), (T, B, H) -> (T, B, V).

        Above `LOGITS_PER_CHUNK` logits the tokens are processed in chunks, and the backward pass recomputes the logits
        of each chunk instead of storing them.
        """
        prior = torch.softmax(self.prior(input), -1)  # (T, B, K)
        latent = locked_dropout(torch.tanh(self.latent(input)), self.dropout, self.training)  # (T, B, K E)
        tokens, experts = prior.shape[:-1], prior.shape[-1]
        priors, latents = prior.reshape(-1, experts), latent.reshape(-1, experts, self.in_features)
        length = max(1, LOGITS_PER_CHUNK // (experts * self.out_features))
        if len(priors) <= length:
            return self._mix_experts(priors, latents).view(*tokens, -1)
        chunks = zip(torch.split(priors, length), torch.split(latents, length), strict=True)
        recomputed = partial(checkpoint, self._mix_experts, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([recomputed(*chunk) for chunk in chunks]).view(*tokens, -1)

    def _mix_experts(self, prior: Tensor, latent: Tensor) -> Tensor:
        """Return the mixed log-probabilities of N tokens: prior (N, K), latent (N, K, E) -> (N, V)."""
        probabilities = torch.softmax(functional.linear(latent, self.weight, self.bias), -1)  # (N, K, V)
        return torch.log(torch.bmm(prior[:, None], probabilities)[:, 0] + PROBABILITY_FLOOR)
