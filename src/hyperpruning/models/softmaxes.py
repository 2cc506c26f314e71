"""The mixture-of-softmaxes head (Yang et al. 2018, arXiv 1711.03953, section 2.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hyperpruning.models.dropout import locked_dropout

FLOOR = 1e-8  # added to a probability, as in the published code: its logarithm and gradient stay finite
CHUNK = 2**25  # logits held at a time, 128 MiB in float32


class MixtureOfSoftmaxes(nn.Linear):
    """p = sum_k prior_k softmax(W latent_k + b): prior = softmax(P h), latent_k = tanh(L_k h + l_k), k = 1 ... K.

    One decoder W (V, E), b (V,) serves all K experts; it is this module's own `weight` and `bias`, so that W can be
    tied to an embedding of size E whatever the width of h.

    Args:
        hidden: width H of what is read.
        size: E of each latent.
        vocabulary: number of tokens V.
        experts: K.
        dropout: probability of locked dropout on the latents.
    """

    def __init__(self, hidden: int, size: int, vocabulary: int, *, experts: int, dropout: float = 0.0) -> None:
        super().__init__(size, vocabulary)
        self.dropout = dropout
        self.prior = nn.Linear(hidden, experts, bias=False)
        self.latent = nn.Linear(hidden, experts * size)

    def forward(self, input: Tensor) -> Tensor:
        """Return log(p + 1e-8), (T, B, H) -> (T, B, V).

        Where the K x V logits of all tokens are many, tokens go through in chunks, whose logits are not kept: the
        backward pass computes them again.
        """
        prior = torch.softmax(self.prior(input), -1)  # (T, B, K)
        latent = locked_dropout(torch.tanh(self.latent(input)), self.dropout, self.training)  # (T, B, K E)
        tokens, experts = prior.shape[:-1], prior.shape[-1]
        priors, latents = prior.reshape(-1, experts), latent.reshape(-1, experts, self.in_features)
        length = max(1, CHUNK // (experts * self.out_features))
        if len(priors) <= length:
            return self._mixed(priors, latents).view(*tokens, -1)
        chunks = zip(torch.split(priors, length), torch.split(latents, length), strict=True)
        mixed = [checkpoint(self._mixed, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
        return torch.cat(mixed).view(*tokens, -1)

    def _mixed(self, prior: Tensor, latent: Tensor) -> Tensor:
        """Mix the experts of some tokens: prior (N, K), latent (N, K, E) -> (N, V)."""
        each = torch.softmax(functional.linear(latent, self.weight, self.bias), -1)  # (N, K, V)
        return torch.log(torch.bmm(prior[:, None], each)[:, 0] + FLOOR)
