import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperpruning.sparsity.exact import apportion, largest, sample, within


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@st.composite
def problems(draw):
    """(total, shares, lower, upper) with a solution."""
    size = draw(st.sampled_from([3, 100, 10**7]))
    rows = draw(
        st.lists(
            st.tuples(
                st.one_of(st.just(0.0), st.floats(0, 1e6), st.integers(0, 10**7).map(float)),
                st.integers(0, size),
                st.integers(0, size),
            ),
            min_size=1,
            max_size=8,
        )
    )
    names = [f"t{i}" for i in range(len(rows))]
    shares = {n: row[0] for n, row in zip(names, rows, strict=True)}
    lower = {n: row[1] for n, row in zip(names, rows, strict=True)}
    upper = {n: row[1] + row[2] for n, row in zip(names, rows, strict=True)}
    return draw(st.integers(sum(lower.values()), sum(upper.values()))), shares, lower, upper


@given(problems())
def test_apportion_is_exact_and_within_bounds(problem):
    total, shares, lower, upper = problem
    counts = apportion(total, shares, lower, upper)
    assert sum(counts.values()) == total
    assert all(lower[name] <= counts[name] <= upper[name] for name in shares)


@given(problems())
def test_apportion_is_proportional_where_no_bound_binds(problem):
    total, shares, lower, upper = problem
    counts = apportion(total, shares, lower, upper)
    free = [n for n in shares if lower[n] + 1 < counts[n] < upper[n] - 1 and shares[n] > 1e-6 * max(shares.values())]
    for one in free:
        for other in free:
            # each count is within one of scale * share; shares divided first, since a count over a tiny one overflows
            ratio = shares[other] / shares[one]
            assert (counts[one] - 1.001) * ratio - 1.001 <= counts[other] <= (counts[one] + 1.001) * ratio + 1.001


def test_apportion_by_hand():
    none, plenty = dict.fromkeys("abc", 0), dict.fromkeys("abc", 99)
    assert apportion(10, {"a": 5, "b": 3, "c": 2}, none, plenty) == {"a": 5, "b": 3, "c": 2}
    # quotas 3.5, 2.1, 1.4: the remaining one goes to a
    assert apportion(7, {"a": 5, "b": 3, "c": 2}, none, plenty) == {"a": 4, "b": 2, "c": 1}
    # ties: the first names
    assert apportion(5, {"a": 1, "b": 1, "c": 1}, none, plenty) == {"a": 2, "b": 2, "c": 1}
    # a is full at 2; b and c share the other 8 as 3 : 2
    assert apportion(10, {"a": 5, "b": 3, "c": 2}, none, plenty | {"a": 2}) == {"a": 2, "b": 5, "c": 3}
    # c must have 6; a and b share the other 4 as 5 : 3
    assert apportion(10, {"a": 5, "b": 3, "c": 2}, none | {"c": 6}, plenty) == {"a": 3, "b": 1, "c": 6}
    # nobody has a share: by room
    assert apportion(6, dict.fromkeys("abc", 0), none, {"a": 2, "b": 4, "c": 6}) == {"a": 1, "b": 2, "c": 3}


def test_apportion_returns_integers_that_already_fit():
    counts = {"a": 20_000_001, "b": 13, "c": 0, "d": 44_000_003}
    assert apportion(sum(counts.values()), counts, dict.fromkeys(counts, 0), counts) == counts


def test_apportion_refuses_the_impossible():
    with pytest.raises(ValueError, match="bounds must hold the total"):
        apportion(7, {"a": 1}, {"a": 0}, {"a": 6})
    with pytest.raises(ValueError, match="finite and non-negative"):
        apportion(1, {"a": float("nan")}, {"a": 0}, {"a": 6})


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5]), max_size=40), st.integers(0, 40))
def test_largest_is_the_head_of_a_stable_sort(scores, count):
    count = min(count, len(scores))
    expected = np.zeros(len(scores), dtype=bool)
    expected[np.argsort(-np.array(scores), kind="stable")[:count]] = True
    assert largest(torch.tensor(scores), count).tolist() == expected.tolist()


@pytest.mark.parametrize("size", [0, 1, 10, 1024, 1025, 5000, 100_000])
def test_sample_is_exact_and_repeatable(size):
    for count in {0, min(1, size), size // 3, max(size - 1, 0), size}:
        chosen = sample(size, count, generator(count))
        assert chosen.shape == (size,)
        assert int(chosen.sum()) == count
        assert torch.equal(chosen, sample(size, count, generator(count)))


@pytest.mark.parametrize("size", [6, 1030])
def test_sample_is_uniform(size):
    draws = 2000
    source = generator()
    hits = sum(sample(size, size // 3, source).double() for _ in range(draws))
    # each count is binomial with mean n/3: 6 standard deviations of 1030 entries leave a chance of 2e-6
    assert (hits - draws / 3).abs().max() < 6 * (draws * 2 / 9) ** 0.5


def test_within_places_a_choice():
    mask = torch.tensor([[True, False], [True, True]])
    assert within(mask, torch.tensor([False, True, True])).tolist() == [[False, False], [True, True]]
