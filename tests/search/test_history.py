"""Facts there and back, and what a history says of them."""

import json
import math
import sys
from dataclasses import replace

import pytest

from hyperpruning.search.fact_json import KINDS, from_json, to_json
from hyperpruning.search.history import (
    DENSE,
    Candidate,
    Choice,
    Epoch,
    Failure,
    FinalResult,
    Header,
    History,
    Promotion,
    RoundDecision,
    SpaceExhausted,
    Stopped,
    Winner,
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
    Promotion("ls", 0, "c01"),
    RoundDecision("ls", 0, 3, {"c01": 0.5}, ("c01",), ()),
    FinalResult("c01", 3, 1.25, 1.5, 40, "ab"),
    FinalResult("dense", 3, 1.25, 1.5, 40, "ab", 0.9, 0.8),
    Failure("c02", "The loss must be finite, got nan."),
    Stopped("ls", "target_loss", "c01", "The target is reached."),
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


def told(facts):
    history = History()
    for fact in facts:
        history.add(fact)
    return history


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


def test_a_history_has_a_row_for_each_network_and_epoch():
    pytest.importorskip("pandas")
    history = told(FACTS)
    frame = history.to_frame()
    assert frame[["network", "epoch"]].values.tolist() == [["dense", 0], ["c01", 3]]
    dense, candidate = frame.to_dict("records")
    assert candidate["accuracy"] != candidate["accuracy"]  # evaluate gave none: missing
    assert dense["accuracy"] == 0.5
    assert (candidate["valid_loss"], candidate["active"], candidate["config_drop_fraction"]) == (1.25, 40, 0.3)
    assert candidate["spectrum"] == (-1.0, -math.inf)
    assert dense["config_drop_fraction"] != dense["config_drop_fraction"]
    assert len(History().to_frame()) == 0


def test_a_frame_without_pandas_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        ImportError, match=r"^pandas must be installed for to_frame\(\), got none. Run: pip install pandas$"
    ):
        History().to_frame()


def test_a_history_says_what_it_is():
    history = told(FACTS)
    assert repr(history) == "History(1 candidates, 0 epochs trained, 1 failed; winners: c01 by ls)"
    assert repr(History()) == "History(empty)"
    history.add(Candidate("c02", 0, {"drop": "<script>"}))
    history.add(Failure("c02", "a <b> & c"))
    text = history._repr_html_()
    assert text.startswith(f"<p>{history!r}</p><table>")
    assert text.count("<tr>") == 1 + 3  # dense, c01, c02
    assert "drop = &lt;script&gt;" in text
    assert "failed: a &lt;b&gt; &amp; c" in text
    assert "<td>winner by ls</td>" in text
    assert "History(empty)" in History()._repr_html_()


def test_a_metric_follows_from_the_loss_or_is_computed():
    assert Metric().value(1.5) == 1.5
    assert Metric("perplexity", "", "exp").value(math.log(9)) == pytest.approx(9)
    assert Metric("perplexity", "", "exp").value(1e9) == math.inf
    assert Metric("accuracy", "%", None, maximize=True).value(0.3, 91.0) == 91.0
    assert Metric("accuracy", "%", None, maximize=True).better(91, 90)
    assert not Metric().better(91, 90)
    with pytest.raises(ValueError, match="from_loss must be None or one of identity, exp, got 'square'"):
        Metric("error", "", "square")
