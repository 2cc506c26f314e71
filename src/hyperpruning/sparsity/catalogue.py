"""The catalogue of published methods: their compositions, sources and uses; docs/methods.md is generated from it."""

import difflib
from dataclasses import dataclass, replace
from functools import partial

from hyperpruning.settings import did_you_mean
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
class CatalogueEntry:
    """A published method.

    Attributes:
        method: its composition.
        source: the publication, and what differs here.
        use: when to use it, as the end of the sentence "use it ...".
    """

    method: Method
    source: str
    use: str


# No published code limits the density of a tensor. `Method` does, for compositions that nobody has tried before.
_published = partial(Method, floor=0.0, ceiling=1.0)
_STATIC = _published(drop=None, grow=None, drop_fraction=0.0)
_RIGL = _published(grow=scores.gradient, drop_fraction=0.3, stop=0.75)
_ITOP = _published(allocation=allocations.erk, interval=1500)
_ONE_SHOT = _published(density=schedules.one_shot, grow=None, drop_fraction=0.0)
_GMP = _published(density=schedules.cubic, density_until=0.75, stop=0.75, grow=None, drop_fraction=0.0)

CATALOGUE: dict[str, CatalogueEntry] = {
    "static": CatalogueEntry(_STATIC, "a random mask that never changes", "as the baseline for dynamic methods"),
    "set": CatalogueEntry(
        _published(allocation=allocations.er, drop_scope=scopes.sign, drop_fraction=0.3, decay=schedules.constant),
        "Mocanu et al. 2018; new weights start at zero",
        "as the simplest dynamic method; needs no gradients of pruned weights",
    ),
    "dsr": CatalogueEntry(
        _published(
            drop_scope=scopes.global_,
            redistribute=redistributions.nonzeros,
            drop_fraction=0.1,
            decay=schedules.constant,
        ),
        "Mostafa & Wang 2019; the dropped number is exact, where the paper adapts a threshold",
        "if each tensor's density should adapt",
    ),
    "snfs": CatalogueEntry(
        _published(grow=scores.gradient_average, redistribute=redistributions.momentum),
        "Dettmers & Zettlemoyer 2019; the momentum is a running mean of the gradient, for any optimizer; growth that "
        "finds no room in its tensor goes to the others in proportion to their shares",
        "if gradients are noisy; needs a dense buffer",
    ),
    "rigl": CatalogueEntry(
        _RIGL,
        "Evci et al. 2020; here updates do not replace optimizer steps, and a weight that is dropped "
        "and grown again starts at zero",
        "as a strong standard if pruned weights get gradients",
    ),
    "rigl-erk": CatalogueEntry(
        replace(_RIGL, allocation=allocations.erk),
        "Evci et al. 2020",
        "with convolutions or tensors of very different shape",
    ),
    "set-itop": CatalogueEntry(
        _ITOP, "Liu et al. 2021 (ITOP)", "for long trainings: updates are rare, so that new weights have time to grow"
    ),
    "rigl-itop": CatalogueEntry(
        replace(_ITOP, grow=scores.gradient, interval=4000),
        "Liu et al. 2021 (ITOP)",
        "likewise, with growth by gradient",
    ),
    "mest": CatalogueEntry(
        _published(drop=scores.magnitude_gradient, drop_fraction=0.2, decay=schedules.linear),
        "Yuan et al. 2021 (MEST), elastic mutation with lambda 1, without its soft memory bound, which is not exact",
        "if small weights with large gradients should stay",
    ),
    "granet": CatalogueEntry(
        _published(
            allocation=allocations.erk,
            density=schedules.cubic,
            density_start=0.5,
            density_until=0.7,
            drop_scope=scopes.global_,
            replace_scope=scopes.tensor,
            grow=scores.gradient,
        ),
        "Liu et al. 2021 (GraNet), sparse to sparse from density 0.5: a global ranking lowers the density, then each "
        "tensor replaces a fraction of its weights; a weight that is dropped and grown again starts at zero",
        "if the start of the training may be denser",
    ),
    "selfish-rnn": CatalogueEntry(
        _published(regrowth_init=regrowth_inits.keep),
        "Liu et al. 2021 (Selfish-RNN), as in its code: all gates of a matrix are ranked together; "
        "the code updates once per epoch and averages with SNT-ASGD",
        "as the standard for recurrent networks",
    ),
    "selfish-rnn-gates": CatalogueEntry(
        _published(grow_scope=scopes.gate, regrowth_init=regrowth_inits.keep),
        "Liu et al. 2021 (Selfish-RNN), each gate grows the same number of weights",
        "if every gate should keep weights; needs row_groups",
    ),
    "magnitude": CatalogueEntry(
        _ONE_SHOT, "one-shot pruning by magnitude in each tensor", "as the simplest dense-to-sparse method"
    ),
    "magnitude-global": CatalogueEntry(
        replace(_ONE_SHOT, drop_scope=scopes.global_),
        "one-shot pruning by magnitude in the whole network",
        "if all tensors have the same scale; otherwise 'lamp'",
    ),
    "lamp": CatalogueEntry(
        replace(_ONE_SHOT, drop=scores.lamp, drop_scope=scopes.global_),
        "Lee et al. 2021 (LAMP), in one shot",
        "as a global one-shot method that does not depend on the tensors' scales",
    ),
    "gmp": CatalogueEntry(_GMP, "Zhu & Gupta 2017 (GMP)", "as a strong dense-to-sparse standard"),
    "gmp-global": CatalogueEntry(
        replace(_GMP, drop_scope=scopes.global_),
        "Zhu & Gupta 2017, ranked globally",
        "likewise, if each tensor's density should adapt",
    ),
    "imp": CatalogueEntry(
        replace(_GMP, density=schedules.geometric, drop_scope=scopes.global_, interval=5000, rewind=0),
        "Frankle & Carbin 2019 (lottery tickets); an interval is a round, and the caller resets the learning rate",
        "as an upper baseline, if many trainings are affordable",
    ),
    "iss-p": CatalogueEntry(
        _published(
            mask_init=mask_inits.magnitude, grow=None, drop_fraction=0.0, interval=10, stop=0.5, soft_shrinkage=0.95
        ),
        "Wang et al. 2023 (ISS-P); soft shrinkage until half of the training, with a new ranking every 10 steps (the "
        "code ranks in every step)",
        "if setting weights to zero at once hurts; the network is dense until half of the training",
    ),
    "snip": CatalogueEntry(
        replace(_STATIC, mask_init=mask_inits.snip, mask_init_scope=scopes.global_),
        "Lee et al. 2019 (SNIP)",
        "to choose a mask before training; calibrate with many batches, or rare words lose their embeddings",
    ),
    "grasp": CatalogueEntry(
        replace(_STATIC, mask_init=mask_inits.grasp, mask_init_scope=scopes.global_),
        "Wang et al. 2020 (GraSP)",
        "likewise, at very high sparsities",
    ),
    "jacobian": CatalogueEntry(
        replace(_STATIC, mask_init=mask_inits.jacobian),
        "Zhang & Stadie 2020",
        "to choose a mask of the recurrent matrices before training",
    ),
    "rigl-block": CatalogueEntry(
        replace(_RIGL, granularity=GRANULARITIES["block_4x4"]), "RigL with 4 x 4 blocks", "for block-sparse kernels"
    ),
    "rigl-row": CatalogueEntry(
        replace(_RIGL, granularity=GRANULARITIES["row"]),
        "RigL with whole rows",
        "to remove single gates of hidden units",
    ),
    "rigl-column": CatalogueEntry(
        replace(_RIGL, granularity=GRANULARITIES["column"]), "RigL with whole columns", "to remove inputs of a matrix"
    ),
    "rigl-2:4": CatalogueEntry(
        replace(_RIGL, granularity=GRANULARITIES["two_of_four"]),
        "RigL with 2:4 sparsity (0.5)",
        "for semi-structured kernels",
    ),
    "rigl-1:4": CatalogueEntry(
        replace(_RIGL, granularity=GRANULARITIES["one_of_four"]),
        "RigL with 1:4 sparsity (0.75)",
        "likewise, with higher sparsity",
    ),
}


class MethodNameError(KeyError):
    """A name that no method of the catalogue has."""

    def __str__(self) -> str:
        return str(self.args[0])


class Methods(dict[str, Method]):
    """The methods of the catalogue by name; an unknown name is an error that suggests the nearest one."""

    def __missing__(self, name: object) -> Method:
        raise MethodNameError(f"method must be one of {', '.join(self)}, got {name!r}.{did_you_mean(name, self)}")


METHODS = Methods({name: entry.method for name, entry in CATALOGUE.items()})


def check_is_method(method: object) -> None:
    """Check that a method is a `Method` and not, for example, the name of one.

    Raises:
        ValueError: it is not; the message says what to write.
    """
    if isinstance(method, Method):
        return
    nearest = difflib.get_close_matches(str(method), METHODS, n=1, cutoff=0.5) or ["rigl"]
    raise ValueError(f"method must be a Method, got {method!r}. Write hyperpruning.METHODS[{nearest[0]!r}].")
