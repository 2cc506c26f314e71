"""Densities of gates, and weights that are never pruned."""

import json
import re

import pytest
import torch
from torch import nn

from hyperpruning.experiment import Experiment
from hyperpruning.models.rhn import RHNLayer
from hyperpruning.search.dimensions import FloatRange
from hyperpruning.search.samplers import SAMPLERS, suggest
from hyperpruning.search.space import SearchSpace
from hyperpruning.sparsity.catalogue import METHODS
from hyperpruning.sparsity.gates import recurrent_matrices
from hyperpruning.sparsity.masking import density
from hyperpruning.sparsity.serialization import LEFT_OUT, from_config, to_config
from hyperpruning.sparsity.sparsifier import Sparsifier
from hyperpruning.testing import check_method
from hyperpruning.testing.method import check_repeatable
from hyperpruning.testing.pruned_run import Run, check_updates

RNNOISE = {"gate_density_1": 0.3, "gate_density_2": 0.2, "gate_density_3": 0.5}  # r, z, n
DIAGONAL = {"dense_part": "recurrent_diagonal"}
BLOCKS = RNNOISE | DIAGONAL | {"granularity": "block_8x4"}
NAMES = ("static", "rigl", "set-itop", "dsr-tensor", "gmp", "magnitude", "iss-p", "selfish-rnn")


class GRU(nn.Module):
    """A GRU of 16 units and a linear layer."""

    gates = None

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(16, 16)
        self.head = nn.Linear(16, 8)

    def forward(self, inputs):
        return self.head(self.gru(inputs)[0])

    def batch(self, source):
        return torch.randn(4, 3, 16, generator=source)


def method_of(name, **parts):
    if name == "dsr-tensor":
        return from_config({"method": "dsr", "drop_scope": "tensor", **parts})
    return from_config({"method": name, **parts})


def gates_of(sparsifier):
    return density({"w": sparsifier.masks["gru.weight_hh_l0"]}, {"w": 3})["w"]


@pytest.mark.parametrize("name", NAMES)
def test_gates_have_their_densities_after_every_update(name):
    run = Run(method_of(name, **RNNOISE), network=GRU, optimizer="momentum", sparsity=2 / 3, steps=40)
    for _ in run.train(range(39)):
        active = int(run.sparsifier.masks["gru.weight_hh_l0"].sum())
        if run.sparsifier.at_final_density:
            expected = [density * active / 256 for density in RNNOISE.values()]
            assert gates_of(run.sparsifier) == pytest.approx(expected, abs=1 / 256)
            assert name in ("dsr-tensor", "set-itop") or active == 256  # those give tensors other densities
    first, second, third = gates_of(run.sparsifier)
    assert (first / third, second / third) == pytest.approx((0.6, 0.4), abs=0.03)
    check_updates(Run(method_of(name, **RNNOISE), network=GRU, sparsity=2 / 3, steps=24), 23)


def test_a_gate_gets_at_most_all_of_its_weights():
    sparsifier = Sparsifier(GRU(), None, from_config({"method": "static", **RNNOISE}), sparsity=0.3)
    found = gates_of(sparsifier)  # 0.7 of all: 1.05 is more than the third gate has
    assert found[2] == 1
    assert sum(found) == pytest.approx(2.1, abs=1 / 256)
    assert found[0] / found[1] == pytest.approx(1.5, abs=0.02)


def test_equal_densities_change_nothing():
    masks = []
    for parts in ({}, dict.fromkeys(RNNOISE, 2.0) | {"gate_density_4": 2.0}):
        run = Run(from_config({"method": "rigl", **parts}), network=GRU, steps=20)
        list(run.train(range(16)))
        masks.append(run.sparsifier.masks)
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


@pytest.mark.parametrize("parts", [RNNOISE, DIAGONAL, RNNOISE | DIAGONAL, BLOCKS])
@pytest.mark.parametrize("name", ["rigl", "gmp"])
def test_such_methods_keep_every_invariant(name, parts):
    method = from_config({"method": name, **parts})
    check_updates(Run(method, network=GRU, optimizer="adam", sparsity=0.4, steps=24), 23)
    check_repeatable(method, network=GRU, sparsity=0.4)


def test_a_method_with_both_passes_the_contract():
    check_method(from_config({"method": "rigl", "gate_density_2": 1.5, **DIAGONAL}), steps=30)


