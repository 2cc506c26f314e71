"""How the suites compare and complain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch


def require(holds: bool, sentence: str) -> None:
    """Raise an AssertionError with the sentence unless something holds."""
    if not holds:
        raise AssertionError(sentence)


def bits(value: Any) -> Any:
    """A nested value with the bytes of its tensors instead of the tensors, to compare it bit for bit with ``==``."""
    if torch.is_tensor(value):
        flat = value.detach().cpu().contiguous().reshape(-1)
        return str(value.dtype), tuple(value.shape), flat.view(torch.uint8).numpy().tobytes()
    if isinstance(value, Mapping):
        return {key: bits(one) for key, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: bits(getattr(value, field.name)) for field in fields(value)}
    return [bits(one) for one in value] if isinstance(value, list | tuple) else value
