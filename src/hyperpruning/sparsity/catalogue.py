"""The published methods: compositions, sources, and when to use them; docs/methods.md is written from here."""

from dataclasses import dataclass, replace

from hyperpruning.sparsity import (
    allocations,
    mask_inits,
    redistributions,
    regrowth_inits,
    schedules,
    scopes,
    scores,
)
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.parameter import GRANULARITIES


@dataclass(frozen=True)
class Named:
    """A method that has a name.

    Attributes:
        method: its composition.
        source: where it was published; what differs here.
        use: when to take it.
    """

    method: Method
    source: str
    use: str


_STATIC = Method(drop=None, grow=None, drop_fraction=0.0)
_RIGL = Method(grow=scores.gradient, drop_fraction=0.3, stop=0.75)
_ITOP = Method(allocation=allocations.erk, interval=1500)
_ONE_SHOT = Method(density=schedules.one_shot, grow=None, drop_fraction=0.0)
_GMP = Method(density=schedules.cubic, density_until=0.75, stop=0.75, grow=None, drop_fraction=0.0)

NAMED: dict[str, Named] = {
    "static": Named(_STATIC, "a random mask from start to end", "as the baseline of every dynamic method"),
    "set": Named(
        Method(allocation=allocations.er, drop_scope=scopes.sign, drop_fraction=0.3, decay=schedules.constant),
        "Mocanu et al. 2018; new weights start at zero",
        "as the simplest dynamic method; needs no gradients of pruned weights",
    ),
    "dsr": Named(
        Method(
            drop_scope=scopes.global_,
            redistribute=redistributions.nonzeros,
            drop_fraction=0.1,
            decay=schedules.constant,
        ),
        "Mostafa & Wang 2019; exactly the weights that its threshold aims at are dropped",
        "when tensors should find their own densities",
    ),
    "snfs": Named(
        Method(grow=scores.gradient_average, redistribute=redistributions.momentum),
        "Dettmers & Zettlemoyer 2019; the momentum is a running mean of the gradient, kept for any optimizer",
        "when gradients are noisy; costs a dense buffer",
    ),
    "rigl": Named(
        _RIGL,
        "Evci et al. 2020; the optimizer's step is taken in an update too, and what is regrown at once starts at zero",
        "as the strong standard where gradients reach all weights",
    ),
    "rigl-erk": Named(
        replace(_RIGL, allocation=allocations.erk), "Evci et al. 2020", "with convolutions or very unequal tensors"
    ),
    "set-itop": Named(
        _ITOP, "Liu et al. 2021 (ITOP)", "with long trainings: rare updates, so that new weights have time to grow"
    ),
    "rigl-itop": Named(
        replace(_ITOP, grow=scores.gradient, interval=4000), "Liu et al. 2021 (ITOP)", "likewise, by gradient"
    ),
    "mest": Named(
        Method(drop=scores.magnitude_gradient, drop_fraction=0.2, decay=schedules.linear),
        "Yuan et al. 2021 (MEST), elastic mutation with lambda 1; its soft bound breaks a budget and is left out",
        "when small weights with large gradients should stay",
    ),
    "granet": Named(
        Method(
            allocation=allocations.erk,
            density=schedules.cubic,
            density_start=0.5,
            density_until=0.7,
            drop_scope=scopes.global_,
            grow=scores.gradient,
        ),
        "Liu et al. 2021 (GraNet), sparse to sparse from density 0.5",
        "when a denser beginning can be paid for",
    ),
    "selfish-rnn": Named(
        Method(regrowth_init=regrowth_inits.keep),
        "Liu et al. 2021 (Selfish-RNN), as its code runs: gates compete within the stacked matrix; it updates once an "
        "epoch and averages with SNT-ASGD",
        "as the recurrent standard",
    ),
    "selfish-rnn-gates": Named(
        Method(grow_scope=scopes.gate, regrowth_init=regrowth_inits.keep),
        "Liu et al. 2021 (Selfish-RNN), growth in equal parts for the gates",
        "when a gate must not starve; needs row_groups",
    ),
    "magnitude": Named(_ONE_SHOT, "one-shot pruning by size in each tensor", "as the simplest dense-to-sparse method"),
    "magnitude-global": Named(
        replace(_ONE_SHOT, drop_scope=scopes.global_),
        "one-shot pruning by size in the whole network",
        "where tensors have one scale; otherwise 'lamp'",
    ),
    "lamp": Named(
        replace(_ONE_SHOT, drop=scores.lamp, drop_scope=scopes.global_),
        "Lee et al. 2021 (LAMP), in one shot",
        "as the global one-shot method that is blind to scale",
    ),
    "gmp": Named(_GMP, "Zhu & Gupta 2017 (GMP)", "as the strong dense-to-sparse standard"),
    "gmp-global": Named(
        replace(_GMP, drop_scope=scopes.global_), "Zhu & Gupta 2017, ranked globally", "likewise, with free densities"
    ),
    "imp": Named(
        replace(_GMP, density=schedules.geometric, drop_scope=scopes.global_, interval=5000, rewind=0),
        "Frankle & Carbin 2019 (lottery tickets); the intervals are the rounds, and the learning rate is the caller's",
        "as an upper baseline, when many trainings can be paid for",
    ),
    "iss-p": Named(
        Method(
            mask_init=mask_inits.magnitude, grow=None, drop_fraction=0.0, interval=10, stop=0.5, soft_shrinkage=0.95
        ),
        "Wang et al. 2023 (ISS-P); soft shrinkage until half of the training, with a new ranking every 10 steps",
        "if setting weights to zero at once hurts; the network is dense until half of the training",
    ),
    "snip": Named(
        replace(_STATIC, mask_init=mask_inits.snip, mask_init_scope=scopes.global_),
        "Lee et al. 2019 (SNIP)",
        "for a mask before training; calibrate with many batches, or rare words lose their embedding",
    ),
    "grasp": Named(
        replace(_STATIC, mask_init=mask_inits.grasp, mask_init_scope=scopes.global_),
        "Wang et al. 2020 (GraSP)",
        "likewise, at very high sparsities",
    ),
    "jacobian": Named(
        replace(_STATIC, mask_init=mask_inits.jacobian),
        "Zhang & Stadie 2020",
        "for a mask of the recurrent matrices before training",
    ),
    "rigl-block": Named(
        replace(_RIGL, granularity=GRANULARITIES["block_4x4"]), "RigL in blocks of 4 x 4", "for block-sparse kernels"
    ),
    "rigl-row": Named(
        replace(_RIGL, granularity=GRANULARITIES["row"]), "RigL in rows", "to switch off what single gates read"
    ),
    "rigl-column": Named(
        replace(_RIGL, granularity=GRANULARITIES["column"]), "RigL in columns", "to switch off inputs of a matrix"
    ),
    "rigl-2:4": Named(
        replace(_RIGL, granularity=GRANULARITIES["two_of_four"]),
        "RigL under the rule 2:4, sparsity 0.5",
        "for semi-structured kernels",
    ),
    "rigl-1:4": Named(
        replace(_RIGL, granularity=GRANULARITIES["one_of_four"]),
        "RigL under the rule 1:4, sparsity 0.75",
        "likewise, sparser",
    ),
}

METHODS: dict[str, Method] = {name: named.method for name, named in NAMED.items()}
