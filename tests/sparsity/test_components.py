import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hyperpruning.sparsity.methods import COMPONENTS
from hyperpruning.sparsity.redistributions import growth_quotas

DROPS, GROWTHS, REDISTRIBUTIONS = COMPONENTS["drop"], COMPONENTS["grow"], COMPONENTS["redistribute"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def layer(values):
    """One tensor, of which the non-zero entries are active."""
    weight = torch.tensor([values])
    return {"w": weight}, {"w": weight != 0}


def survivors(name, values, fraction):
    parameters, masks = layer(values)
    kept = DROPS[name](parameters, masks, fraction)["w"]
    return parameters["w"][kept].tolist()


EMPTY = [0.0] * 6


def test_magnitude_drops_the_smallest():
    assert survivors("magnitude", [5.0, -1, 2, -4, 3, *EMPTY], 0.5) == [5, -4, 3]


def test_signed_magnitude_drops_each_sign_next_to_zero():
    # magnitude would take 1, 2 and 3; SET takes a third of the positives and a third of the negatives
    values = [1.0, 2.0, 3.0, -30.0, -10.0, -20.0, *EMPTY]
    assert survivors("signed_magnitude", values, 0.34) == [2, 3, -30, -20]
    assert survivors("magnitude", values, 0.5) == [-30, -10, -20]
    assert survivors("signed_magnitude", values, 0.67) == [3, -30]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_signed_magnitude_with_one_sign_only(sign):
    values = [sign * v for v in (1.0, 4.0, 2.0, 3.0)]
    assert survivors("signed_magnitude", [*values, *EMPTY], 0.5) == [4 * sign, 3 * sign]


def test_global_magnitude_ranks_all_tensors_together():
    parameters = {"small": torch.tensor([[1.0, 2.0, 3.0, 0.0]]), "large": torch.tensor([[4.0, 5.0, 0.0, 0.0]])}
    masks = {name: weight != 0 for name, weight in parameters.items()}
    kept = DROPS["global_magnitude"](parameters, masks, 0.6)  # floor(0.6 * 5) = 3
    assert {name: int(mask.sum()) for name, mask in kept.items()} == {"small": 0, "large": 2}


@pytest.mark.parametrize("name", DROPS)
@given(st.integers(0, 2**16), st.floats(0.01, 0.99), st.floats(0, 1))
def test_every_drop_takes_a_subset_of_the_right_size(name, seed, fraction, density):
    source = generator(seed)
    parameters = {n: torch.randn(size, generator=source).round() for n, size in (("a", (7, 9)), ("b", (4, 5)))}
    masks = {n: torch.rand(w.shape, generator=source) < density for n, w in parameters.items()}
    kept = DROPS[name](parameters, masks, fraction)
    groups = [list(masks)] if name == "global_magnitude" else [[n] for n in masks]
    assert not any((kept[n] & ~masks[n]).any() for n in masks)
    for group in groups:
        active = sum(int(masks[n].sum()) for n in group)
        empty = sum(masks[n].numel() for n in group) - active
        dropped = active - sum(int(kept[n].sum()) for n in group)
        assert dropped == min(int(fraction * active), empty)


def test_of_equal_weights_the_first_stay():
    for name in DROPS:
        parameters, masks = layer([2.0, 2.0, 2.0, 2.0, *EMPTY])
        assert DROPS[name](parameters, masks, 0.5)["w"].tolist()[0][:4] == [True, True, False, False]


def test_random_growth_reaches_every_empty_position():
    kept = torch.tensor([[True, False, False, True, False]])
    weight = nn.Parameter(torch.zeros(1, 5))
    source = generator()
    seen = sum(GROWTHS["random"](weight, kept, 1, source).int() for _ in range(60))
    assert (seen > 0).tolist() == (~kept).tolist()  # a position is missed with probability (2/3)^60 = 3e-11


def test_gradient_growth_takes_the_steepest():
    weight = nn.Parameter(torch.zeros(1, 5))
    weight.grad = torch.tensor([[9.0, -4.0, 3.0, 2.0, -5.0]])
    kept = torch.tensor([[True, False, False, False, False]])
    grown = GROWTHS["gradient"](weight, kept, 2, generator())
    assert grown.tolist() == [[False, True, False, False, True]]


@pytest.mark.parametrize("sparse", [False, True])
def test_gradient_growth_fills_up_at_random(sparse):
    embedding = nn.Embedding(50, 4, sparse=sparse)
    embedding(torch.tensor([3])).square().sum().backward()  # one row has gradients
    kept = torch.zeros(50, 4, dtype=torch.bool)
    grown = GROWTHS["gradient"](embedding.weight, kept, 30, generator())
    assert int(grown.sum()) == 30
    assert grown[3].all()


def test_gradient_growth_without_gradients_says_so():
    with pytest.raises(ValueError, match=r"before optimizer.zero_grad\(\)"):
        GROWTHS["gradient"](nn.Parameter(torch.zeros(2, 2)), torch.zeros(2, 2, dtype=torch.bool), 1, generator())


def test_shares():
    parameters = {"a": torch.tensor([[1.0, -3.0, 100.0]]), "b": torch.tensor([[5.0, 5.0, 5.0]])}
    kept = {"a": torch.tensor([[True, True, False]]), "b": torch.zeros(1, 3, dtype=torch.bool)}
    dropped = {"a": 1, "b": 2}
    shares = {name: share(parameters, kept, dropped) for name, share in REDISTRIBUTIONS.items()}
    assert shares["none"] == {"a": 1, "b": 2}
    assert shares["nonzeros"] == {"a": 2, "b": 0}
    assert shares["magnitude"] == {"a": 2, "b": 0}


def masks_of(counts, size):
    return {name: torch.arange(size) < count for name, count in counts.items()}


def test_limits_hold_tensors_back():
    kept, dropped = masks_of({"rich": 60, "poor": 4}, 100), {"rich": 20, "poor": 16}
    free = growth_quotas({"rich": 1.0, "poor": 0.0}, kept, dropped, floor=0, ceiling=1)
    assert free == {"rich": 36, "poor": 0}
    limited = growth_quotas({"rich": 1.0, "poor": 0.0}, kept, dropped, floor=0.1, ceiling=0.9)
    assert limited == {"rich": 30, "poor": 6}


def test_a_tensor_beyond_a_limit_may_stay_but_go_no_further():
    kept, dropped = masks_of({"rich": 90, "poor": 1}, 100), {"rich": 9, "poor": 2}
    to_rich = growth_quotas({"rich": 1.0, "poor": 0.0}, kept, dropped, floor=0.1, ceiling=0.5)
    assert to_rich == {"rich": 9, "poor": 2}


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 9)), min_size=1, max_size=5),
    st.floats(0, 0.5),
    st.floats(0.51, 1),
)
def test_quotas_always_fit(rows, floor, ceiling):
    kept = masks_of({f"t{i}": row[0] for i, row in enumerate(rows)}, 100)
    dropped = {f"t{i}": row[1] for i, row in enumerate(rows)}
    shares = {f"t{i}": row[2] for i, row in enumerate(rows)}
    quotas = growth_quotas(shares, kept, dropped, floor=floor, ceiling=ceiling)
    assert sum(quotas.values()) == sum(dropped.values())
    assert all(0 <= quotas[n] <= 100 - int(kept[n].sum()) for n in kept)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=5))
def test_without_redistribution_each_tensor_gets_back_what_it_lost(rows):
    kept = masks_of({f"t{i}": row[0] for i, row in enumerate(rows)}, 100)
    dropped = {f"t{i}": row[1] for i, row in enumerate(rows)}
    shares = REDISTRIBUTIONS["none"]({}, kept, dropped)
    assert growth_quotas(shares, kept, dropped, floor=0.02, ceiling=0.98) == dropped
