"""Blocks of 8 outputs x 4 inputs, also where the sizes of a matrix do not divide."""

import itertools
import json

import pytest
import torch
from torch import nn

from hyperpruning.deploy import native_network
from hyperpruning.deploy.compiler import CompilerError
from hyperpruning.deploy.decoder import Decoder
from hyperpruning.deploy.packing import BLOCK_COLUMNS, BLOCK_ROWS
from hyperpruning.search.samplers import SAMPLERS, suggest
from hyperpruning.search.space import SearchSpace
from hyperpruning.sparsity.blocks import BlockGrid
from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.parameter import GRANULARITIES
from hyperpruning.sparsity.serialization import from_config, to_config
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.testing import check_method
from hyperpruning.testing.method import check_repeatable
from hyperpruning.testing.pruned_run import Run, check_updates
from pruned import prunable_parameter

NAMES = ("static", "rigl", "rigl-erk", "set-itop", "mest", "selfish-rnn", "gmp", "magnitude", "iss-p")
SHAPES = [(8, 4), (10, 6), (7, 3), (16, 9), (9, 16), (24, 12), (5, 2, 3), (1, 1)]


class Odd(nn.Module):
    """An LSTM and a linear layer, none of whose matrices divides into blocks of 8 x 4."""

    gates = None

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 13)
        self.head = nn.Linear(13, 21)

    def forward(self, inputs):
        return self.head(self.lstm(inputs)[0])

    def batch(self, source):
        return torch.randn(4, 3, 6, generator=source)


def blocks_8x4(name="rigl", **parts):
    # those that move weights between tensors need blocks of one size
    return from_config({"method": name, "granularity": "block_8x4"} | parts)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_grid_counts_as_the_blocks_that_are_there(shape):
    grid = BlockGrid(shape, (8, 4))
    numbers = torch.arange(float(grid.n_blocks))
    weights = grid.weight_mask(numbers)
    assert weights.shape == shape
    assert grid.block_mask(weights).equal(numbers)
    assert grid.sums(torch.ones(shape)).equal(_sizes(weights))
    sizes = sorted(_sizes(weights).int().tolist(), reverse=True)
    most = [0, *itertools.accumulate(sizes)]
    assert [grid.most_weights(count) for count in range(len(most))] == most
    assert most[-1] == torch.Size(shape).numel()
    fitting = [max(count for count, size in enumerate(most) if size <= budget) for budget in range(most[-1] + 1)]
    assert [grid.most_blocks(budget) for budget in range(most[-1] + 1)] == fitting


def _sizes(weights):
    return weights.flatten().int().bincount().float()


def test_eight_are_outputs_and_four_are_inputs_as_in_the_decoder():
    granularity = GRANULARITIES["block_8x4"]
    assert (granularity.rows, granularity.columns) == (BLOCK_ROWS, BLOCK_COLUMNS) == (8, 4)
    model = nn.Linear(40, 80)  # its weight is (outputs, inputs)
    Sparsifier(model, None, blocks_8x4("static"), sparsity=0.9)
    blocks = (model.weight != 0).view(10, 8, 10, 4).swapaxes(1, 2).reshape(100, 32)
    assert blocks.sum(1).sort().values.tolist() == [0] * 90 + [32] * 10


def test_a_block_has_the_sum_of_its_weights_scores_and_a_partial_one_is_scaled_to_a_whole_one():
    one = prunable_parameter(torch.ones(10, 6), block_shape=(8, 4))
    assert one.block_scores(torch.ones(10, 6)).tolist() == [32, 32, 32, 32]
    scores = torch.arange(60.0).view(10, 6)
    blocks = [scores[:8, :4], scores[:8, 4:], scores[8:, :4], scores[8:, 4:]]
    torch.testing.assert_close(one.block_scores(scores), torch.stack([32 * block.mean() for block in blocks]))


def test_the_last_outputs_are_not_pruned_because_their_blocks_are_partial():
    torch.manual_seed(0)
    model = nn.Linear(64, 10, bias=False)  # 8 rows of blocks 8 x 4, and 2 rows of blocks 2 x 4
    sparsifier = Sparsifier(model, None, blocks_8x4("magnitude", density_until=0.5), sparsity=0.6, total_steps=4)
    for _ in range(3):
        sparsifier.step()
    blocks = sparsifier.weight_budget.grids["weight"].block_mask(sparsifier.masks["weight"]).view(2, 16)
    assert blocks.sum(1).min() >= 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_the_number_of_blocks_is_exact_where_sizes_do_not_divide(name, optimizer):
    run = Run(blocks_8x4(name), network=Odd, optimizer=optimizer, sparsity=0.7, steps=32)
    assert all(grid.partial for grid in run.sparsifier.weight_budget.grids.values())
    check_updates(run, 31)  # never more weights than the budget has, and whole blocks
    assert run.sparsifier.at_final_density
    assert run.sparsifier.active_blocks == run.sparsifier.weight_budget.scheduled_blocks(32)
    assert run.sparsifier.sparsity >= 0.7


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.66, 0.8, 0.85])
def test_the_budget_is_never_exceeded_and_dense_is_dense(sparsity):
    for seed in range(5):
        model = Odd()
        sparsifier = Sparsifier(model, None, blocks_8x4(), sparsity=sparsity, total_steps=10, seed=seed)
        active = sum(int(mask.sum()) for mask in sparsifier.masks.values())
        budget = round((1 - sparsity) * sparsifier.weight_budget.dense_cost)
        assert active == sparsifier.active_cost <= sparsifier.weight_budget.target_cost <= budget
        # the next block of any tensor would exceed the budget
        grids, blocks = sparsifier.weight_budget.grids, sparsifier.active_blocks
        used = {name: grids[name].most_weights(blocks[name]) for name in grids}
        more = {name: grids[name].most_weights(blocks[name] + 1) - used[name] for name in grids}
        assert all(sum(used.values()) + extra > budget for name, extra in more.items() if extra)
        assert sparsity > 0 or active == budget == 1261


