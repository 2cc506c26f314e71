"""The parts of a method, each by hand."""

import copy
import functools
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hyperpruning.sparsity.growth import grow
from hyperpruning.sparsity.method import Method
from hyperpruning.sparsity.parameter import GRANULARITIES, Granularity
from hyperpruning.sparsity.redistributions import REDISTRIBUTIONS, growth_quotas
from hyperpruning.sparsity.regrowth_inits import REGROWTH_INITS
from hyperpruning.sparsity.scopes import DROP_SCOPES
from hyperpruning.sparsity.scores import DROPS, GROWTHS, gradient, lamp, magnitude_gradient
from hyperpruning.sparsity.serialization import COMPONENTS, DEFAULT_CHOICES, to_config
from hyperpruning.sparsity.updates import drop_and_grow
from pruned import generator, prunable_parameter, prunable_parameters

EMPTY = [0.0] * 6
FREE = {"floor": 0.0, "ceiling": 1.0}


def kept(method, shown, fraction):
    """The weights that an update keeps."""
    targets = {name: int(one.block_mask(one.mask).count_nonzero()) for name, one in shown.items()}
    return drop_and_grow(method, shown, targets, fraction, {}, generator())[0]


def survivors(scope, values, fraction):
    shown = {"w": prunable_parameter([values])}
    return shown["w"].weight[kept(Method(drop_scope=DROP_SCOPES[scope]), shown, fraction)["w"]].tolist()


def test_a_tensor_drops_its_smallest():
    assert survivors("tensor", [5.0, -1, 2, -4, 3, *EMPTY], 0.5) == [5, -4, 3]


def test_the_signs_drop_each_next_to_zero():
    # magnitude would take 1, 2 and 3; SET takes a third of the positives and a third of the negatives
    values = [1.0, 2.0, 3.0, -30.0, -10.0, -20.0, *EMPTY]
    assert survivors("sign", values, 0.34) == [2, 3, -30, -20]
    assert survivors("tensor", values, 0.5) == [-30, -10, -20]
    assert survivors("sign", values, 0.67) == [3, -30]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_signs_with_one_sign_only(sign):
    values = [sign * v for v in (1.0, 4.0, 2.0, 3.0)]
    assert survivors("sign", [*values, *EMPTY], 0.5) == [4 * sign, 3 * sign]


def test_a_global_drop_ranks_all_tensors_together():
    shown = prunable_parameters(small=[[1.0, 2.0, 3.0, 0.0]], large=[[4.0, 5.0, 0.0, 0.0]])
    left = kept(Method(drop_scope=DROP_SCOPES["global"]), shown, 0.6)  # floor(0.6 * 5) = 3
    assert {name: int(mask.sum()) for name, mask in left.items()} == {"small": 0, "large": 2}


def test_gates_drop_for_themselves():
    shown = {
        "w": prunable_parameter([[9.0, 8.0, 0, 0], [7.0, 6.0, 0, 0], [1.0, 2.0, 0, 0], [3.0, 4.0, 0, 0]], row_groups=2)
    }
    left = kept(Method(drop_scope=DROP_SCOPES["gate"]), shown, 0.5)["w"]
    assert left.int().tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]


@pytest.mark.parametrize("scope", DROP_SCOPES)
@given(st.integers(0, 2**16), st.floats(0.01, 0.99), st.floats(0, 1))
def test_every_scope_drops_a_subset_of_the_right_size(scope, seed, fraction, density):
    source = generator(seed)
    weights = {name: torch.randn(size, generator=source).round() for name, size in (("a", (6, 9)), ("b", (4, 5)))}
    masks = {name: torch.rand(w.shape, generator=source) < density for name, w in weights.items()}
    shown = {
        name: prunable_parameter(w * masks[name], masks[name], name=name, row_groups=2) for name, w in weights.items()
    }
    left = kept(Method(drop_scope=DROP_SCOPES[scope]), shown, fraction)
    assert not any((left[name] & ~masks[name]).any() for name in masks)
    for group in [list(masks)] if scope == "global" else [[name] for name in masks]:
        active = sum(int(masks[name].sum()) for name in group)
        empty = sum(masks[name].numel() for name in group) - active
        assert active - sum(int(left[name].sum()) for name in group) == min(int(fraction * active), empty)


