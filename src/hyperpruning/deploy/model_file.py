"""A sparse model as a file: safetensors, with what it takes to build the network again in the header."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hyperpruning.files import weights_sha256, write_atomic
from hyperpruning.models.language_model import LanguageModel
from hyperpruning.models.sequence_model import Forecaster, SequenceClassifier

FORMAT = "hyperpruning 1"
Model = LanguageModel | SequenceClassifier | Forecaster
LANGUAGE = "language_modelling"
# the networks of the package that are built from their sizes, by the kind in the description
SEQUENCE_MODELS: dict[str, type[SequenceClassifier | Forecaster]] = {
    "classification": SequenceClassifier,
    "forecasting": Forecaster,
}


class ModelFileError(ValueError):
    """A model file that cannot be read."""


def save_model(path: Path, weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write a model file.

    Args:
        path: of the file, ``*.safetensors``.
        weights: of the network, pruned ones as zeros, tied ones once.
        description: JSON types: sizes ("model"), the "vocabulary" of a language model or the "kind" of another network,
            and whatever is worth knowing. With "sha256", the hash of all weights (tied ones twice), `load_model` checks
            the weights.
    """
    tensors = {name: value.contiguous() for name, value in weights.items()}
    write_atomic(path, save(tensors, {FORMAT: json.dumps(description)}))  # one key: the order of two would vary


def describe_model(path: Path | str) -> dict[str, Any]:
    """What a model file says of itself: sizes, vocabulary, method, sparsity, losses.

    Raises:
        ModelFileError: not a model file of this project; a pickle is refused, since loading one can run code.
    """
    with _open(Path(path)) as file:
        try:
            description = json.loads(file.metadata()[FORMAT])
        except (ValueError, RecursionError):
            description = None
    if not isinstance(description, dict) or not isinstance(description.get("kind", ""), str):
        raise ModelFileError(
            f"A model file must describe its network as a JSON object whose kind is text, got another description in "
            f"{path}. Export it again."
        )
    return description


def load_model(path: Path | str) -> Model:
    """The network of a model file, in evaluation mode.

    Args:
        path: a ``*.safetensors`` that a search wrote.

    Raises:
        ModelFileError: not a network of this package, or its weights do not have the SHA-256 in its description;
            networks of your own load with safetensors alone.
    """
    description = describe_model(path)
    known = "vocabulary" in description or description.get("kind") in SEQUENCE_MODELS
    if not isinstance(description.get("model"), dict) or not known:
        raise ModelFileError(
            f"A model file must hold a network of this package, got a network of another task in {path}. "
            "Load its weights with safetensors.torch.load_file."
        )
    with _open(Path(path)) as file:
        try:
            with torch.device("meta"):  # the sizes of the description could fill the memory: compare shapes first
                expected_shapes = stored_shapes(build_network(description, len(file.keys())))
            if {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} != expected_shapes:  # noqa: SIM118
                raise ValueError
            if {file.get_slice(name).get_dtype() for name in file.keys()} - {"F16", "BF16", "F32", "F64"}:  # noqa: SIM118
                raise ValueError
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            network = build_network(description, len(weights))
            if description["model"].get("tied"):
                weights["decoder.weight"] = weights["encoder.weight"]
            network.load_state_dict(weights)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError, OverflowError, AttributeError):
            raise ModelFileError(
                f"A model file must hold the network that it describes, got other weights in {path}. Export it again."
            ) from None
    if description.get("sha256", expected := weights_sha256(network.state_dict())) != expected:
        raise ModelFileError(
            f"The weights of a model file must have the SHA-256 in its description, got other weights in {path}. "
            "Resume the search, which writes the file again, or leave sha256 out when you save changed weights."
        )
    return network.eval()


def load_weights(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file by name, and its description ({} for a file of another origin).

    Args:
        path: a model file, any other ``*.safetensors``, or a state_dict that ``torch.save`` wrote; it is read
            without running code.

    Raises:
        ModelFileError: it is none of these.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"A model file must exist, got {path}. Give a *.safetensors or a state_dict.")
    with path.open("rb") as raw:
        head = raw.read(4)
    if head[:1] == b"\x80" or head == b"PK\x03\x04":
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
            weights = None
        if not (isinstance(weights, Mapping) and all(isinstance(value, Tensor) for value in weights.values())):
            raise ModelFileError(
                f"A model file must be safetensors or a state_dict, got {path}, which is another pickle. Save "
                "network.state_dict() by torch.save."
            )
        return dict(weights), {}
    try:
        with safe_open(path, framework="pt") as file:
            ours = FORMAT in (file.metadata() or {})
            weights = {} if ours else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelFileError(f"A model file must be safetensors, got {path} ({error}). Export it again.") from None
    if not ours:
        return weights, {}
    description = describe_model(path)
    if isinstance(description.get("model"), dict):
        return load_model(path).state_dict(), description
    with _open(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, description  # noqa: SIM118


def build_network(description: Mapping[str, Any], tensors: int) -> Model:
    """The network of a description; it has no more layers and micro-steps than the file has tensors."""
    sizes, kind = description["model"], description.get("kind", LANGUAGE)
    hidden, layers, depth = sizes.get("hidden"), sizes.get("layers") or 1, sizes.get("depth", 1)
    if max(layers, depth, len(hidden) if isinstance(hidden, list) else 1) > tensors:
        raise ValueError
    if kind in SEQUENCE_MODELS:
        if min(sizes["inputs"], sizes.get("classes", 1), sizes.get("horizon", 1)) < 1:  # torch warns of empty tensors
            raise ValueError
        return SEQUENCE_MODELS[kind](**sizes)
    vocabulary = description["vocabulary"]
    if type(sizes["tied"]) is not bool or not (isinstance(vocabulary, list) and vocabulary and sizes["embedding"]):
        raise ValueError
    return LanguageModel(len(vocabulary), **sizes)


def stored_shapes(network: Model) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a model file: tied weights once."""
    once = {name for name, _ in chain(network.named_parameters(), network.named_buffers())}
    return {name: tuple(value.shape) for name, value in network.state_dict().items() if name in once}


def save_plain(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a plain state_dict in safetensors, without a description: `safetensors.torch.load_file` reads it.

    Args:
        path: of the file.
        weights: all of ``network.state_dict()``; tied ones are written under each of their names.
    """
    write_atomic(path, save({name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}))


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ModelFileError(f"A model file must exist, got {path}. Give a *.safetensors of a run folder.")
    path.open("rb").close()  # an error of safetensors does not say why a file cannot be opened
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
