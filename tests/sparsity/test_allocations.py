import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperpruning.sparsity.methods import COMPONENTS

ALLOCATIONS = COMPONENTS["allocation"]

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
