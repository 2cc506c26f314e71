"""Plain steps as driven layers: states of several tensors become one vector, and the dtype is that of the computation.

A plain step is any function `step(state, input) -> state`. Its state may be a tensor (B, ...) or a tuple, list or dict
of such tensors, also nested. The spectrum follows the vector (B, D) of all entries: part by part, each in row-major
order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten


@dataclass(frozen=True)
class DrivenStep:
    """A plain step with its start, in one object: what a task's `recurrence` returns for a cell of one's own.

    step: `step(state, input (B, I)) -> state`; the rows of the batch are independent. The state is a tensor (B, ...),
        or a tuple, list or dict of such tensors, also nested; all entries are followed, in this order.
    start: the state before the first step, or a function of the number of sequences B that returns it.

    >>> from hyperpruning import lyapunov_spectrum
    >>> step = DrivenStep(lambda state, x: (0.5 * state[0], 2 * state[1]), lambda batch: (torch.ones(batch, 1),) * 2)
    >>> [round(float(value), 4) for value in lyapunov_spectrum(step, torch.zeros(30, 1, 1)).exponents]  # -ln 2, ln 2
    [-0.6931, 0.6931]
    """

    step: Callable[[Any, Tensor], Any]
    start: Any


@dataclass(frozen=True)
class StateLayout:
    """The form of a state: its nesting, and the shape of each part without the batch axis."""

    nesting: TreeSpec
    shapes: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """Number of entries D."""
        return sum(math.prod(shape) for shape in self.shapes)

    def describe(self, batch: int) -> str:
        """Return the shapes of the parts as text."""
        return ", ".join(str((batch, *shape)) for shape in self.shapes)

    def flatten(self, state: Any, batch: int) -> Tensor:
        """Return the vector (B, D) of a state of this form.

        Raises: ValueError for a state of another form, and for a complex one.
        """
        parts, nesting = tree_flatten(state)
        for part in parts:
            check_real(part)
        shapes = [tuple(part.shape) for part in parts]
        if nesting != self.nesting or shapes != [(batch, *shape) for shape in self.shapes]:
            raise ValueError(
                f"A step must keep the form of its state, {self.describe(batch)}, got "
                f"{', '.join(map(str, shapes)) or 'nothing'}{'' if nesting == self.nesting else ' in another nesting'}."
                " Return only the next state."
            )
        rows = [part.reshape(batch, -1) for part in parts]
        return rows[0] if len(rows) == 1 else torch.cat(rows, -1)

    def unflatten(self, vector: Tensor) -> Any:
        """Return the state of a vector (N, D)."""
        sizes = [math.prod(shape) for shape in self.shapes]
        split = zip(torch.split(vector, sizes, -1), self.shapes, strict=True)
        parts = [part.reshape(len(vector), *shape) for part, shape in split]
        return tree_unflatten(parts, self.nesting)


def check_real(part: Any) -> None:
    """Raise if a part of a state is not a real tensor."""
    if not isinstance(part, Tensor) or not (part.is_floating_point() or part.is_complex()):
        kind = part.dtype if isinstance(part, Tensor) else type(part).__name__
        raise ValueError(
            f"A state must consist of floating point tensors (B, ...), got {kind}. Keep what is no state out of it."
        )
    if part.is_complex():
        raise ValueError(
            f"A state must be real, got {part.dtype}. Keep torch.view_as_real(state) as the state, whose entries are "
            "the real and imaginary parts."
        )


def start_vector(start: Any, inputs: Tensor) -> tuple[StateLayout, Tensor]:
    """Return the form of a plain step's start, and the start as a vector (B, D).

    start: see `DrivenStep`; what a function returns is converted to the dtype and device of the inputs.
    inputs: (T, B, I).
    Raises: ValueError for a start of another form.
    """
    batch = inputs.shape[1]
    made = callable(start) and not isinstance(start, Tensor)
    parts, nesting = tree_flatten(start(batch) if made else start)
    for part in parts or [None]:
        shape = tuple(part.shape) if isinstance(part, Tensor) else part
        if part is None or (isinstance(part, Tensor) and shape[:1] != (batch,)):
            raise ValueError(
                f"The start of a plain step must be a tensor (B, ...) with B = {batch}, or a tuple of such, got "
                f"{shape}. Pass for example start=torch.zeros(B, D)."
            )
        check_real(part)
    layout = StateLayout(nesting, tuple(tuple(part.shape[1:]) for part in parts))
    if not layout.size:
        raise ValueError(f"A state must have at least one entry, got the shape {layout.describe(batch)}. Enlarge it.")
    parts = [part.to(inputs) for part in parts] if made else parts
    return layout, layout.flatten(tree_unflatten(parts, nesting), batch)


@dataclass(frozen=True)
class StepLayer:
    """A plain step as a driven layer.

    function: the step.
    state_size: number of entries D of its state.
    layout: the form of the state; None for a tensor (B, D).
    dtype: in which the step computes, whatever the dtype of its own tensors.
    """

    function: Callable[[Any, Tensor], Any]
    state_size: int
    layout: StateLayout | None = None
    dtype: torch.dtype = torch.float64

    @property
    def hidden_size(self) -> int:
        """The whole state is the output."""
        return self.state_size

    def step(self, state: Tensor, input: Tensor) -> Tensor:
        """Return the next state, (N, D)."""
        layout = self.layout or StateLayout(tree_flatten(state)[1], (tuple(state.shape[1:]),))
        with ComputeIn(self.dtype):
            try:
                following = layout.flatten(self.function(layout.unflatten(state), input), len(state))
            except RuntimeError as error:  # torch's own sentence on two dtypes names neither the step nor the remedy
                if "dtype" not in str(error) and "scalar type" not in str(error):
                    raise
                raise _other_dtype(state.dtype, f"torch's error {str(error).splitlines()[-1]!r}") from error
        if following.dtype != state.dtype:
            raise _other_dtype(state.dtype, f"a state in {following.dtype}")
        return following


def _other_dtype(dtype: torch.dtype, got: str) -> ValueError:
    other = torch.float32 if dtype == torch.float64 else torch.float64
    return ValueError(f"A step must compute in {dtype}, got {got}. Pass dtype={other}.")


class ComputeIn(TorchFunctionMode):
    """Within it, torch's functions get and return floating point tensors of one dtype.

    It converts what a step brings along (parameters of a module, tensors of a closure, constants) where it is used, so
    that neither the step nor its module is changed, and gradients reach them. What a step itself rounds to a lower
    precision cannot be undone, and raises ValueError.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [self._all_converted(part) for part in args]
        named = {name: self._all_converted(part) for name, part in (kwargs or {}).items()}
        result = func(*given, **named)
        leaves = [result] if isinstance(result, Tensor) else tree_leaves(result)
        rounded = [part for part in leaves if self._is_rounded(part)]
        if any(
            isinstance(part, Tensor) and part.dtype == self.dtype for part in rounded and tree_leaves((given, named))
        ):
            raise ValueError(
                f"A step must compute in {self.dtype}, the default or what dtype asks for, got a result of "
                f"{getattr(func, '__name__', func)} in {rounded[0].dtype}. Take this conversion out of the step, or "
                f"pass dtype={rounded[0].dtype}."
            )
        return self._all_converted(result)

    def _all_converted(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._converted(value)
        return tree_map(self._converted, value) if isinstance(value, tuple | list | dict) else value

    def _converted(self, part: Any) -> Any:
        other = isinstance(part, Tensor) and part.is_floating_point() and part.dtype != self.dtype
        return part.to(self.dtype) if other else part

    def _is_rounded(self, part: Any) -> bool:
        floating = isinstance(part, Tensor) and part.is_floating_point()
        return floating and torch.finfo(part.dtype).eps > torch.finfo(self.dtype).eps
