import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperpruning.sparsity import selection
from hyperpruning.sparsity.selection import apportion, count_true, largest, largest_in_each_group, sample, scatter_mask


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
    with pytest.raises(ValueError, match="total must be within the sums of lower and upper"):
        apportion(7, {"a": 1}, {"a": 0}, {"a": 6})
    with pytest.raises(ValueError, match="finite and not negative"):
        apportion(1, {"a": float("nan")}, {"a": 0}, {"a": 6})


def top(scores, eligible, count):
    """The choice as a stable sort makes it."""
    places = np.flatnonzero(eligible)
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[places[np.argsort(-scores[places].astype(np.float64), kind="stable")[:count]]] = True
    return chosen


@given(
    st.lists(st.tuples(st.sampled_from([-2.0, -0.0, 0.0, 1.0, 3.5]), st.booleans()), max_size=40), st.integers(0, 40)
)
def test_largest_is_the_top_of_a_stable_sort(rows, count):
    scores, eligible = np.array([row[0] for row in rows], dtype=np.float32), np.array([row[1] for row in rows], bool)
    count = min(count, int(eligible.sum()))
    cut = len(rows) // 3  # two tensors that compete
    parts = [[torch.tensor(values[:cut]), torch.tensor(values[cut:])] for values in (scores, eligible)]
    assert torch.cat(largest(*parts, count)).tolist() == top(scores, eligible, count).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["normal", "ties", "one"])
def test_many_are_chosen_like_few(dtype, kind, monkeypatch):
    monkeypatch.setattr(selection, "CHUNK", 20_000)
    scores = torch.randn(70_000, generator=generator(1), dtype=torch.float64)
    if kind == "ties":
        scores = scores.round()
        scores[scores == 0] *= -1  # zeros of both signs are equal
    scores = (torch.ones(70_000) if kind == "one" else scores).to(dtype)
    eligible = torch.rand(70_000, generator=generator(2)) < 0.6
    for count in (0, 1, 777, 30_000, int(eligible.sum())):
        found = largest(scores.split([30_000, 40_000]), eligible.split([30_000, 40_000]), count)
        expected = top(scores.float().numpy() if dtype == torch.bfloat16 else scores.numpy(), eligible.numpy(), count)
        assert torch.cat(found).equal(torch.from_numpy(expected))


@pytest.mark.parametrize("wave", [0.0, 1.0, 100.0])
def test_a_misleading_sample_costs_time_only(wave, monkeypatch):
    monkeypatch.setattr(selection, "SAMPLE", 500)  # every 141st entry is seen, and these are larger the higher the wave
    scores = torch.randn(70_000, generator=generator(1))
    scores[::141] += wave
    eligible = torch.rand(70_000, generator=generator(2)) < 0.6
    for count in (100, 20_000, 41_000):
        (found,) = largest([scores], [eligible], count)
        assert found.equal(torch.from_numpy(top(scores.numpy(), eligible.numpy(), count)))


@pytest.mark.parametrize("size", [0, 7, 70_000, 1_000_001])
def test_many_are_counted_like_few(size):
    mask = torch.rand(size + 3, generator=generator(size)) < 0.9
    for part in (mask, mask[3:], ~mask, torch.ones_like(mask)):  # also where memory is not aligned
        assert count_true(part) == int(part.sum())


def test_largest_of_each_chooses_in_every_group():
    scores = torch.tensor([4.0, 3, 2, 1, 5, 5, 5, 5])
    eligible = torch.tensor([0, 1, 1, 1, 1, 1, 1, 1]).bool()
    assert largest_in_each_group(scores, eligible, torch.tensor([1, 3])).int().tolist() == [0, 1, 0, 0, 1, 1, 1, 0]


@pytest.mark.parametrize("size", [0, 1, 10, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("part", [0.02, 0.5, 1.0])
def test_sample_is_exact_and_repeatable(size, part):
    eligible = torch.rand(size, generator=generator(3)) < part
    places = int(eligible.sum())
    for count in {0, min(1, places), places // 3, max(places - 1, 0), places}:
        chosen = sample(eligible, count, generator(count))
        assert int(chosen.sum()) == count
        assert not (chosen & ~eligible).any()
        assert torch.equal(chosen, sample(eligible, count, generator(count)))


@pytest.mark.parametrize("size", [6, 100])
@pytest.mark.parametrize("part", [0.02, 0.7])
def test_sample_is_uniform(size, part, monkeypatch):
    monkeypatch.setattr(selection, "SMALL", 50)  # 100 are many then
    draws, source = 4000, generator()
    eligible = torch.ones(size, dtype=torch.bool)
    eligible[0] = False
    count = max(1, round(part * (size - 1)))
    hits = sum(sample(eligible, count, source).double() for _ in range(draws))
    chance = count / (size - 1)
    assert hits[0] == 0
    # each count is binomial: 5 standard deviations of 100 entries leave a chance of 6e-5, with this seed none
    assert (hits[1:] - draws * chance).abs().max() <= 5 * (draws * chance * (1 - chance)) ** 0.5


def test_scatter_mask_writes_a_selection_back():
    mask = torch.tensor([[True, False], [True, True]])
    assert scatter_mask(mask, torch.tensor([False, True, True])).tolist() == [[False, False], [True, True]]