@pytest.mark.parametrize("granularity", ["weight", "block_8x4"])
@pytest.mark.parametrize("name", ["static", "rigl", "gmp", "magnitude", "iss-p", "selfish-rnn"])
def test_the_recurrent_diagonal_stays_dense(name, granularity):
    method = from_config({"method": name, "granularity": granularity, **DIAGONAL})
    run = Run(method, network=GRU, optimizer="momentum", sparsity=0.4, steps=24)
    diagonal = torch.eye(16, dtype=torch.bool).repeat(3, 1)
    for _ in run.train(range(23)):
        assert run.sparsifier.masks["gru.weight_hh_l0"][diagonal].all()
    masks = run.sparsifier.masks
    assert not masks["gru.weight_ih_l0"][diagonal].all()  # of the same shape, but not recurrent
    budget = run.sparsifier.weight_budget
    assert run.sparsifier.active_cost == budget.target_cost == (998 if granularity == "weight" else 992)


def test_recurrent_matrices_are_known():
    assert recurrent_matrices(RHNLayer(3, 4, depth=2)) == {"r.0", "r.1"}
    assert recurrent_matrices(nn.Sequential(nn.LSTMCell(2, 3), nn.Linear(3, 3))) == {"0.weight_hh"}


def test_they_are_written_and_searched():
    method = from_config({"method": "gmp", **RNNOISE, **DIAGONAL})
    config = json.loads(json.dumps(to_config(method)))
    assert config.items() >= (RNNOISE | DIAGONAL).items()
    assert from_config(config) == method
    assert not to_config(METHODS["gmp"]).keys() & set(LEFT_OUT)  # configs of earlier versions stay as they were
    space = SearchSpace({"gate_density_3": FloatRange(0.5, 2.0), "dense_part": ("none", "recurrent_diagonal")})
    found = suggest(space, [], sampler=SAMPLERS["random"], seed=0, count=6)
    assert len({one["gate_density_3"] for one in found}) > 1
    space = {"numbers": {"gate_density_3": {"low": 0.5, "high": 2.0}}, "dense_part": ["none", "recurrent_diagonal"]}
    dimensions = Experiment(space=space).plan().space.dimensions
    assert dimensions["gate_density_3"] == FloatRange(0.5, 2.0)
    assert dimensions["dense_part"] == ("none", "recurrent_diagonal")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"gate_density_1": 0.0}, "gate_density_1 must be finite and above 0, got 0.0. 1 is usual."),
        ({"gate_density_1": "2"}, "gate_density_1 must be a number, got '2'."),
        (
            {"gate_density_1": 2.0, "drop_scope": "sign"},
            "drop_scope must be 'tensor' when gate_density_1 to gate_density_4 differ, got 'sign'.",
        ),
        ({**DIAGONAL, "grow_scope": "global"}, "grow_scope must be 'tensor' when dense_part is set, got 'global'."),
        ({**DIAGONAL, "redistribute": "size"}, "redistribute must be 'none' when dense_part is set, got 'size'."),
        (
            {**DIAGONAL, "granularity": "two_of_four"},
            "granularity must not be N:M or whole columns when dense_part is set, got "
            "Granularity(rows=1, columns=1, keep=2, of=4, padded=False). Use 'weight'.",
        ),
        (
            {**DIAGONAL, "update": "published_set"},
            "update must be 'exact' when dense_part is set, got another. Leave update out.",
        ),
    ],
)
def test_what_does_not_fit_is_refused(parts, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        from_config({"grow": "random", "drop_fraction": 0.3, **parts})


def test_a_network_that_does_not_fit_is_refused():
    diagonal = from_config({"method": "rigl", **DIAGONAL})
    with pytest.raises(ValueError, match=r"^sparsity must leave room for the dense part of every .*, got 38 active "):
        Sparsifier(GRU(), None, diagonal, sparsity=0.95, total_steps=10)
    with pytest.raises(ValueError, match=r"^Each gate of a recurrent matrix must be square .*, got 32 x 4 with 4"):
        Sparsifier(nn.LSTM(4, 8, proj_size=4), None, diagonal, sparsity=0.5, total_steps=10)
    with pytest.raises(ValueError, match="ranked or counted by gate, got none"):
        Sparsifier(nn.Linear(4, 8), None, from_config({"method": "rigl", **RNNOISE}), sparsity=0.5, total_steps=10)
