"""The hidden units of a classifier or forecaster, and the smaller network without the pruned units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

from hyperpruning.models.sequence_model import SequenceModel
from hyperpruning.structured.layers import in_a_stack, layer_units
from hyperpruning.structured.units import UnitGroup, shrink

Model = TypeVar("Model", bound=SequenceModel)


def sequence_model_units(model: SequenceModel) -> dict[str, UnitGroup]:
    """Return the unit groups of the recurrent layers: "rnn.l0", "rnn.l1" ... (in a `Stack` "rnn.0.l0", "rnn.1.l0" ...).

    Args:
        model: a `SequenceClassifier` or `Forecaster`.
    """
    return layer_units(model, model.sizes["cell"], readers=["output.weight"])


def shrink_sequence_model(model: Model, kept: Mapping[str, Tensor]) -> Model:
    """Remove the pruned units from a classifier or forecaster: return a smaller one with the same outputs and mode.

    Its layers are a `Stack`.

    Args:
        model: a `SequenceClassifier` or `Forecaster`; its pruned units must be zero: multiply its parameters by
            `unit_masks` before.
        kept: bool (H,) by group of `sequence_model_units`, True for the units that are kept.

    Raises:
        ValueError: a removed unit is not zero, or `kept` does not fit the model.
    """
    groups = sequence_model_units(model)
    weights = in_a_stack(shrink(dict(model.named_parameters()), groups, kept))
    hidden = [int(kept[group].count_nonzero()) for group in groups]
    small = type(model)(**model.sizes | {"hidden": hidden}).to(model.output.weight)
    small.load_state_dict(weights | dict(model.named_buffers()))
    return small.train(model.training)
