"""The recurrent part of a network, and the inputs that it gets in a forward pass: what a spectrum is computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from hyperpruning.settings import did_you_mean


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Within the block the network is in evaluation mode and no gradients are recorded."""
    modes = [(module, module.training) for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def recurrent_module(network: nn.Module, name: str | None = None) -> nn.Module:
    """Return the only recurrent module of a network, or the one of this name.

    Recurrent are `nn.LSTM`, `nn.GRU` and `nn.RNN`, and modules with `driven_layers()` or with the methods of a
    `hyperpruning.lyapunov.layers.DrivenLayer`; not counted are those inside another one.

    Raises:
        ValueError: there is none, or there are several, or none of this name.
    """
    found: dict[str, nn.Module] = {}
    for path, module in network.named_modules():  # a module comes before those in it
        inside = any(outer == "" or path.startswith(f"{outer}.") for outer in found)
        if _is_recurrent(module) and not inside:
            found[path] = module
    if name is not None:
        modules = dict(network.named_modules())
        if name not in modules:
            raise ValueError(
                f"recurrent must name a module of the network, got {name!r}.{did_you_mean(name, modules)} "
                f"Its recurrent modules: {', '.join(found) or 'none'}."
            )
        named: nn.Module = modules[name]
        return named
    if len(found) != 1:
        raise ValueError(
            f"The network must have one recurrent module, got {', '.join(found) or 'none'} in a "
            f"{type(network).__name__}. "
            + (
                "Name one of them: recurrent = ..."
                if found
                else "Give recurrent = a function of (network, batch) that returns "
                "(hp.DrivenStep(step, start), inputs (T, B, I))."
            )
        )
    return next(iter(found.values()))


def _is_recurrent(module: nn.Module) -> bool:
    return isinstance(module, nn.RNNBase) or hasattr(module, "driven_layers") or _is_driven_layer(module)


def _is_driven_layer(module: nn.Module) -> bool:
    return all(hasattr(module, name) for name in ("step", "jacobian", "jacobian_terms", "state_size"))


def probed(module: nn.Module, forward: Callable[[], object]) -> tuple[Any, Tensor]:
    """Return a recurrent module in the form that `lyapunov_spectrum` takes, and the inputs that it gets.

    Args:
        module: from `recurrent_module`.
        forward: runs the network once.

    Returns:
        the module (a driven layer as a list of one), and its inputs: (T, B, I), or (B, T, I) with `batch_first`. Packed
        sequences are cut to the shortest.

    Raises:
        ValueError: the module is not called exactly once.
    """
    calls: list[Any] = []
    handle = module.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(args[0] if args else next(iter(kwargs.values()))), with_kwargs=True
    )
    try:
        forward()
    finally:
        handle.remove()
    if len(calls) != 1:
        raise ValueError(
            f"The recurrent module must be called once in a forward pass, got {len(calls)} calls of a "
            f"{type(module).__name__}. Give recurrent = a function of (network, batch) that returns the recurrent part "
            "and its inputs."
        )
    (inputs,) = calls
    if isinstance(inputs, PackedSequence):
        batch_first = bool(getattr(module, "batch_first", False))
        unpacked, lengths = pad_packed_sequence(inputs, batch_first=batch_first)
        inputs = unpacked.narrow(1 if batch_first else 0, 0, int(lengths.min()))
    part = module if isinstance(module, nn.RNNBase) or hasattr(module, "driven_layers") else [module]
    return part, inputs.detach()
