"""What a network costs where it runs: multiply-adds of a step, and bytes of its compact file.

Both are exact counts, equal on every machine; deploy/benchmark.py measures times.
"""

from __future__ import annotations

from torch import Tensor, nn

from hyperpruning.deploy.compact import encode
from hyperpruning.deploy.parts import Mixture, NetworkParts, network_parts
from hyperpruning.sparsity.costs import multiply_adds as cost_of_a_weight


def multiply_adds(network: nn.Module) -> int | None:
    """The multiply-adds of one time step of one sequence: the nonzeros of every matrix that is multiplied.

    These are the input matrices, the recurrent matrices (of an RHN one for each micro-step) and the decoder; a mixture
    of K softmaxes multiplies its decoder K times. An embedding is looked up, and costs nothing. Of a network that
    `Decoder` does not know, every weight matrix outside an embedding counts once.

    Args:
        network: any module.

    Returns:
        the number; None for an unknown network with convolutions, whose number depends on the input.
    """
    try:
        parts = network_parts(network)
    except (TypeError, ValueError):
        return _of_any(network)
    return sum(int(linear.weight.count_nonzero()) * _times(parts, linear.name) for linear in parts.linears())


def _times(parts: NetworkParts, name: str) -> int:
    """How often a step multiplies a matrix."""
    head = parts.head
    return len(head.prior.weight) if isinstance(head, Mixture) and name == head.decoder.name else 1


def _of_any(network: nn.Module) -> int | None:
    try:
        cost = cost_of_a_weight(network)
    except ValueError:
        return None
    return sum(int(value.count_nonzero()) * cost(name, value) for name, value in network.named_parameters())


def stored_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network that a file of it holds, by name; tied ones once."""
    own = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
    return {name: value for name, value in network.state_dict().items() if name in own}


def compact_bytes(network: nn.Module, precision: str) -> int:
    """The bytes of the weights in a model folder, without its card.

    Args:
        network: any module.
        precision: as of `encode`: "exact", "fp16" or "int8".

    Raises:
        ValueError: no such precision, or the weights do not fit it.
    """
    return sum(len(encode(value, precision)[1]) for value in stored_tensors(network).values())
