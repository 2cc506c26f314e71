"""The hidden units of a language model, and the smaller language model without the pruned units."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from hyperpruning.models.language_model import LanguageModel
from hyperpruning.models.rhn import RHNLayer
from hyperpruning.models.softmaxes import MixtureOfSoftmaxes
from hyperpruning.models.stack import CELLS, GATES, Stack
from hyperpruning.structured.units import Axis, UnitGroup, recurrent_units, shrink


def language_model_units(model: LanguageModel) -> dict[str, UnitGroup]:
    """Return the unit groups of the recurrent layers: "rnn.l0", "rnn.l1" ... (in a `Stack` "rnn.0.l0", "rnn.1.l0" ...).

    With tied weights, the units of the top layer include the columns of the embedding, unless a mixture of softmaxes
    is between them.
    """
    parts = [f"rnn.{layer}" for layer in range(len(model.rnn))] if isinstance(model.rnn, Stack) else ["rnn"]
    inputs = [f"{part}.w" if model.cell not in CELLS else f"{part}.weight_ih_l0" for part in parts]
    top = ["decoder.weight", *(inputs[:1] if _tied(model) else [])]
    if isinstance(model.decoder, MixtureOfSoftmaxes):
        top = ["decoder.prior.weight", "decoder.latent.weight"]
    groups: dict[str, UnitGroup] = {}
    for part, readers in zip(parts, [*([above] for above in inputs[1:]), top], strict=True):
        units = recurrent_units if model.cell in CELLS else _highway_units
        groups |= units(model, part, readers=readers)
    return groups


def _highway_units(model: LanguageModel, part: str, *, readers: list[str]) -> dict[str, UnitGroup]:
    """Return the unit group of a recurrent highway layer, as `recurrent_units` does for torch's layers."""
    layer = model.get_submodule(part)
    assert isinstance(layer, RHNLayer)
    gates = GATES[model.cell]
    matrices = [f"{part}.r.{depth}" for depth in range(len(layer.r))]
    biases = [f"{part}.b.{depth}" for depth in range(len(layer.b))]
    rows = [Axis(name, 0, gates) for name in (f"{part}.w", *matrices, *biases)]
    first = {"decoder.weight": "encoder.weight"} if _tied(model) else {}  # tied weights have the encoder's name
    columns = [Axis(first.get(name, name), 1) for name in (*matrices, *readers)]
    return {f"{part}.l0": UnitGroup(layer.hidden_size, (*rows, *columns))}


def shrink_language_model(model: LanguageModel, kept: Mapping[str, Tensor]) -> LanguageModel:
    """Remove the pruned units from a language model: return a smaller one with the same logits, in the same mode.

    Its layers are a `Stack`. Save it with ``{"model": small.sizes, "vocabulary": ...}``.

    Args:
        model: its pruned units must be zero: multiply its parameters by `unit_masks` before.
        kept: bool (H,) by group of `language_model_units`, True for the units that are kept.

    Raises:
        ValueError: a removed unit is not zero, or `kept` does not fit the model.
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
