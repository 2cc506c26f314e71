import dataclasses
import itertools
import json

import pytest

from hyperpruning.sparsity import drops
from hyperpruning.sparsity.methods import COMPONENTS, METHODS, Method, composed, spelled


@pytest.mark.parametrize("name", METHODS)
def test_spelling_and_composing_are_inverse(name):
    spelling = spelled(METHODS[name])
    assert composed(json.loads(json.dumps(spelling))) == METHODS[name]
    assert list(spelling) == [field.name for field in dataclasses.fields(Method)]


def test_every_name_is_its_functions_own():
    for choices in COMPONENTS.values():
        assert all(name == function.__name__ for name, function in choices.items())


def test_what_is_left_out_has_its_default():
    assert composed({}) == Method()
    assert composed({"grow": "gradient"}) == dataclasses.replace(Method(), grow=COMPONENTS["grow"]["gradient"])


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ({"drop": "magnitud"}, "unknown drop 'magnitud'; did you mean 'magnitude'"),
        ({"allocation": "ER"}, "did you mean 'er'"),
        ({"allocation": None}, "unknown allocation None"),
        ({"drop": []}, "unknown drop"),
        ({"droping": "magnitude"}, "unknown part of a method 'droping'; did you mean 'drop"),
        ({"drop": None}, "drop and grow go together"),
        ({"grow": None}, "drop and grow go together"),
        ({"drop": None, "grow": None}, "give drop_fraction 0, not 0.5"),
        ({"drop": None, "grow": None, "drop_fraction": 0, "redistribute": "nonzeros"}, "nothing to redistribute"),
        ({"drop_fraction": 0}, "strictly between 0 and 1"),
        ({"drop_fraction": 1.0}, "strictly between 0 and 1"),
        ({"drop_fraction": float("nan")}, "strictly between 0 and 1"),
        ({"drop_fraction": "0.5"}, "drop_fraction must be a number, not '0.5'"),
        ({"interval": 2.5}, "interval must be a whole number"),
        ({"interval": True}, "interval must be a whole number"),
        ({"interval": 0}, "interval must be at least 1"),
        ({"stop": 0.0}, r"stop must lie in \(0, 1\]"),
        ({"floor": 0.5, "ceiling": 0.5}, "floor and ceiling"),
    ],
)
def test_a_wrong_spelling_is_refused_with_the_reason(spelling, message):
    with pytest.raises(ValueError, match=message):
        composed(spelling)


def test_a_function_without_a_name_cannot_be_spelled():
    def mine(parameters, masks, fraction):
        return drops.magnitude(parameters, masks, fraction)

    with pytest.raises(ValueError, match="add it as a drop"):
        spelled(Method(drop=mine))


@pytest.mark.parametrize("name", COMPONENTS["decay"])
def test_every_decay_stays_between_0_and_1_and_never_grows(name):
    factors = [COMPONENTS["decay"][name](step, 80.0) for step in range(120)]
    assert factors[0] == 1
    assert all(0 <= later <= earlier <= 1 for earlier, later in itertools.pairwise(factors))