@pytest.mark.parametrize("scope", ["tensor", "global", "sign"])
def test_of_equal_weights_the_first_stay(scope):
    shown = {"w": prunable_parameter([[2.0, 2.0, 2.0, 2.0, *EMPTY]])}
    assert kept(Method(drop_scope=DROP_SCOPES[scope]), shown, 0.5)["w"].tolist()[0][:4] == [True, True, False, False]


def test_drop_scores():
    one = prunable_parameter([[3.0, -2.0, 1.0, 0.0]], gradient=[[0.0, 4.0, -9.0, 5.0]])
    assert DROPS["taylor"](one).tolist() == [[0, 8, 9, 0]]
    assert DROPS["magnitude_gradient"](one).tolist() == [[3, 6, 10, 5]]
    assert functools.partial(magnitude_gradient, weight=0.5)(one).tolist() == [[3, 4, 5.5, 2.5]]
    assert DROPS["random"](one) is None


def test_lamp_is_its_formula():
    weights = torch.randn(5, 7, generator=generator(2))
    weights[1, :3] = weights[0, 0]  # equal ones share a score
    weights[2:4] = 0
    squares = weights.double().square()
    expected = torch.stack([w2 / squares[squares >= w2].sum() for w2 in squares.flatten()]).view(5, 7)
    torch.testing.assert_close(lamp(prunable_parameter(weights)).double(), expected, rtol=1e-6, atol=0)
    assert (
        int((lamp(prunable_parameter(weights)) == 1).sum()) == 1
    )  # the largest, which a global choice therefore never empties


def grown(rule, shown, left, count):
    method = Method(grow=GROWTHS[rule])
    return grow(method, shown, {n: m.reshape(-1) for n, m in left.items()}, dict.fromkeys(shown, count), generator())


def test_random_growth_reaches_every_empty_position():
    left = torch.tensor([[True, False, False, True, False]])
    shown = {"w": prunable_parameter(torch.zeros(1, 5), left)}
    source, method = generator(), Method()
    seen = sum(grow(method, shown, {"w": left.view(-1)}, {"w": 1}, source)["w"].int() for _ in range(60))
    assert (seen > 0).tolist() == (~left).tolist()  # a position is missed with probability (2/3)^60 = 3e-11


def test_gradient_growth_takes_the_steepest():
    left = torch.tensor([[True, False, False, False, False]])
    shown = {"w": prunable_parameter(torch.zeros(1, 5), left, gradient=[[9.0, -4.0, 3.0, 2.0, -5.0]])}
    assert grown("gradient", shown, {"w": left}, 2)["w"].tolist() == [[False, True, False, False, True]]


def test_growth_by_the_average_gradient_takes_its_steepest():
    left = torch.tensor([[True, False, False, False]])
    shown = {"w": prunable_parameter(torch.zeros(1, 4), left, average=torch.tensor([[9.0, 1.0, -3.0, 2.0]]))}
    assert grown("gradient_average", shown, {"w": left}, 1)["w"].tolist() == [[False, False, True, False]]


def test_what_has_never_been_active_grows_first():
    left, ever_active = torch.zeros(1, 8, dtype=torch.bool), torch.tensor([[True] * 5 + [False] * 3])
    shown = {"w": prunable_parameter(torch.zeros(1, 8), left, ever_active=ever_active)}
    assert grown("unfired", shown, {"w": left}, 3)["w"].equal(~ever_active)
    assert int((grown("unfired", shown, {"w": left}, 5)["w"] & ever_active).sum()) == 2


@pytest.mark.parametrize("sparse", [False, True])
def test_gradient_growth_fills_up_at_random(sparse):
    embedding = nn.Embedding(50, 4, sparse=sparse)
    embedding(torch.tensor([3])).square().sum().backward()  # one row has gradients
    left = torch.zeros(50, 4, dtype=torch.bool)
    shown = {"w": prunable_parameter(embedding.weight.detach(), left)}
    shown["w"].tensor.grad = embedding.weight.grad
    found = grown("gradient", shown, {"w": left}, 30)["w"]
    assert int(found.sum()) == 30
    assert found[3].all()


