"""Where new weights appear.

A growth is a function `(parameter, kept, count, generator) -> grown`: one tensor (with its `.grad`), the bool mask of
what the drop left of it, how many to grow, and back a bool mask of exactly `count` positions outside `kept`. What was
dropped a moment ago is a candidate like every other position. To add one, write the function and its line in GROWTHS.
"""

from collections.abc import Callable

from torch import Generator, Tensor

from hyperpruning.sparsity.exact import largest, sample, within

Grow = Callable[[Tensor, Tensor, int, Generator], Tensor]


def random(parameter: Tensor, kept: Tensor, count: int, generator: Generator) -> Tensor:
    """Grow anywhere, every set of `count` empty positions as likely. Source: SET, Mocanu et al. 2018."""
    candidates = ~kept
    return within(candidates, sample(int(candidates.count_nonzero()), count, generator))


def gradient(parameter: Tensor, kept: Tensor, count: int, generator: Generator) -> Tensor:
    """Grow where |dL/dw| of the last batch is largest. Source: RigL, Evci et al. 2020.

    Where too few candidates have a gradient at all (rows of an embedding whose words were not in the batch), the rest
    is grown at random.

    Raises:
        ValueError: there are no gradients.
    """
    if parameter.grad is None:
        raise ValueError(
            "growing by gradient needs the gradients of the last batch, and there are none; "
            "call step() after optimizer.step() and before optimizer.zero_grad()"
        )
    candidates = ~kept
    slopes = parameter.grad.to_dense()[candidates].abs()
    chosen = largest(slopes, min(count, int(slopes.count_nonzero())))
    missing = count - int(chosen.count_nonzero())
    if missing:
        chosen = chosen | within(~chosen, sample(len(chosen) - count + missing, missing, generator))
    return within(candidates, chosen)


GROWTHS: dict[str, Grow] = {"random": random, "gradient": gradient}