def test_a_gradual_schedule_starts_dense_and_ends_at_its_blocks():
    run = Run(blocks_8x4("gmp"), network=Odd, sparsity=0.8, steps=40)
    assert run.sparsifier.sparsity == 0
    assert not run.sparsifier.at_final_density
    counts = [sum(run.sparsifier.active_blocks.values()) for _ in run.train(range(39))]
    assert counts == sorted(counts, reverse=True)
    assert run.sparsifier.at_final_density
    assert 0.8 <= run.sparsifier.sparsity < 0.95  # most blocks of so small a network are partial


def test_a_drop_keeps_the_blocks_with_the_largest_scores():
    model = nn.Linear(6, 10, bias=False)
    with torch.no_grad():
        model.weight.fill_(1e-3)
        model.weight[8:, 4:] = 9
        model.weight[8:, :4] = 1
    method = blocks_8x4("magnitude", density_until=0.5)
    sparsifier = Sparsifier(model, None, method, sparsity=0.2, total_steps=4)  # 48 of 60: two blocks
    for _ in range(3):
        sparsifier.step()
    assert sparsifier.masks["weight"].int().tolist() == [[0] * 6] * 8 + [[1] * 6] * 2
    assert sparsifier.active_cost == 12


@pytest.mark.parametrize("name", ["rigl", "gmp", "static"])
def test_a_method_of_blocks_passes_the_contract(name):
    check_method(blocks_8x4(name), steps=40)


def test_a_training_of_partial_blocks_is_repeatable():
    check_repeatable(blocks_8x4(), network=Odd, sparsity=0.7)


def test_partial_blocks_do_not_move_between_tensors():
    for parts in ({"method": "gmp-global"}, {"method": "dsr"}):
        method = from_config(parts | {"granularity": "block_8x4"})
        with pytest.raises(ValueError, match=r"must have the same cost .*, got 8 to 32 in 'lstm.weight_ih_l0'"):
            Sparsifier(Odd(), None, method, sparsity=0.5, total_steps=10)
    whole = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 16))
    assert Sparsifier(whole, None, METHODS["dsr"], sparsity=0.5, total_steps=10).active_cost == 512


def test_it_is_written_and_searched_by_name():
    method = blocks_8x4("gmp", density_until=0.6)
    config = json.loads(json.dumps(to_config(method)))
    assert config["granularity"] == "block_8x4"
    assert from_config(config) == method
    space = SearchSpace({"granularity": ("weight", "block_8x4"), "drop_scope": ("tensor", "gate")})
    found = suggest(space, [], sampler=SAMPLERS["random"], seed=0, count=4)
    assert {one["granularity"] for one in found} == {"weight", "block_8x4"}


@pytest.mark.parametrize("precision", ["exact", "int8"])
def test_the_decoder_takes_the_block_format_for_them(precision, monkeypatch):
    def by_bytes(kernel, candidates):  # as at the limit of the bandwidth; no test measures time
        return [{name: matrix.packed.nbytes / 1e10 for name, matrix in one.items()} for one in candidates]

    monkeypatch.setattr(native_network, "measure", by_bytes)
    torch.manual_seed(0)
    found = {}
    for granularity in ("block_8x4", "weight"):
        network = nn.GRU(39, 50)  # 150 rows, 39 and 50 columns: partial blocks
        method = from_config({"method": "static", "granularity": granularity})
        Sparsifier(network, None, method, sparsity=0.9)
        try:
            decoder = Decoder(network, precision=precision)
        except CompilerError as error:
            pytest.skip(str(error))
        if decoder.instructions == "torch":
            pytest.skip("no compiler")
        found[granularity] = {one.format.split("_")[0] for one in decoder.report()}
        if precision == "exact":
            inputs = torch.randn(30, 39)
            expected = network(inputs)[0]
            for x, y in zip(inputs, expected, strict=True):
                torch.testing.assert_close(decoder.step(x[None])[0], y, atol=1e-5, rtol=0)
    assert found == {"block_8x4": {"block"}, "weight": {"window"}}
