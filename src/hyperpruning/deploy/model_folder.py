"""A sparse model as a folder: card.json says what it is, weights.bin has its weights as few bytes."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperpruning.deploy.compact import check_amount, checked, decode, encode
from hyperpruning.deploy.model_file import (
    Model,
    ModelFileError,
    build_network,
    describe_model,
    load_model,
    stored_shapes,
)
from hyperpruning.files import checked_size, write_atomic

CARD, WEIGHTS, PLAIN = "card.json", "weights.bin", "state_dict.safetensors"
FORMAT, VERSION = "hyperpruning model", 1
MOST_CARD, MOST_WEIGHTS = 1 << 28, 1 << 36  # bytes
LISTS = ("vocabulary", "classes")


def save_folder(
    folder: Path | str, weights: Mapping[str, Tensor], card: Mapping[str, Any], *, precision: str = "exact"
) -> None:
    """Write a model folder; the files are written one after the other, and a folder with only one of them is refused.

    Args:
        folder: is made if it does not exist.
        weights: of the network, pruned ones as zeros, tied ones once.
        card: JSON types: sizes ("model"), the "vocabulary" of a language model or the "kind" of another network, and
            whatever is worth knowing. Added are: how each tensor is stored, its sparsity, hashes, versions.
        precision: "exact", "fp16" or "int8" (a scale for each row of a matrix; what is no matrix stays exact).

    Raises:
        ValueError: no such precision, or weights that do not fit it.
    """
    folder, tensors, parts = Path(folder), dict[str, Any](), list[bytes]()
    for name, value in weights.items():
        about, content = encode(value, precision)
        tensors[name] = about | {"sparsity": 1 - about["nonzeros"] / max(1, value.numel())}
        parts.append(content)
    content = b"".join(parts)
    full = {
        **card,
        "format": FORMAT,
        "version": VERSION,
        "precision": precision,
        "tensors": tensors,
        "dense_bytes": sum(value.numel() * value.element_size() for value in weights.values()),
        "weights_bytes": len(content),
        "weights_file_sha256": hashlib.sha256(content).hexdigest(),
        "versions": {name: version(name) for name in ("hyperpruning", "torch", "numpy")}
        | {"python": ".".join(map(str, sys.version_info[:3]))},
        **{f"{name}_sha256": _hash_of(card[name]) for name in LISTS if name in card},
    }
    if "sha256" in full:  # of the weights with -0.0, before rounding
        full["exported_from_sha256"] = full.pop("sha256")
    full["card_sha256"] = _hash_of(full)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / WEIGHTS, content)
    write_atomic(folder / CARD, json.dumps(full, indent=1).encode())


def is_model_folder(path: Path | str) -> bool:
    """Whether there is a card in it."""
    return (Path(path) / CARD).is_file()


def describe(path: Path | str) -> dict[str, Any]:
    """What a model says of itself: the card of a model folder, or the description of a model file.

    Raises:
        ModelFileError: it is neither, it was changed, or it is of a newer version.
    """
    path = Path(path)
    return _card(path) if path.is_dir() else describe_model(path)


def load(path: Path | str) -> Model:
    """The network of a model folder or of a model file, in evaluation mode; pruned weights are exactly zero.

    Nothing in it is executed. Hashes and sizes are checked before memory for weights is allocated.

    Args:
        path: a folder that `hyperprune export --out DIR` wrote, or a ``*.safetensors`` that a search wrote.

    Raises:
        ModelFileError: it is neither, it was changed, it is of a newer version, or it is a network of another task;
            `load_tensors` reads its weights.
    """
    path = Path(path)
    if not path.is_dir():
        return load_model(path)
    card = _card(path)
    known = "vocabulary" in card or "kind" in card
    if not isinstance(card.get("model"), dict) or not known:
        raise ModelFileError(
            f"A model folder must hold a network of this package to be built, got a network of another task in {path}. "
            "Read its weights with hyperpruning.deploy.model_folder.load_tensors."
        )
    try:
        with torch.device("meta"):  # the sizes of the card could fill the memory: compare shapes first
            expected = stored_shapes(build_network(card, len(card["tensors"])))
        found = {name: tuple(about["shape"]) for name, about in card["tensors"].items()}
        if found != expected or {about["dtype"] for about in card["tensors"].values()} != {"float32"}:
            raise ValueError("its tensors have other names, shapes or dtypes")
        weights = _tensors(path, card)
        network = build_network(card, len(weights))
        if card["model"].get("tied"):
            weights["decoder.weight"] = weights["encoder.weight"]
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, OverflowError, AttributeError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(
            f"A model folder must hold the network that its card describes, got another one in {path} ({error}). "
            "Export it again."
        ) from None
    return network.eval()


def load_tensors(folder: Path | str) -> dict[str, Tensor]:
    """The weights of a model folder by name, also of a network of your own; tied ones once.

    Raises:
        ModelFileError: it is no model folder, it was changed, or it is of a newer version.
    """
    folder = Path(folder)
    return _tensors(folder, _card(folder))


def _tensors(folder: Path, card: Mapping[str, Any]) -> dict[str, Tensor]:
    tensors: dict[str, Any] = card["tensors"]
    try:
        amount = sum(prod(checked(about)[0]) for about in tensors.values())
        size = sum(sum(about["sections"]) for about in tensors.values())
        if (there := checked_size(folder / WEIGHTS, most=MOST_WEIGHTS)) != size:
            raise ValueError(f"{WEIGHTS} has {there:,} bytes, and its card says {size:,}")
        check_amount(amount, size)
        content = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(content).hexdigest() != card["weights_file_sha256"]:
            raise ValueError(f"{WEIGHTS} has another SHA-256")
        found, start = {}, 0
        for name, about in tensors.items():
            end = start + sum(about["sections"])
            found[name], start = decode(about, content[start:end]), end
    except OSError as error:
        raise ModelFileError(
            f"A model folder must have a {WEIGHTS}, got {folder} ({error.strerror}). Export it again."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refused(folder, str(error)) from None
    return found


def _card(folder: Path) -> dict[str, Any]:
    try:
        checked_size(folder / CARD, most=MOST_CARD)
        card = json.loads((folder / CARD).read_bytes())
    except FileNotFoundError:
        raise ModelFileError(
            f"A model folder must have a {CARD}, got {folder} without one. Give a folder that hyperprune export wrote."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(folder, f"{CARD}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT or type(card.get("version")) is not int:
        raise ModelFileError(
            f"A {CARD} must be one of this project, got another one in {folder}. Give a folder that hyperprune export "
            "wrote."
        )
    if card["version"] > VERSION:
        raise ModelFileError(
            f"A model folder must be of version {VERSION} or older, got version {card['version']} in {folder}. Install "
            "a newer hyperpruning."
        )
    own = card.pop("card_sha256", None)
    if own != _hash_of(card) or any(
        card.get(f"{name}_sha256") != _hash_of(card[name]) for name in LISTS if name in card
    ):
        raise _refused(folder, f"{CARD} has another SHA-256")
    if not isinstance(card.get("tensors"), dict) or not isinstance(card.get("kind", ""), str):
        raise _refused(folder, f"{CARD} names no tensors, or a kind that is no text")
    return card


def _hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def _refused(folder: Path, why: str) -> ModelFileError:
    return ModelFileError(
        f"A model folder must be as hyperprune export wrote it, got a changed one in {folder} ({why}). Export it again."
    )