def test_gradient_growth_without_gradients_says_so():
    with pytest.raises(ValueError, match=r"got none for 'w'. Call step\(\) after .* before optimizer.zero_grad\(\)"):
        gradient(prunable_parameter(torch.zeros(2, 2)))


def test_gradient_growth_explains_when_gradients_never_reach_what_is_pruned():
    mask = torch.rand(12, 12, generator=generator()) < 0.4
    slopes = torch.randn(12, 12, generator=generator(1))
    with pytest.raises(ValueError, match="Do not multiply a mask into the forward pass"):
        gradient(prunable_parameter(mask.float(), gradient=slopes * mask))
    assert gradient(prunable_parameter(mask.float(), gradient=slopes)).values.equal(slopes.view(-1))
    rows = slopes * (torch.arange(12) < 1)[:, None] * mask  # a single row: too little to say
    assert gradient(prunable_parameter(mask.float(), gradient=rows)).values.equal(rows.view(-1))


def test_gates_grow_in_equal_parts():
    left = torch.zeros(8, 5, dtype=torch.bool)
    left[:2] = True  # the first gate is full
    shown = {"w": prunable_parameter(torch.zeros(8, 5), left, row_groups=4)}
    method = Method(grow_scope=DROP_SCOPES["gate"])
    found = grow(method, shown, {"w": left.view(-1)}, {"w": 12}, generator())["w"]
    assert found.view(4, -1).sum(dim=1).tolist() == [0, 4, 4, 4]


def test_global_growth_lets_tensors_compete():
    shown = {
        "flat": prunable_parameter(torch.zeros(1, 4), gradient=[[1.0, 2.0, 1.0, 1.0]], name="flat"),
        "steep": prunable_parameter(torch.zeros(1, 4), gradient=[[5.0, 6.0, 7.0, 0.5]], name="steep"),
    }
    method = Method(grow=gradient, grow_scope=DROP_SCOPES["global"])
    found = grow(method, shown, dict.fromkeys(shown, torch.zeros(4, dtype=torch.bool)), {"flat": 4, "steep": 0}, None)
    assert found["flat"].int().tolist() == [[0, 1, 0, 0]]
    assert found["steep"].int().tolist() == [[1, 1, 1, 0]]


@pytest.mark.parametrize("name", ["row", "column", "block_4x4"])
def test_blocks_are_pruned_whole(name):
    block_shape = GRANULARITIES[name].block_shape(torch.Size((8, 12)))
    weights = torch.arange(1.0, 97).view(8, 12)
    shown = {"w": prunable_parameter(weights, torch.ones(8, 12), block_shape=block_shape)}
    one = shown["w"]
    half = one.n_blocks // 2
    left = drop_and_grow(Method(granularity=GRANULARITIES[name]), shown, {"w": half}, 0.0, {}, generator())[0]["w"]
    assert one.weight_mask(one.block_mask(left)).equal(left)
    assert int(left.sum()) * one.n_blocks == half * 96
    expected = one.block_scores(weights).topk(half).indices
    assert sorted(one.block_mask(left).nonzero().squeeze(1).tolist()) == sorted(expected.tolist())


def test_n_of_m_holds_in_every_group_through_an_update():
    granularity = Granularity(keep=2, of=4)
    weights = torch.tensor([[9.0, 8, 0, 0, 1, 2, 0, 0]])
    shown = {"w": prunable_parameter(weights, gradient=[[1.0, 1, 2, 3, 4, 4, 5, 6]])}
    method = Method(granularity=granularity, grow=gradient)
    left, new = drop_and_grow(method, shown, {"w": 4}, 0.5, {}, generator())
    assert left["w"].int().tolist() == [[1, 1, 0, 0, 0, 0, 0, 0]]  # the smallest of the tensor
    assert new["w"].int().tolist() == [[0, 0, 0, 0, 0, 0, 1, 1]]  # and as many again in its group


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="must divide into 4 x 4 blocks, got 6 x 8"):
        GRANULARITIES["block_4x4"].block_shape(torch.Size((6, 8)))
    with pytest.raises(ValueError, match="groups of 4 weights in a row, got 8 x 6"):
        GRANULARITIES["two_of_four"].block_shape(torch.Size((8, 6)))


