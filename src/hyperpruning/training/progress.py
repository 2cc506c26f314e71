"""How far an epoch has come, so that a checkpoint can hold it; and when a training saves or ends within an epoch."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
REPEATED = 1.0  # seconds after a signal from which on a second one is not waited with


class TimeIsUp(Exception):
    """The time of a search is used up; the training can be continued."""


class CarryError(TypeError):
    """A task carries what a checkpoint cannot hold."""


@dataclass
class Progress:
    """The finished steps of an epoch.

    Attributes:
        total: sum of the losses of the steps, on the device.
        step: number of finished steps; the data go on with the batch of this index.
        dropped: number of dropped weights.
        carries: what each part of a step hands to the same part of the next step, e.g. hidden states.
        seconds: duration of the steps before this object was made.
        generators: states of torch's generators (CPU, GPU) that are to be restored before the next step.
    """

    total: Tensor
    step: int = 0
    dropped: int = 0
    carries: dict[int, Any] = field(default_factory=dict)
    seconds: float = 0.0
    generators: list[Tensor] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors; the states of the generators are the present ones.

        Raises:
            CarryError: a carry is something else.
        """
        device = self.total.device
        generators = [torch.random.get_rng_state()]
        if device.type == "cuda":
            generators.append(torch.cuda.get_rng_state(device))
        return {
            "step": self.step,
            "total": float(self.total),
            "dropped": self.dropped,
            "carries": {number: _to_cpu(carry) for number, carry in self.carries.items()},
            "seconds": self.seconds + time.perf_counter() - self.began,
            "generators": generators,
        }


def new_progress(device: torch.device) -> Progress:
    """No step is finished."""
    return Progress(torch.zeros((), dtype=torch.float64, device=device))


def restored_progress(state: Mapping[str, Any], device: torch.device) -> Progress:
    """The progress of a `Progress.state_dict`, on a device."""
    values = dict(state)
    total = torch.full((), values.pop("total"), dtype=torch.float64, device=device)
    carries = {number: _to_device(carry, device) for number, carry in values.pop("carries").items()}
    return Progress(total, carries=carries, **values)


def restore_generators(progress: Progress) -> None:
    """Set torch's generators to the states in a checkpoint; call it when the finished batches are skipped."""
    for number, state in enumerate(progress.generators):
        if number == 0:
            torch.random.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, progress.total.device)
    progress.generators = []


def _to_cpu(carry: Any) -> Any:
    """A copy without gradients, of tensors in tuples, lists and dicts: what is loaded without executing code."""
    if isinstance(carry, Tensor):
        return carry.detach().to("cpu", copy=True)
    if type(carry) in (tuple, list):
        return type(carry)(_to_cpu(one) for one in carry)
    if type(carry) is dict:
        return {name: _to_cpu(one) for name, one in carry.items()}
    if carry is None or type(carry) in (bool, int, float, str):
        return carry
    raise CarryError(
        "What loss carries must be tensors, numbers or strings in tuples, lists and dicts to be saved within an epoch, "
        f"got a {type(carry).__name__}. Convert it."
    )


def _to_device(carry: Any, device: torch.device) -> Any:
    if isinstance(carry, Tensor):
        return carry.to(device)
    if isinstance(carry, tuple | list):
        return type(carry)(_to_device(one, device) for one in carry)
    if isinstance(carry, dict):
        return {name: _to_device(one, device) for name, one in carry.items()}
    return carry


class Watch:
    """Saves a training between its steps: from time to time, and before a signal or the end of the time stops it.

    Call it after each step. Within `steps`, SIGINT and SIGTERM take effect after the running step and its checkpoint;
    a second signal, a second or more later, takes effect at once.

    Args:
        save: writes a checkpoint.
        minutes: of wall clock between two checkpoints.
        time_is_up: whether the training must end.
    """

    def __init__(
        self, save: Callable[[], None], *, minutes: float = 5.0, time_is_up: Callable[[], bool] = lambda: False
    ) -> None:
        self.save, self.minutes, self.time_is_up = save, minutes, time_is_up
        self._saved = time.monotonic()
        self._before: dict[int, Any] = {}  # handlers of the signals
        self._received: tuple[int, float] | None = None  # signal and time
        self._can_save = True

    def __call__(self) -> None:
        """After a step: save if it is time.

        Raises:
            TimeIsUp: the training must end.
        """
        if self._received is not None:
            self._try_to_save()
            self._let_through()
        elif self.time_is_up():
            self._try_to_save()
            raise TimeIsUp
        elif time.monotonic() - self._saved >= 60 * self.minutes:
            self._try_to_save()

    def check_time(self) -> None:
        """Only check the time, for a loop of one's own: it cannot be continued within an epoch.

        Raises:
            TimeIsUp: the training must end.
        """
        if self.time_is_up():
            raise TimeIsUp

    @contextmanager
    def steps(self) -> Iterator[None]:
        """The block trains: within it signals wait for the end of the running step."""
        self._saved = time.monotonic()
        if threading.current_thread() is threading.main_thread():  # only this thread may set handlers
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self._before = {n: one for n, one in handlers.items() if one not in (None, signal.SIG_IGN)}
        for number in self._before:
            signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before = {}
            if self._received is not None:
                self._let_through()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is None:
            self._received = (number, time.monotonic())
        elif time.monotonic() - self._received[1] >= REPEATED:
            self._let_through()

    def _let_through(self) -> None:
        """Let the signal take the effect that it has without a watch."""
        assert self._received is not None
        (number, _), self._received = self._received, None
        if number in self._before:
            signal.signal(number, self._before[number])
        signal.raise_signal(number)
        if number in self._before:  # a handler that lets the training go on
            signal.signal(number, self._receive)

    def _try_to_save(self) -> None:
        if self._can_save:
            try:
                self.save()
            except CarryError as error:
                self._can_save = False
                logger.warning("An interrupted epoch begins anew: %s", error)
        self._saved = time.monotonic()
