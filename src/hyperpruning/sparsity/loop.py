"""What a training loop puts round a model and an optimizer: wrappers, several processes, steps that are skipped."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Generator, Tensor, distributed, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

PATIENCE = 1000  # calls without an optimizer step before a warning; gradient accumulation and a GradScaler need fewer


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel, DataParallel and torch.compile, whose names have no prefix.

    >>> unwrapped(DataParallel(torch.compile(nn.Linear(2, 3), backend="eager")))
    Linear(in_features=2, out_features=3, bias=True)
    """
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif isinstance(compiled := model._modules.get("_orig_mod"), nn.Module):
            model = compiled
        else:
            return model


class Processes:
    """The processes that train copies of one model: all of them take the masks of process 0.

    Args:
        model: as the training loop calls it. Its copies are known by DistributedDataParallel, the model itself or a
            module in it; without it every process is alone.
    """

    def __init__(self, model: nn.Module) -> None:
        wrapper = next((one for one in model.modules() if isinstance(one, DistributedDataParallel)), None)
        self._group: Any = wrapper.process_group if wrapper is not None else None
        together = wrapper is None and distributed.is_available() and distributed.is_initialized()
        if together and (count := distributed.get_world_size()) > 1:
            warnings.warn(
                "The model must be in DistributedDataParallel when several processes train it, got a model without it "
                f"in one of {count} processes: their masks can differ. Wrap the model first, and give the Sparsifier "
                "the wrapped model.",
                stacklevel=3,
            )

    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Replace the values of bool tensors by those of process 0, in place."""
        if self._group is None:
            return
        source = distributed.get_global_rank(self._group, 0)
        for values in tensors:
            sent = values.contiguous().view(torch.uint8)
            distributed.broadcast(sent, src=source, group=self._group)
            values.copy_(sent.view(torch.bool))

    def agree_on_seed(self, generator: Generator, device: torch.device) -> None:
        """Replace the state of a generator by that of process 0; it travels on the device."""
        if self._group is not None:
            state = generator.get_state().to(device)
            distributed.broadcast(state, src=distributed.get_global_rank(self._group, 0), group=self._group)
            generator.set_state(state.cpu())


class OptimizerSteps:
    """Whether an optimizer made a step since it was last asked.

    It made none between two steps of gradient accumulation, nor where a GradScaler skipped the step because a gradient
    was not finite. A hook on the optimizer notes each step.
    """

    def __init__(self) -> None:
        self._skipped: bool | Tensor = True
        self._calls = 0  # without a step

    def watch(self, optimizer: Optimizer | None) -> bool:
        """Put the hook on an optimizer; return False if it is there, or if the optimizer takes none."""
        hooks = getattr(optimizer, "_optimizer_step_post_hooks", None)
        if optimizer is None or hooks is None or self._after_step in hooks.values():
            return False
        optimizer.register_step_post_hook(self._after_step)
        return True

    def made(self, optimizer: Optimizer | None) -> bool:
        """Return whether the optimizer made a step since the last call; True if that cannot be known."""
        known = not self.watch(optimizer) and hasattr(optimizer, "_optimizer_step_post_hooks")  # it may be a new one
        made = not (known and bool(self._skipped))
        self._skipped, self._calls = True, 0 if made else self._calls + 1
        if self._calls == PATIENCE:
            warnings.warn(
                f"step() must follow a step of the optimizer, got {PATIENCE} calls without one: the masks do not "
                "change. Give the Sparsifier the optimizer that the loop steps.",
                stacklevel=3,
            )
        return made

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        found = getattr(optimizer, "found_inf", None)  # a GradScaler lets a fused optimizer skip the step itself
        if found is None:
            self._skipped = False
        elif self._skipped is not False:
            self._skipped = found if self._skipped is True else torch.minimum(self._skipped, found)
