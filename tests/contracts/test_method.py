"""What every pruning method keeps, named or composed: the invariants, over many updates."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.masking import Masking
from hyperpruning.sparsity.method import Method, MethodError
from hyperpruning.sparsity.parameter import GRANULARITIES, Granularity
from hyperpruning.sparsity.serialization import COMPONENTS, from_config, to_config
from hyperpruning.sparsity.updates import drop_and_grow
from hyperpruning.testing import check_method
from hyperpruning.testing.method import check_repeatable
from hyperpruning.testing.pruned_run import OPTIMIZERS, Convolutional, Recurrent, Run, check_updates

# averaging starts after soft shrinkage; training refuses another order
PAIRS = [
    (name, optimizer) for name in METHODS for optimizer in OPTIMIZERS if (name, optimizer) != ("iss-p", "snt_asgd")
]


@pytest.mark.parametrize(("name", "optimizer"), PAIRS)
def test_invariants_hold_with_every_optimizer(name, optimizer):
    method = METHODS[name]
    sparsity = 0.8 if method.granularity in (GRANULARITIES["weight"], GRANULARITIES["row"]) else 0.4  # few large units
    changes = check_updates(Run(method, optimizer=optimizer, sparsity=sparsity, steps=24), 23)
    assert (changes > 0) == (method.drop is not None) or method.soft_shrinkage


@pytest.mark.parametrize("name", METHODS)
def test_a_named_method_passes(name):
    check_method(METHODS[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", METHODS)
def test_invariants_hold_over_two_hundred_updates_on_a_gpu(name, dtype):
    method = METHODS[name]
    steps = math.ceil(200 / method.stop) + 2
    network = {torch.float32: Recurrent, torch.float64: Convolutional}[dtype]
    run = Run(method, network=network, optimizer="momentum", dtype=dtype, steps=steps, interval=1, device="cuda")
    check_updates(run, 200)


@pytest.mark.parametrize("name", METHODS)
def test_another_seed_gives_other_masks(name):
    runs = [Run(METHODS[name], seed=seed, steps=24) for seed in (5, 6)]
    for run in runs:
        list(run.train(range(16)))
    first, other = (run.sparsifier.masks for run in runs)
    random = METHODS[name].mask_init is COMPONENTS["mask_init"]["random"]
    drawn = (random and METHODS[name].density_start < 1) or (random and not METHODS[name].scheduled)
    assert drawn <= any(not torch.equal(first[tensor], other[tensor]) for tensor in first)


NUMBERS = {
    "drop_fraction": st.floats(0.05, 0.95),
    "stop": st.floats(0.5, 1),
    "floor": st.sampled_from([0.0, 0.02, 0.3]),
    "ceiling": st.sampled_from([0.4, 0.98, 1.0]),
}
SHRINKING = {
    "grow": st.just("none"),
    "drop_fraction": st.just(0),
    "grow_scope": st.just("tensor"),
    "redistribute": st.just("none"),
    "mask_init": st.just("random"),
    "density": st.sampled_from([name for name in COMPONENTS["density"] if name != "constant"]),
}
KINDS = {  # what is drawn otherwise than from all choices
    "exchanging": {},
    "freely": {"granularity": st.just("weight"), "density": st.just("constant")},
    "shrinking": SHRINKING | {"rewind": st.sampled_from([None, 0, 3])},
    "shrinking_and_growing": {
        "density": SHRINKING["density"],
        "density_start": st.floats(0.3, 0.9),
        "replace_scope": st.sampled_from(list(COMPONENTS["replace_scope"])),
    },
    "soft_shrinkage": SHRINKING
    | {
        "density": st.just("constant"),
        "mask_init": st.sampled_from(["magnitude", "snip"]),
        "soft_shrinkage": st.floats(0.1, 0.9),
    },
    "static": SHRINKING | {"density": st.just("constant"), "drop": st.just("none")},
}


@st.composite
def compositions(draw):
    """Spellings, most of them valid."""
    special = KINDS[draw(st.sampled_from(list(KINDS)))]
    parts = {
        part: st.sampled_from([name for name in choices if name != "none" or part == "redistribute"])
        for part, choices in COMPONENTS.items()
    } | {"update": st.just("exact"), "replace_scope": st.just("same"), "dense_part": st.just("none")}
    return {part: draw(chosen) for part, chosen in (parts | NUMBERS | special).items()}


VARIED = (compositions(), st.sampled_from([Recurrent, Convolutional]), st.sampled_from([0.0, 0.3, 0.8, 0.9]))
SAMPLED = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


@settings(max_examples=12, **SAMPLED)
@given(*VARIED)
def test_invariants_hold_for_every_composition(spelling, network, sparsity):
    check_composition(spelling, network, sparsity)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=150, **SAMPLED)
@given(*VARIED)
def test_invariants_hold_for_many_compositions(spelling, network, sparsity):
    check_composition(spelling, network, sparsity)


def check_composition(spelling, network, sparsity):
    try:
        method = from_config(spelling)
        steps = math.ceil(200 / method.stop) + 2
        run = Run(method, network=network, optimizer="momentum", sparsity=sparsity, steps=steps, interval=1)
    except ValueError:  # refused with a reason; tests/sparsity names them one by one
        assume(False)
    assert isinstance(method, Method)
    assert from_config(to_config(method)) == method
    try:
        check_updates(run, 200)
        check_repeatable(method, network=network, sparsity=sparsity)
    except MethodError:  # an update would leave a tensor empty, which only a floor prevents
        assert method.floor == 0
        assume(False)


def test_soft_shrinkage_leaves_every_group_its_share():
    """Softly shrunk weights may return; with 2:4 they return within their group (found by the compositions)."""
    method = from_config(
        {"granularity": "two_of_four", "mask_init": "random", "drop": "magnitude", "grow": "none"}
        | {"drop_fraction": 0, "soft_shrinkage": 0.5}
    )
    run = Run(method, optimizer="momentum", steps=52, interval=1)
    check_updates(run, 50)
    assert run.sparsifier.ever_active > 0.5  # masks did change


@pytest.mark.parametrize("scopes", [{"replace_scope": "global"}, {"drop_scope": "global"}])
def test_a_budget_may_fall_below_a_floor(scopes):
    """The floor holds in an exchange, and as far as the budget permits (found by the compositions)."""
    check_composition(
        {"allocation": "uniform", "mask_init": "random", "density": "cubic", "density_start": 0.5, "decay": "constant"}
        | {"drop": "magnitude", "grow": "random", "drop_fraction": 0.5, "floor": 0.3, "ceiling": 0.4}
        | scopes,
        Recurrent,
        0.8,
    )


def loses_a_weight(method, parameters, targets, fraction, buffers, generator):
    kept, grown = drop_and_grow(method, parameters, targets, fraction, buffers, generator)
    name = next(iter(grown))
    grown[name].view(-1)[grown[name].view(-1).nonzero()[:1]] = False
    return kept, grown


FAULTY = {
    "budget": (Method(update=loses_a_weight), "The number of active weights must be"),
    "finite": (Method(regrowth_init=lambda parameter, kept, grown: float("nan")), "must be finite"),
    "seed": (Method(grow=lambda parameter: torch.rand(parameter.weight.shape)), "The same seed must give"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_method_fails(fault):
    method, says = FAULTY[fault]
    with pytest.raises(AssertionError, match=says):
        check_method(method, steps=20)


def test_a_method_with_a_memory_of_its_own_fails():
    seen = Counter()

    def early_and_late(parameter):
        seen[parameter.tensor] += 1
        return parameter.weight.abs() * (-1 if seen[parameter.tensor] > 3 else 1)

    with pytest.raises(AssertionError, match=r"saved after step . and continued must be bit for bit the same"):
        check_method(Method(drop=early_and_late), steps=5)


def test_values_outside_the_masks_fail(monkeypatch):
    apply = Masking.apply
    monkeypatch.setattr(Masking, "apply", lambda self, optimizer, **kind: apply(self, None, **kind))
    with pytest.raises(AssertionError, match=r"Every momentum_buffer of 'raw' outside the mask must be 0"):
        check_method(Method(), steps=5)
    monkeypatch.setattr(Masking, "apply", lambda self, optimizer, **kind: None)
    with pytest.raises(AssertionError, match=r"Every weight of 'raw' outside the mask must be 0"):
        check_method(Method(), steps=5)


def test_a_method_that_fits_no_network_is_refused():
    with pytest.raises(ValueError, match="must"):
        check_method(replace(METHODS["rigl"], granularity=Granularity(rows=7, columns=5)))
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        check_method(METHODS["rigl"], steps=0)
