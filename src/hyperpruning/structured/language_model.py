"""The hidden units of a language model, and the smaller language model without the pruned units."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hyperpruning.models.language_model import LanguageModel
from hyperpruning.models.softmaxes import MixtureOfSoftmaxes
from hyperpruning.structured.layers import in_a_stack, layer_inputs, layer_units
from hyperpruning.structured.units import UnitGroup, shrink


def language_model_units(model: LanguageModel) -> dict[str, UnitGroup]:
    """Return the unit groups of the recurrent layers: "rnn.l0", "rnn.l1" ... (in a `Stack` "rnn.0.l0", "rnn.1.l0" ...).

    With tied weights, the units of the top layer include the columns of the embedding, unless a mixture of softmaxes
    is between them.
    """
    first = layer_inputs(model, model.cell)[0]
    top = ["decoder.weight", *([first] if _tied(model) else [])]
    if isinstance(model.decoder, MixtureOfSoftmaxes):
        top = ["decoder.prior.weight", "decoder.latent.weight"]
    return layer_units(model, model.cell, readers=top)


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
    weights = in_a_stack(weights)
    sizes = model.sizes | {
        "embedding": weights["encoder.weight"].shape[1],
        "hidden": [int(kept[group].count_nonzero()) for group in groups],
    }
    small = LanguageModel(model.encoder.num_embeddings, **sizes).to(model.encoder.weight)
    small.load_state_dict(weights | ({"decoder.weight": weights["encoder.weight"]} if sizes["tied"] else {}))
    return small.train(model.training)


def _tied(model: LanguageModel) -> bool:
    return model.decoder.weight is model.encoder.weight