def test_shares():
    momentum = {"momentum_buffer": torch.tensor([[4.0, 2.0, 9.0]])}
    shown = {
        "a": prunable_parameter([[1.0, -3.0, 100.0]], gradient=[[2.0, 4.0, 8.0]], optimizer=momentum),
        "b": prunable_parameter([[5.0, 5.0, 5.0]], gradient=[[1.0, 1.0, 1.0]], optimizer=momentum),
    }
    left = {"a": torch.tensor([[True, True, False]]), "b": torch.zeros(1, 3, dtype=torch.bool)}
    found = {name: share(shown, left, {"a": 1, "b": 2}) for name, share in REDISTRIBUTIONS.items()}
    assert found == {
        "none": {"a": 1, "b": 2},
        "nonzeros": {"a": 2, "b": 0},
        "magnitude": {"a": 2, "b": 0},
        "gradient": {"a": 3, "b": 0},
        "momentum": {"a": 5, "b": 5},  # over the weights before the drop
        "size": {"a": 3, "b": 3},
    }


def test_momentum_of_adam_and_of_none():
    adam = {"exp_avg": torch.tensor([[2.0]]), "exp_avg_sq": torch.tensor([[4.0]])}
    assert prunable_parameter([[1.0]], optimizer=adam).momentum.item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="Give SGD a momentum"):
        _ = prunable_parameter([[1.0]]).momentum


def quotas(shares, survivors, lost, **limits):
    return growth_quotas(shares, survivors, lost, dict.fromkeys(survivors, 100), **limits)


def test_limits_hold_tensors_back():
    survivors, lost = {"rich": 60, "poor": 4}, {"rich": 20, "poor": 16}
    assert quotas({"rich": 1.0, "poor": 0.0}, survivors, lost, **FREE) == {"rich": 36, "poor": 0}
    assert quotas({"rich": 1.0, "poor": 0.0}, survivors, lost, floor=0.1, ceiling=0.9) == {"rich": 30, "poor": 6}


def test_a_tensor_beyond_a_limit_may_stay_but_go_no_further():
    survivors, lost = {"rich": 90, "poor": 1}, {"rich": 9, "poor": 2}
    assert quotas({"rich": 1.0, "poor": 0.0}, survivors, lost, floor=0.1, ceiling=0.5) == {"rich": 9, "poor": 2}


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 9)), min_size=1, max_size=5),
    st.floats(0, 0.5),
    st.floats(0.51, 1),
)
def test_quotas_always_fit(rows, floor, ceiling):
    survivors, lost, shares = ({f"t{i}": row[k] for i, row in enumerate(rows)} for k in range(3))
    found = quotas(shares, survivors, lost, floor=floor, ceiling=ceiling)
    assert sum(found.values()) == sum(lost.values())
    assert all(0 <= found[name] <= 100 - survivors[name] for name in found)
    assert quotas(lost, survivors, lost, floor=0.02, ceiling=0.98) == lost  # without redistribution


def test_regrowth_inits():
    one = prunable_parameter([[2.0, -4.0, 7.0, 0.0]])
    left, new = torch.tensor([[True, True, False, False]]), torch.tensor([[False, False, True, True]])
    assert REGROWTH_INITS["zero"](one, left, new) == 0
    assert REGROWTH_INITS["keep"](one, left, new) is None
    drawn = REGROWTH_INITS["random"](one, left, new)
    assert drawn.abs().max() <= 3
    assert len(drawn.unique()) == 4


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, choices in COMPONENTS.items() for name in choices])
def test_a_part_is_known_again_in_another_process(part, name):
    """A worker process has a pickled copy of a method, in which a `functools.partial` is another object."""
    copied = pickle.loads(pickle.dumps(COMPONENTS[part][name]))
    method = copy.copy(Method())
    object.__setattr__(method, part, copied)
    assert to_config(method).get(part, DEFAULT_CHOICES[part]) == name
