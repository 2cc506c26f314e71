"""The components of a pruning method and the selection criteria in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import from_config, to_config

COMPONENTS = {  # (component, its value) -> what it does
    ("allocation", "uniform"): "every weight matrix starts with the same density",
    ("allocation", "er"): "Erdős-Rényi: a larger weight matrix starts with a lower density",
    ("drop", "magnitude"): "each mask update drops the weights with the smallest magnitude",
    ("drop", "taylor"): "each mask update drops the weights whose removal changes the loss least (first order)",
    ("drop", "magnitude_gradient"): "each mask update drops weights with a small magnitude and a small gradient",
    ("drop", "none"): "no weight is dropped: the mask is static",
    ("drop_scope", "tensor"): "weights are compared within each weight matrix",
    ("drop_scope", "global"): "weights are compared over the whole network",
    ("drop_scope", "gate"): "weights are compared within each gate",
    ("drop_scope", "sign"): "in each weight matrix, positive and negative weights are compared separately",
    ("grow", "random"): "new weights grow at random positions",
    ("grow", "gradient"): "new weights grow where the gradient is largest",
    ("grow", "gradient_average"): "new weights grow where the running mean of the gradient is largest",
    ("grow", "unfired"): "new weights grow first where no weight has been active yet",
    ("grow", "none"): "no weight grows",
    ("redistribute", "none"): "every weight matrix regrows as many weights as it dropped",
    ("redistribute", "nonzeros"): "each weight matrix regrows in proportion to its number of remaining weights",
    ("redistribute", "magnitude"): "each weight matrix regrows in proportion to the mean magnitude of its weights",
    ("decay", "constant"): "the drop fraction stays constant",
    ("decay", "cosine"): "the drop fraction decays to zero along a cosine",
    ("decay", "linear"): "the drop fraction decays to zero linearly",
}
DROP_FRACTION = "fraction of the active weights that the first mask update drops and regrows"
CRITERIA = {
    "ls": "distance of a candidate's Lyapunov spectrum to that of the dense reference after the same epoch",
    "loss": "loss on the validation split",
    "rank_sum": "rank by LS distance plus rank by validation loss",
}
MAIN = ("allocation", "drop", "drop_scope", "grow", "redistribute", "drop_fraction", "decay")


def described(config: Mapping[str, Any]) -> dict[str, str]:
    """The components of a method with their meanings: component -> "value: meaning".

    Args:
        config: a candidate's, as the ledger has it. If this version does not know one of its components, the values
            stand without meanings.

    >>> described({"method": "set"})["grow"]
    'random: new weights grow at random positions'
    """
    try:
        values = to_config(from_config(config))
    except (ValueError, TypeError):  # a component that this version does not know
        return {name: str(value) for name, value in config.items()}
    default = to_config(Method())
    shown = {"method": str(config["method"])} if "method" in config else {}
    for name in (*MAIN, *(name for name, value in values.items() if name not in MAIN and value != default[name])):
        meaning = DROP_FRACTION if name == "drop_fraction" else COMPONENTS.get((name, str(values[name])))
        shown[name.replace("_", " ")] = f"{values[name]}: {meaning}" if meaning else str(values[name])
    return shown
