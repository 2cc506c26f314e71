"""Methods as data: to_config and from_config, and the combinations that are refused."""

import dataclasses
import itertools
import json

import pytest

from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.scores import magnitude
from hyperpruning.sparsity.serialization import COMPONENTS, LEFT_OUT, from_config, to_config

SHRINKING = {"grow": "none", "drop_fraction": 0, "density": "cubic"}
STATIC = {"drop": "none", "grow": "none", "drop_fraction": 0}
SOFT = {"grow": "none", "drop_fraction": 0, "soft_shrinkage": 0.9}


@pytest.mark.parametrize("name", METHODS)
def test_to_config_and_from_config_are_inverse(name):
    config = to_config(METHODS[name])
    assert from_config(json.loads(json.dumps(config))) == METHODS[name]
    assert list(config) == [field.name for field in dataclasses.fields(Method) if field.name not in LEFT_OUT]
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
    ("config", "message"),
    [
        ({"drop": "magnitud"}, "drop must be one of none, magnitude, .*, got 'magnitud'. Did you mean 'magnitude'"),
        ({"allocation": "ER"}, "Did you mean 'er'"),
        ({"allocation": None}, "allocation must be one of .*, got None"),
        ({"drop": []}, "drop must be one of"),
        ({"method": "riggl"}, "method must be one of .* got 'riggl'. Did you mean 'rigl'"),
        ({"droping": "magnitude"}, "A component of a method must be one of .* got 'droping'. Did you mean 'drop"),
        ({"drop": "none"}, "grow must be None when drop is None, got 'random'. Set drop"),
        ({"grow": "none"}, "drop_fraction must be 0 when grow is None, got 0.5."),
        (
            {"grow": "none", "drop_fraction": 0},
            "drop must be None when grow is None and the density is constant",
        ),
        ({"drop": "none", "grow": "none"}, "drop_fraction must be 0 when grow is None, got 0.5."),
        (
            {**STATIC, "redistribute": "size"},
            "redistribute must be 'none' when grow is None, got 'size'.",
        ),
        (
            {**STATIC, "density": "cubic"},
            "drop must be a score when the density falls",
        ),
        ({**SHRINKING, "redistribute": "nonzeros"}, "'none' when grow is None, got 'nonzeros'."),
        ({**SHRINKING, "grow_scope": "global"}, "grow_scope must be 'tensor' when grow is None, got 'global'."),
        (
            {"grow_scope": "global", "redistribute": "size"},
            "'none' when grow_scope is 'global', got 'size'.",
        ),
        ({"drop_fraction": 0}, "drop_fraction must be above 0 and below 1 when grow is set, got 0."),
        ({"drop_fraction": 1.0}, "drop_fraction must be above 0 and below 1 when grow is set, got 1.0."),
        ({"drop_fraction": float("nan")}, "drop_fraction must be a number, got nan"),
        ({"drop_fraction": "0.5"}, "drop_fraction must be a number, got '0.5'"),
        ({"interval": 2.5}, "interval must be an integer, got"),
        ({"interval": True}, "interval must be an integer, got"),
        ({"interval": 0}, "interval must be at least 1 optimizer step, got 0."),
        ({"stop": 0.0}, "stop must be above 0 and at most 1, got 0.0."),
        ({"floor": 0.5, "ceiling": 0.5}, "floor and ceiling must satisfy 0 <= floor < ceiling <= 1, got 0.5 and 0.5."),
        ({**SOFT, "soft_shrinkage": 1.0}, "soft_shrinkage must be at least 0 and below 1, got 1.0."),
        ({"soft_shrinkage": 0.9}, "None when soft_shrinkage is above 0, got 'random'."),
        ({**SOFT, "rewind": 3, "density": "cubic"}, "soft_shrinkage must be 0 when rewind is set, got 0.9."),
        ({"rewind": 3, "density": "cubic"}, "grow must be None when rewind is set, got 'random'."),
        ({**SOFT, "rewind": 3}, "density must be a falling schedule when rewind is set, got 'constant'."),
        ({**SHRINKING, "rewind": -1}, "rewind must be an optimizer step >= 0 or None, got -1."),
        ({**SHRINKING, "density_start": 1.5}, "density_start must be above 0 and at most 1, got 1.5."),
        ({**SHRINKING, "density_from": 0.6}, "<= density_from < density_until <= stop, got 0.6, 0.5 and 1.0."),
        ({**SHRINKING, "stop": 0.3}, "<= density_from < density_until <= stop, got 0.0, 0.5 and 0.3."),
        (
            {**SHRINKING, "mask_init": "magnitude"},
            "'random' when density_start is 1, got 'magnitude'.",
        ),
        ({**SHRINKING, "mask_init_scope": "global"}, "'tensor' when density_start is 1, got 'global'."),
        (
            {**SHRINKING, "drop_scope": "global", "allocation": "er"},
            "'uniform' when drop_scope is 'global'",
        ),
        (
            {"replace_scope": "tensor"},
            "replace_scope must be None when grow is None or the density is constant, got 'tensor'. Use drop_scope.",
        ),
        ({**SHRINKING, "replace_scope": "gate"}, "replace_scope must be None when grow is None"),
        ({"mask_init_scope": "global", "allocation": "er"}, "when mask_init_scope is 'global', got 'er'."),
        ({"granularity": "two_of_four", "drop_scope": "global"}, "drop_scope must be 'tensor' with 2:4"),
        ({"granularity": "two_of_four", "redistribute": "size"}, "'none' with 2:4 granularity"),
        (
            {"granularity": "one_of_four", "allocation": "er"},
            "'uniform' with 1:4 granularity, got 'er'.",
        ),
        (
            {"granularity": "two_of_four", "density": "cubic"},
            "'constant' with 2:4 granularity, got 'cubic'.",
        ),
        (
            {"granularity": "column", "drop_scope": "gate"},
            "must not rank by gate when whole columns are pruned",
        ),
        (
            {"granularity": "row", "drop_scope": "sign"},
            "not be 'sign' when several weights are pruned together",
        ),
        ({"granularity": "row", "update": "published_set"}, "'weight' when update is not 'exact'"),
        (
            {**SHRINKING, "update": "published_set"},
            "'constant' when update is not 'exact', got 'cubic'.",
        ),
        ({**SOFT, "update": "published_set"}, "soft_shrinkage must be 0 when update is not 'exact'"),
    ],
)
def test_an_invalid_config_is_refused_with_the_reason(config, message):
    with pytest.raises(ValueError, match=message):
        from_config(config)


def test_a_function_that_is_not_registered_has_no_config():
    def mine(parameter):
        return magnitude(parameter)

    with pytest.raises(ValueError, match="drop must be a registered function, got"):
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
