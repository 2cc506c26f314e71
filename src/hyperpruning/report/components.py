"""The components of a pruning method and the selection criteria in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hyperpruning.search.space import is_method_setting, method_config
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.serialization import from_config, to_config

LATENCY = "latency"  # the allocation of all candidates of a search with a latency target, as it is shown
COMPONENTS = {  # (component, its value) -> what it does
    ("allocation", "uniform"): "every weight matrix starts with the same density",
    ("allocation", "er"): "Erdős-Rényi: a larger weight matrix starts with a lower density",
    ("allocation", "erk"): "Erdős-Rényi kernel: a larger weight tensor starts with a lower density",
    ("allocation", "uniform_except"): "some weight matrices stay dense, the others start with the same density",
    ("allocation", LATENCY): "every weight matrix has as many weights as the latency target leaves it",
    ("mask_init", "random"): "the first active weights are drawn at random",
    ("mask_init", "magnitude"): "the weights with the largest magnitude are active first",
    ("mask_init", "lamp"): "the weights with the largest magnitude, scaled for each weight matrix, are active first",
    ("mask_init", "snip"): "the weights whose removal changes the loss most (first order) are active first",
    ("mask_init", "grasp"): "the weights whose removal harms the gradient flow most are active first",
    ("mask_init", "jacobian"): "the weights that change the norm of the recurrent Jacobian most are active first",
    ("mask_init_scope", "tensor"): "the first weights are compared within each weight matrix",
    ("mask_init_scope", "global"): "the first weights are compared over the whole network",
    ("granularity", "weight"): "single weights are pruned",
    ("granularity", "row"): "whole rows of a weight matrix are pruned",
    ("granularity", "column"): "whole columns of a weight matrix are pruned",
    ("granularity", "block_4x4"): "blocks of 4 x 4 weights are pruned",
    ("granularity", "block_8x4"): "blocks of 8 outputs x 4 inputs are pruned",
    ("granularity", "two_of_four"): "of every 4 weights in a row, 2 stay",
    ("granularity", "one_of_four"): "of every 4 weights in a row, 1 stays",
    ("density", "constant"): "the network has its final density from the first step",
    ("density", "cubic"): "the density falls fast at first, then slowly",
    ("density", "geometric"): "in equal times the same fraction of the active weights is pruned",
    ("density", "one_shot"): "the density falls once",
    ("drop", "magnitude"): "each mask update drops the weights with the smallest magnitude",
    ("drop", "taylor"): "each mask update drops the weights whose removal changes the loss least (first order)",
    ("drop", "magnitude_gradient"): "each mask update drops weights with a small magnitude and a small gradient",
    ("drop", "lamp"): "each mask update drops the weights with the smallest magnitude, scaled for each weight matrix",
    ("drop", "random"): "each mask update drops weights at random",
    ("drop", "none"): "no weight is dropped: the mask is static",
    ("drop_scope", "tensor"): "weights are compared within each weight matrix",
    ("drop_scope", "global"): "weights are compared over the whole network",
    ("drop_scope", "gate"): "weights are compared within each gate",
    ("drop_scope", "sign"): "in each weight matrix, positive and negative weights are compared separately",
    ("replace_scope", "same"): "weights that are dropped to be regrown are compared as the other dropped ones",
    ("replace_scope", "tensor"): "weights that are dropped to be regrown are compared within each weight matrix",
    ("replace_scope", "global"): "weights that are dropped to be regrown are compared over the whole network",
    ("replace_scope", "gate"): "weights that are dropped to be regrown are compared within each gate",
    ("replace_scope", "sign"): "weights that are dropped to be regrown are compared with those of the same sign",
    ("grow", "random"): "new weights grow at random positions",
    ("grow", "gradient"): "new weights grow where the gradient is largest",
    ("grow", "gradient_average"): "new weights grow where the running mean of the gradient is largest",
    ("grow", "unfired"): "new weights grow first where no weight has been active yet",
    ("grow", "none"): "no weight grows",
    ("grow_scope", "tensor"): "positions of new weights are compared within each weight matrix",
    ("grow_scope", "global"): "positions of new weights are compared over the whole network",
    ("grow_scope", "gate_equal"): "every gate of a weight matrix gets equally many new weights",
    ("redistribute", "none"): "every weight matrix regrows as many weights as it dropped",
    ("redistribute", "nonzeros"): "each weight matrix regrows in proportion to its number of remaining weights",
    ("redistribute", "magnitude"): "each weight matrix regrows in proportion to the mean magnitude of its weights",
    ("redistribute", "gradient"): "each weight matrix regrows in proportion to the mean gradient of its weights",
    ("redistribute", "momentum"): "each weight matrix regrows in proportion to the mean momentum of its weights",
    ("redistribute", "size"): "each weight matrix regrows in proportion to its size",
    ("decay", "constant"): "the drop fraction stays constant",
    ("decay", "cosine"): "the drop fraction decays to zero along a cosine",
    ("decay", "linear"): "the drop fraction decays to zero linearly",
    ("regrowth_init", "zero"): "a new weight starts at zero",
    ("regrowth_init", "keep"): "a new weight starts at zero; one that the same update dropped keeps its value",
    ("regrowth_init", "random"): "a new weight starts at a random value",
    ("update", "exact"): "every mask update keeps the number of active weights exactly",
    ("update", "published_magnitude"): "as the published code: inexact, by magnitude",
    ("update", "published_set"): "as the published code of SET: inexact, positive and negative weights separately",
    ("update", "published_threshold"): "as the published code of DSR: inexact, by one adaptive threshold",
    ("update", "published_global"): "as the published code: inexact, by one threshold searched for the whole network",
    ("dense_part", "none"): "every weight of a prunable matrix can be pruned",
    ("dense_part", "recurrent_diagonal"): "the weight from each hidden unit to itself stays active",
    ("weight_init", "unchanged"): "weights start as the network initialises them",
    (
        "weight_init",
        "fan_in",
    ): "weights start larger, so that each unit's output varies as much as in the dense network",
}
NUMBERS = {  # components that are numbers
    "drop_fraction": "fraction of the active weights that the first mask update drops and regrows",
    "density_start": "density at the start of the density schedule",
    "density_from": "fraction of the training after which the density begins to fall",
    "density_until": "fraction of the training after which the density is final",
    "floor": "lowest density of a weight matrix",
    "ceiling": "highest density of a weight matrix",
    "interval": "optimizer steps between two mask updates, unless the setting updates_per_epoch gives their number",
    "stop": "fraction of the training after which the mask stays as it is",
    "rewind": "optimizer step to whose weights each mask update returns",
    "soft_shrinkage": "factor on the pruned weights in each step, instead of setting them to zero",
    "gate_density_1": "density of the first gate (LSTM: input, GRU: reset), relative to the other gates",
    "gate_density_2": "density of the second gate (LSTM: forget, GRU: update), relative to the other gates",
    "gate_density_3": "density of the third gate (LSTM: cell, GRU: new), relative to the other gates",
    "gate_density_4": "density of the fourth gate (LSTM: output), relative to the other gates",
}
CRITERION_NAMES = {
    "ls": "LS distance",
    "loss": "validation loss",
    "rank_sum": "rank sum",
    "conditional_ls": "conditional LS distance",
    "averaged_loss": "averaged loss",
    "blend": "blend",
    "calibrated": "calibrated ranks",
    "min_loss": "lowest loss",
    "extrapolated_loss": "extrapolated loss",
    "ls_end": "LS distance to the end",
    "averaged_ls": "LS distance of averaged weights",
    "drop_fraction": "drop fraction",
    "first": "order of suggestion",
    "config_surrogate": "surrogate of configs",
    "surrogate": "surrogate",
}
CRITERIA = {
    "ls": "distance of a candidate's Lyapunov spectrum to that of the dense reference after the same epoch",
    "loss": "loss on the validation split",
    "rank_sum": "rank by LS distance plus rank by validation loss",
    "conditional_ls": "LS distance, less what the settings outside the pruning method (such as the learning rate) "
    "explain of it by a regression over the candidates",
    "averaged_loss": "validation loss of the exponential moving average of the weights",
    "blend": "rank by the loss of averaged weights plus rank by conditional LS distance, whose weight falls to zero in "
    "the first fifth of the training",
    "calibrated": "ranks by the loss of averaged weights, by conditional LS distance and by validation loss, each "
    "weighted by how well it predicted the candidates of this search that were trained further",
    "min_loss": "lowest validation loss after any epoch so far",
    "extrapolated_loss": "validation loss at the last epoch, extrapolated by a line in the logarithm of the epoch",
    "ls_end": "distance of a candidate's Lyapunov spectrum to that of the dense reference after its last epoch",
    "averaged_ls": "LS distance between the exponential moving averages of the weights of a candidate and of the dense "
    "reference",
    "drop_fraction": "drop fraction of the method, known without training: the baseline",
    "first": "order in which the sampler suggested the candidates: the baseline of knowing nothing",
    "config_surrogate": "loss that a ridge regression on the settings predicts, fitted to the candidates that were "
    "trained further",
    "surrogate": "the same with the loss of averaged weights and the conditional LS distance so far",
}
DISTANCES = {
    "l2": "square root of the sum of the squared differences of the exponents",
    "l1": "sum of the absolute differences of the exponents",
    "relative": "mean of the differences of the exponents relative to their magnitudes",
    "leading": "square root of the sum of the squared differences of the largest half of the exponents, by rank",
    "exp": "square root of the sum of the squared differences of the growth factors, the exponentials of the exponents",
    "wasserstein": "mean absolute difference of the exponents by rank",
    "clipped": "square root of the sum of the squared differences of the exponents, each at least -5",
}
SAMPLERS = {
    "tpe": "tree-structured Parzen estimator",
    "random": "independent draws",
    "gp": "Gaussian process",
    "qmc": "quasi-Monte Carlo",
    "grid": "every config in turn",
    "nsga2": "genetic algorithm NSGA-II",
}
MAIN = ("allocation", "drop", "drop_scope", "grow", "redistribute", "drop_fraction", "decay")


def meaning(component: str, value: object) -> str:
    """What a component of a method does; "" if it is not known.

    >>> meaning("grow", "random"), meaning("training.lr", 0.1)
    ('new weights grow at random positions', '')
    """
    return NUMBERS.get(component, "") or COMPONENTS.get((component, str(value)), "")


def with_meaning(value: str, meanings: Mapping[str, str]) -> str:
    """A value and its meaning, if it is known.

    >>> with_meaning("l1", DISTANCES), with_meaning("mine", DISTANCES)
    ('l1: sum of the absolute differences of the exponents', 'mine')
    """
    return f"{value}: {meanings[value]}" if value in meanings else value


def described(config: Mapping[str, Any]) -> dict[str, str]:
    """The components of a method with their meanings, and the other settings: component -> "value: meaning".

    Args:
        config: a candidate's, as the ledger has it. If this version does not know one of its components, the values
            stand without meanings.

    >>> described({"method": "set"})["grow"]
    'random: new weights grow at random positions'
    """
    try:
        values = with_defaults(config)
    except (ValueError, TypeError):  # a component that this version does not know
        return {name: str(value) for name, value in config.items()}
    default = to_config(Method())
    shown = {"method": str(config["method"])} if "method" in config else {}
    for name in (*MAIN, *(name for name, value in values.items() if name not in MAIN and value != default.get(name))):
        said = meaning(name, values[name])
        shown[name.replace("_", " ")] = f"{values[name]}: {said}" if said else str(values[name])
    return shown | {name: str(value) for name, value in config.items() if not is_method_setting(name)}


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """All components of the method of a config.

    Raises:
        ValueError, TypeError: this version does not know one.
    """
    given = {"allocation": LATENCY} if config.get("allocation") == LATENCY else {}
    return to_config(from_config({k: v for k, v in method_config(config).items() if k not in given})) | given


def criterion_name(criterion: str) -> str:
    """What a criterion is called, also one that is joined of several.

    >>> criterion_name("ls then ls + loss")
    'LS distance then LS distance + validation loss'
    """
    return re.sub(r"\w+", lambda word: CRITERION_NAMES.get(word[0], word[0]), criterion)


def described_criteria(criteria: Iterable[str]) -> dict[str, str]:
    """The meaning of each criterion, and of each part of one that is joined of several: name -> meaning.

    >>> list(described_criteria(["ls then ls + loss"]))
    ['LS distance then LS distance + validation loss', 'LS distance', 'validation loss']
    """
    found = {}
    for criterion in criteria:
        rules = {
            " then ": "one criterion for each rung, the last one for all later rungs",
            "+": "sum of the ranks",
            "*": "product of the ranks",
        }
        if said := [rule for sign, rule in rules.items() if sign in criterion]:
            found[criterion_name(criterion)] = "; ".join(said)
        for part in re.findall(r"\w+", criterion):
            if part in CRITERIA:
                found[CRITERION_NAMES[part]] = CRITERIA[part]
    return found


def join_names(names: Sequence[str]) -> str:
    """Join names as in a sentence.

    >>> join_names(["a"]), join_names(["a", "b"]), join_names(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
