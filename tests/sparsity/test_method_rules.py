"""Methods as data: names and numbers there and back, and what a composition may not be."""

import dataclasses
import itertools
import json

import pytest

from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.scores import magnitude
from hyperpruning.sparsity.serialization import COMPONENTS, from_config, to_config

SHRINKING = {"grow": "none", "drop_fraction": 0, "density": "cubic"}
FADING = {"grow": "none", "drop_fraction": 0, "fade": 0.9}


@pytest.mark.parametrize("name", METHODS)
def test_spelling_and_composing_are_inverse(name):
    spelling = to_config(METHODS[name])
    assert from_config(json.loads(json.dumps(spelling))) == METHODS[name]
    assert list(spelling) == [field.name for field in dataclasses.fields(Method)]
    assert from_config({"method": name}) == METHODS[name]


def test_no_two_methods_are_the_same():
    assert len({json.dumps(to_config(method)) for method in METHODS.values()}) == len(METHODS)


def test_what_is_left_out_has_its_default():
    assert from_config({}) == Method()
    assert from_config({"grow": "gradient"}) == dataclasses.replace(Method(), grow=COMPONENTS["grow"]["gradient"])
    assert from_config({"method": "rigl", "drop_fraction": 0.4}) == dataclasses.replace(
        METHODS["rigl"], drop_fraction=0.4
    )


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ({"drop": "magnitud"}, "unknown drop 'magnitud'; did you mean 'magnitude'"),
        ({"allocation": "ER"}, "did you mean 'er'"),
        ({"allocation": None}, "unknown allocation None"),
        ({"drop": []}, "unknown drop"),
        ({"method": "riggl"}, "unknown method 'riggl'; did you mean 'rigl'"),
        ({"droping": "magnitude"}, "unknown part of a method 'droping'; did you mean 'drop"),
        ({"drop": "none"}, "growth needs a drop"),
        ({"grow": "none"}, "give drop_fraction 0, not 0.5, or a growth"),
        ({"grow": "none", "drop_fraction": 0}, "needs a falling density"),
        ({"drop": "none", "grow": "none"}, "give drop_fraction 0, not 0.5"),
        ({"drop": "none", "grow": "none", "drop_fraction": 0, "redistribute": "size"}, "nothing to redistribute"),
        ({"drop": "none", "grow": "none", "drop_fraction": 0, "density": "cubic"}, "need a drop"),
        ({**SHRINKING, "redistribute": "nonzeros"}, "nothing to redistribute"),
        ({**SHRINKING, "grow_scope": "global"}, "needs no grow_scope"),
        ({"grow_scope": "global", "redistribute": "size"}, "a global growth settles the tensors' shares itself"),
        ({"drop_fraction": 0}, "strictly between 0 and 1"),
        ({"drop_fraction": 1.0}, "strictly between 0 and 1"),
        ({"drop_fraction": float("nan")}, "drop_fraction must be a number, not nan"),
        ({"drop_fraction": "0.5"}, "drop_fraction must be a number, not '0.5'"),
        ({"interval": 2.5}, "interval must be a whole number"),
        ({"interval": True}, "interval must be a whole number"),
        ({"interval": 0}, "interval must be at least 1"),
        ({"stop": 0.0}, r"stop must lie in \(0, 1\]"),
        ({"floor": 0.5, "ceiling": 0.5}, "floor and ceiling"),
        ({**FADING, "fade": 1.0}, r"fade must lie in \[0, 1\)"),
        ({"fade": 0.9}, "fading weights return by themselves"),
        ({**FADING, "rewind": 3, "density": "cubic"}, "rewound weights do not fade"),
        ({"rewind": 3, "density": "cubic"}, "rewinding belongs to pruning without growth"),
        ({**FADING, "rewind": 3}, "needs a density that falls in rounds"),
        ({**SHRINKING, "rewind": -1}, "rewind must be an optimizer step from 0 on"),
        ({**SHRINKING, "density_start": 1.5}, r"density_start must lie in \(0, 1\]"),
        ({**SHRINKING, "density_from": 0.6}, "falls between two times before the last update"),
        ({**SHRINKING, "stop": 0.3}, "falls between two times before the last update"),
        ({**SHRINKING, "mask_init": "magnitude"}, "leaves a mask_init nothing to choose"),
        ({**SHRINKING, "drop_scope": "global", "allocation": "er"}, "settles the tensors' shares"),
        ({"mask_init_scope": "global", "allocation": "er"}, "settles the tensors' shares"),
        ({"granularity": "two_of_four", "drop_scope": "global"}, "2:4 holds in every group"),
        ({"granularity": "two_of_four", "redistribute": "size"}, "2:4 holds in every group"),
        ({"granularity": "one_of_four", "allocation": "er"}, "1:4 gives every tensor one density"),
        ({"granularity": "two_of_four", "density": "cubic"}, "2:4 has one density"),
        ({"granularity": "column", "drop_scope": "gate"}, "runs through all gates"),
        ({"granularity": "row", "drop_scope": "sign"}, "has no sign"),
        ({"granularity": "row", "update": "published_set"}, "exchanges single weights at one density"),
    ],
)
def test_a_wrong_spelling_is_refused_with_the_reason(spelling, message):
    with pytest.raises(ValueError, match=message):
        from_config(spelling)


def test_a_function_without_a_name_cannot_be_spelled():
    def mine(parameter):
        return magnitude(parameter)

    with pytest.raises(ValueError, match="add it as a drop"):
        to_config(Method(drop=mine))


@pytest.mark.parametrize("name", COMPONENTS["decay"])
def test_every_decay_stays_between_0_and_1_and_never_grows(name):
    factors = [COMPONENTS["decay"][name](step, 80.0) for step in range(120)]
    assert factors[0] == 1
    assert all(0 <= later <= earlier <= 1 for earlier, later in itertools.pairwise(factors))


@pytest.mark.parametrize("name", COMPONENTS["density"])
def test_every_density_ends_where_it_should_and_never_grows(name):
    densities = [COMPONENTS["density"][name](step / 50, 0.9, 0.2) for step in range(51)]
    assert densities[-1] == pytest.approx(0.2)
    assert all(later + 1e-12 >= 0.2 and later <= earlier <= 0.9 for earlier, later in itertools.pairwise(densities))
