"""A sparse model as a file: safetensors, with what it takes to build the network again in the header.

Beside it, a language model without its pruned units: a smaller one, which is saved and loaded like any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hyperpruning.models.language_model import LanguageModel
from hyperpruning.models.rhn import RHNLayer
from hyperpruning.models.softmaxes import MixtureOfSoftmaxes
from hyperpruning.models.stack import CELLS, GATES, Stack
from hyperpruning.sparsity.units import Axis, Units, recurrent_units, shrink
from hyperpruning.training.checkpoint import write_atomic

FORMAT = "hyperpruning 1"


class ModelFileError(ValueError):
    """A model file that cannot be read."""


def save_model(path: Path, weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write a model file.

    Args:
        path: of the file, ``*.safetensors``.
        weights: of the network, pruned ones as zeros, tied ones once.
        description: JSON types: sizes ("model"), "vocabulary", and whatever is worth knowing.
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
        ModelFileError: not a language model of this project; networks of other tasks load with safetensors alone.
    """
    description = describe_model(path)
    if "model" not in description or "vocabulary" not in description:
        raise ModelFileError(
            f"A language model says its sizes and vocabulary, and {path} holds a network of another task: "
            "load its weights with safetensors.torch.load_file."
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
            f"A model file holds the network it describes, and {path} does not: export it again."
        ) from None
    return network.eval()


def language_model_units(model: LanguageModel) -> dict[str, Units]:
    """Describe the units of each recurrent layer, "rnn.l0", "rnn.l1" ... (in a `Stack`: "rnn.0.l0", "rnn.1.l0" ...).

    Tied weights make the units of the top layer and the columns of the embedding one, unless a mixture of softmaxes
    stands between the two.
    """
    parts = [f"rnn.{layer}" for layer in range(len(model.rnn))] if isinstance(model.rnn, Stack) else ["rnn"]
    inputs = [f"{part}.w" if model.cell not in CELLS else f"{part}.weight_ih_l0" for part in parts]
    top = ["decoder.weight", *(inputs[:1] if _tied(model) else [])]
    if isinstance(model.decoder, MixtureOfSoftmaxes):
        top = ["decoder.prior.weight", "decoder.latent.weight"]
    groups: dict[str, Units] = {}
    for part, readers in zip(parts, [*([above] for above in inputs[1:]), top], strict=True):
        units = recurrent_units if model.cell in CELLS else _highway_units
        groups |= units(model, part, readers=readers)
    return groups


def _highway_units(model: LanguageModel, part: str, *, readers: list[str]) -> dict[str, Units]:
    """Describe the units of a recurrent highway layer, as `recurrent_units` does those of torch's."""
    layer = model.get_submodule(part)
    assert isinstance(layer, RHNLayer)
    gates = GATES[model.cell]
    matrices = [f"{part}.r.{depth}" for depth in range(len(layer.r))]
    biases = [f"{part}.b.{depth}" for depth in range(len(layer.b))]
    rows = [Axis(name, 0, gates) for name in (f"{part}.w", *matrices, *biases)]
    first = {"decoder.weight": "encoder.weight"} if _tied(model) else {}  # the name of tied weights
    columns = [Axis(first.get(name, name), 1) for name in (*matrices, *readers)]
    return {f"{part}.l0": Units(layer.hidden_size, (*rows, *columns))}


def shrink_language_model(model: LanguageModel, kept: Mapping[str, Tensor]) -> LanguageModel:
    """Cut the pruned units out of a language model: a smaller one with the same logits, and the same mode.

    Its layers are a `Stack`. Save it with ``{"model": small.sizes, "vocabulary": ...}``.

    Args:
        model: whose pruned units are zero: multiplied by `unit_masks`.
        kept: bool (H,) by group of `language_model_units`.

    Raises:
        ValueError: a unit to be cut is not zero, or the choice is not one of these units.
    """
    groups = language_model_units(model)
    weights = shrink(dict(model.named_parameters()), groups, kept)
    weights = {re.sub(r"^rnn\.(\w+)_l(\d+)$", r"rnn.\2.\1_l0", name): value for name, value in weights.items()}
    sizes = model.sizes | {
        "embedding": weights["encoder.weight"].shape[1],
        "hidden": [int(kept[group].count_nonzero()) for group in groups],
    }
    small = LanguageModel(model.encoder.num_embeddings, **sizes).to(model.encoder.weight)
    small.load_state_dict(weights | ({"decoder.weight": weights["encoder.weight"]} if sizes["tied"] else {}))
    return small.train(model.training)


def _tied(model: LanguageModel) -> bool:
    return model.decoder.weight is model.encoder.weight


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ModelFileError(f"A model file must exist, and {path} does not: give a *.safetensors of a run folder.")
    try:
        file = safe_open(path, framework="pt")
    except SafetensorError as error:
        with path.open("rb") as raw:
            head = raw.read(4)
        if head[:1] == b"\x80" or head == b"PK\x03\x04":
            raise ModelFileError(
                f"A model file is safetensors, and {path} is a pickle, which can run code when it is loaded: "
                "convert it with safetensors.torch.save_file where you trust it."
            ) from None
        raise ModelFileError(f"A model file is safetensors, and {path} is not ({error}).") from None
    metadata = file.metadata()  # type: ignore[no-untyped-call]
    if FORMAT not in (metadata or {}):
        raise ModelFileError(
            f"A model file says how to build its network, and {path} does not: export it with hyperprune."
        )
    return file
