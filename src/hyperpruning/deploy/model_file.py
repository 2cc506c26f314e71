"""A sparse model as a file: safetensors, with what it takes to build the network again in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hyperpruning.files import weights_sha256, write_atomic
from hyperpruning.models.language_model import LanguageModel

FORMAT = "hyperpruning 1"


class ModelFileError(ValueError):
    """A model file that cannot be read."""


def save_model(path: Path, weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write a model file.

    Args:
        path: of the file, ``*.safetensors``.
        weights: of the network, pruned ones as zeros, tied ones once.
        description: JSON types: sizes ("model"), "vocabulary", and whatever is worth knowing. With "sha256", the hash
            of all weights (tied ones twice), `load_model` checks the weights.
    """
    tensors = {name: value.contiguous() for name, value in weights.items()}
    write_atomic(path, save(tensors, {FORMAT: json.dumps(description)}))  # one key: the order of two would vary


def describe_model(path: Path | str) -> dict[str, Any]:
    """What a model file says of itself: sizes, vocabulary, method, sparsity, losses.

    Raises:
        ModelFileError: not a model file of this project; a pickle is refused, since loading one can run code.
    """
    with _open(Path(path)) as file:
        description: dict[str, Any] = json.loads(file.metadata()[FORMAT])
        return description


def load_model(path: Path | str) -> LanguageModel:
    """The network of a model file, in evaluation mode.

    Args:
        path: a ``*.safetensors`` that a search wrote.

    Raises:
        ModelFileError: not a language model of this project, or its weights do not have the SHA-256 in its description;
            networks of other tasks load with safetensors alone.
    """
    description = describe_model(path)
    if "model" not in description or "vocabulary" not in description:
        raise ModelFileError(
            f"A model file must hold a language model, got a network of another task in {path}. "
            "Load its weights with safetensors.torch.load_file."
        )
    with _open(Path(path)) as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    try:
        network = LanguageModel(len(description["vocabulary"]), **description["model"])
        if description["model"]["tied"]:
            weights["decoder.weight"] = weights["encoder.weight"]
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError):
        raise ModelFileError(
            f"A model file must hold the network that it describes, got other weights in {path}. Export it again."
        ) from None
    if description.get("sha256", expected := weights_sha256(network.state_dict())) != expected:
        raise ModelFileError(
            f"The weights of a model file must have the SHA-256 in its description, got other weights in {path}. "
            "Resume the search, which writes the file again, or leave sha256 out when you save changed weights."
        )
    return network.eval()


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ModelFileError(f"A model file must exist, got {path}. Give a *.safetensors of a run folder.")
    try:
        file = safe_open(path, framework="pt")
    except SafetensorError as error:
        with path.open("rb") as raw:
            head = raw.read(4)
        if head[:1] == b"\x80" or head == b"PK\x03\x04":
            raise ModelFileError(
                f"A model file must be safetensors, got {path}, which is a pickle and can run code when it is loaded. "
                "If you trust it, convert it with safetensors.torch.save_file."
            ) from None
        raise ModelFileError(f"A model file must be safetensors, got {path} ({error}). Export it again.") from None
    metadata = file.metadata()  # type: ignore[no-untyped-call]
    if FORMAT not in (metadata or {}):
        raise ModelFileError(
            f"A model file must describe its network, got {path} without it. Export it with hyperprune."
        )
    return file
