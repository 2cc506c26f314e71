import functools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperpruning.sparsity.allocations import ALLOCATIONS, erk, table, uniform_except

LSTM = {  # 2 x 1500, vocabulary 10,000: the network of the published results
    "encoder": (10_000, 1500),
    "ih0": (6000, 1500),
    "hh0": (6000, 1500),
    "ih1": (6000, 1500),
    "hh1": (6000, 1500),
    "decoder": (10_000, 1500),
}


def shaped(sizes):
    return {name: torch.Size(size) for name, size in sizes.items()}


def er_by_iteration(shapes, budget):
    """The dense-layer iteration as RigL words it, in real numbers: the reference of the test."""
    dense = set()
    while True:
        sparse = {name: shape for name, shape in shapes.items() if name not in dense}
        left = budget - sum(shapes[name].numel() for name in dense)
        raw = {name: (s[0] + s[1]) / (s[0] * s[1]) for name, s in sparse.items()}
        epsilon = left / sum(raw[name] * sparse[name].numel() for name in sparse)
        too_dense = {name for name in sparse if epsilon * raw[name] > 1}
        if not too_dense:
            return {
                name: shape.numel() if name in dense else epsilon * raw[name] * shape.numel()
                for name, shape in shapes.items()
            }
        dense |= too_dense


@pytest.mark.parametrize("name", ALLOCATIONS)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6), st.floats(0, 1))
def test_every_allocation_is_exact(name, sizes, part):
    shapes = shaped({f"t{i}": size for i, size in enumerate(sizes)})
    budget = round(part * sum(shape.numel() for shape in shapes.values()))
    counts = ALLOCATIONS[name](shapes, budget)
    assert sum(counts.values()) == budget
    assert all(0 <= counts[tensor] <= shape.numel() for tensor, shape in shapes.items())


def test_uniform_gives_one_density():
    shapes = shaped(LSTM)
    counts = ALLOCATIONS["uniform"](shapes, 21_780_000)
    assert counts == {name: round(0.33 * shape.numel()) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "sizes",
    [
        LSTM,
        {"wide": (400, 300), "thin": (400, 2), "square": (50, 50)},  # thin is dense from density 0.15 on
        {"conv": (16, 8, 3, 3), "linear": (10, 64), "point": (16, 16, 1, 1)},
    ],
)
@pytest.mark.parametrize("density", [0.05, 0.15, 0.33, 0.6, 0.9])
def test_er_is_the_formula_with_the_dense_layer_iteration(sizes, density):
    shapes = shaped(sizes)
    budget = round(density * sum(shape.numel() for shape in shapes.values()))
    counts = ALLOCATIONS["er"](shapes, budget)
    expected = er_by_iteration(shapes, budget)
    assert all(abs(counts[name] - expected[name]) < 1 for name in shapes)  # largest remainder: less than one away
    assert sum(counts.values()) == budget


def test_er_of_the_published_lstm():
    counts = ALLOCATIONS["er"](shaped(LSTM), 21_780_000)
    densities = {name: counts[name] / shape.numel() for name, shape in shaped(LSTM).items()}
    assert round(densities["encoder"], 3) == 0.315
    assert round(densities["hh1"], 4) == 0.3425


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("density", [0.05, 0.3, 0.7])
def test_erk_is_the_formula_with_the_dense_layer_iteration(density, power):
    shapes = shaped({"conv": (16, 8, 3, 3), "linear": (10, 64), "point": (16, 16, 1, 1)})
    budget = round(density * sum(shape.numel() for shape in shapes.values()))
    raw = {name: (sum(shape) / math.prod(shape)) ** power for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:  # RigL's iteration, in real numbers
        left = budget - sum(shapes[name].numel() for name in dense)
        scale = left / sum(raw[name] * shapes[name].numel() for name in shapes if name not in dense)
        full = {name for name in shapes if name not in dense and scale * raw[name] > 1}
        if not full:
            break
        dense |= full
    counts = functools.partial(erk, power=power)(shapes, budget)
    assert sum(counts.values()) == budget
    for name, shape in shapes.items():
        expected = shape.numel() * (1.0 if name in dense else scale * raw[name])
        assert abs(counts[name] - expected) < 1


def test_for_matrices_erk_is_er():
    assert ALLOCATIONS["erk"](shaped(LSTM), 21_780_000) == ALLOCATIONS["er"](shaped(LSTM), 21_780_000)


def test_uniform_except_keeps_the_first_dense_or_those_named():
    shapes = shaped({"a": (10, 10), "b": (10, 20), "c": (10, 20)})
    assert ALLOCATIONS["uniform_except"](shapes, 200) == {"a": 100, "b": 50, "c": 50}
    assert uniform_except(shapes, 250, dense=["b"]) == {"a": 17, "b": 200, "c": 33}
    assert uniform_except(shapes, 100, dense=["b"]) == {"a": 20, "b": 40, "c": 40}  # b does not fit


def test_a_table_is_followed():
    shapes = shaped({"a": (10, 10), "b": (10, 20)})
    mine = functools.partial(table, counts={"a": 90, "b": 20})
    assert mine(shapes, 110) == {"a": 90, "b": 20}
    assert sum(mine(shapes, 200).values()) == 200
    with pytest.raises(ValueError, match="got a without 'b'"):
        table(shapes, 110, counts={"a": 3})
