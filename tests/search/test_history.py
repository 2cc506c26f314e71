"""Facts there and back, and what a history says of them."""

import json
import math
from dataclasses import replace

import pytest

from hyperpruning.search.history import (
    DENSE,
    KINDS,
    Candidate,
    Choice,
    Epoch,
    Failure,
    FinalResult,
    Header,
    History,
    RoundDecision,
    SpaceExhausted,
    Winner,
    from_json,
    to_json,
)
from hyperpruning.training.record import EpochRecord, Metric

RECORD = EpochRecord(3, 1.5, 1.25, 40, {"rnn.weight_hh_l0": [0.1, 0.2]}, 0.1, 0.5, 9.0, (-1.0, None))
FACTS = [
    Header(
        {"n_candidates": 2, "train": {"epochs": 3}}, {"torch": "2"}, Metric("accuracy", "%", None, maximize=True), 1.5
    ),
    Candidate("c01", 0, {"drop": "magnitude", "drop_fraction": 0.3}),
    Epoch("c01", RECORD),
    Epoch(DENSE, EpochRecord(0, None, 2.0, 100, {}, 0.0, valid_metric=0.5)),
    RoundDecision("ls", 0, 3, {"c01": 0.5}, ("c01",), ()),
    FinalResult("c01", 3, 1.25, 1.5, 40, "ab"),
    FinalResult("dense", 3, 1.25, 1.5, 40, "ab", 0.9, 0.8),
    Failure("c02", "The loss must be finite, got nan."),
    Winner("ls", "c01"),
    Choice("c02", "loss"),
    SpaceExhausted(1),
]


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
def test_a_fact_goes_through_json_unchanged_but_for_the_clock(fact):
    found = from_json(json.loads(json.dumps(to_json(fact))))
    if isinstance(fact, Epoch):
        assert "seconds" not in to_json(fact)
        assert found.record.exponents == fact.record.exponents
        found = Epoch(found.network, replace(found.record, seconds=fact.record.seconds))
    assert found == fact


def test_every_kind_is_tested():
    assert {type(fact) for fact in FACTS} == set(KINDS.values())


def test_a_history_orders_what_it_is_told():
    history = History()
    for fact in FACTS:
        history.add(fact)
    assert history.header == FACTS[0]
    assert history.at(3) == {"c01": RECORD}
    assert (history.trained("c01"), history.trained(DENSE), history.trained("c09")) == (-1, 0, -1)  # epoch 0 is missing
    assert history.failures.keys() == {"c02"}
    assert history.space_exhausted
    copy = history.copy()
    copy.add(Epoch("c01", EpochRecord(0, None, 2.0, 40, {}, 0.0)))
    assert 0 in copy.epochs["c01"]
    assert 0 not in history.epochs["c01"]


def test_a_metric_follows_from_the_loss_or_is_computed():
    assert Metric().value(1.5) == 1.5
    assert Metric("perplexity", "", "exp").value(math.log(9)) == pytest.approx(9)
    assert Metric("perplexity", "", "exp").value(1e9) == math.inf
    assert Metric("accuracy", "%", None, maximize=True).value(0.3, 91.0) == 91.0
    assert Metric("accuracy", "%", None, maximize=True).better(91, 90)
    assert not Metric().better(91, 90)
    with pytest.raises(ValueError, match="from_loss must be None or one of identity, exp, got 'square'"):
        Metric("error", "", "square")
