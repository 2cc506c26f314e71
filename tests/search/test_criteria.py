"""Selection criteria, ranks and rank correlation."""

import math
import random
from dataclasses import replace

import pytest

from hyperpruning.search.criteria import CRITERIA, Rung, criterion_of
from hyperpruning.search.ranking import ranks, spearman
from hyperpruning.training.record import EpochRecord


def record(loss, *spectrum):
    return EpochRecord(1, 1.0, loss, 10, {}, 0.0, spectrum=spectrum)


def gap(one, two):
    return sum(abs(a - b) for a, b in zip(one, two, strict=True))


RECORDS = {"a": record(2.0, -1.0, -2.0), "b": record(1.0, -1.0, -4.0), "c": record(3.0, -1.0, -1.0)}
RUNG = Rung(
    epoch=1,
    epochs=9,
    records={name: {1: found} for name, found in RECORDS.items()},
    dense={1: record(0.5, -1.0, -2.0)},
    configs={},
    distance=gap,
)


@pytest.mark.parametrize(
    ("criterion", "scores"),
    [
        ("ls", {"a": 0.0, "b": 2.0, "c": 1.0}),
        ("loss", {"a": 2.0, "b": 1.0, "c": 3.0}),
        ("rank_sum", {"a": 3.0, "b": 4.0, "c": 5.0}),
    ],
)
def test_scores(criterion, scores):
    assert CRITERIA[criterion](RUNG) == scores


def test_ties_share_their_mean_rank():
    assert ranks([1.0, 1.0, 0.0, 2.0]).tolist() == [2.5, 2.5, 1.0, 4.0]
    assert ranks([math.inf, 1.0, math.inf]).tolist() == [2.5, 1.0, 2.5]


def test_spearman_needs_four_pairs_that_differ():
    assert spearman([1, 2, 3], [1, 2, 3]) is None
    assert spearman([1, 1, 1, 1], [1, 2, 3, 4]) is None
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert spearman([1, 2, 2, 4], [1, 3, 3, 9]) == 1


def test_none_in_a_record_is_minus_infinity():
    assert record(1.0, -1.0, None).exponents == [-1.0, -math.inf]


def records_of(**losses):
    """Records of averaged losses and spectra by epoch: name -> {epoch: (averaged loss, exponent)}."""
    return {
        name: {
            epoch: EpochRecord(epoch, 1.0, value, 10, {}, 0.0, spectrum=(-exponent,), averaged_loss=value)
            for epoch, (value, exponent) in by_epoch.items()
        }
        for name, by_epoch in losses.items()
    }


def rung(records, *, epoch=1, epochs=100, configs=None, followed=None):
    dense = {1: EpochRecord(1, 1.0, 0.5, 10, {}, 0.0, spectrum=(0.0,))}
    return Rung(
        epoch=epoch,
        epochs=epochs,
        records=records,
        dense=dense,
        configs=configs or {name: {} for name in records},
        distance=gap,
        followed=followed or {},
    )


def test_conditional_ls_removes_what_the_learning_rate_explains():
    generator = random.Random(0)
    rates = [generator.uniform(5, 20) for _ in range(30)]
    methods = [generator.uniform(0, 1) for _ in range(30)]
    found = records_of(
        **{
            f"c{n:02d}": {1: (1.0, 3 + 0.5 * rate + 0.02 * rate**2 + part)}
            for n, (rate, part) in enumerate(zip(rates, methods, strict=True))
        }
    )
    configs = {name: {"drop_fraction": 0.5, "training.lr": rate} for name, rate in zip(found, rates, strict=True)}
    freed = CRITERIA["conditional_ls"](rung(found, configs=configs))
    assert spearman(list(CRITERIA["ls"](rung(found)).values()), methods) < 0.3
    assert spearman(list(freed.values()), methods) > 0.85  # 30 candidates: chance correlation remains
    assert CRITERIA["conditional_ls"](rung(found)) == CRITERIA["ls"](rung(found))  # nothing to free of


def test_blend_is_the_spectrum_first_and_the_averaged_loss_after_a_fifth():
    found = records_of(
        a={1: (1.0, 3.0), 20: (1.0, 3.0)}, b={1: (2.0, 1.0), 20: (2.0, 1.0)}, c={1: (3.0, 2.0), 20: (3.0, 2.0)}
    )
    early = CRITERIA["blend"](rung(found))
    assert early == pytest.approx({"a": 0.05 * 1 + 0.95 * 3, "b": 0.05 * 2 + 0.95 * 1, "c": 0.05 * 3 + 0.95 * 2})
    assert CRITERIA["blend"](rung(found, epoch=20)) == {"a": 1, "b": 2, "c": 3}


def test_calibration_trusts_the_criterion_that_foretold_the_followed_candidates():
    found = records_of(a={1: (1.0, 3.0)}, b={1: (2.0, 1.0)}, c={1: (3.0, 2.0)})
    followed = records_of(**{f"f{n}": {1: (float(n), float(-n)), 9: (10.0 - n, 0.0)} for n in range(5)})
    # among the followed, the loss at epoch 1 foretold the contrary, the distance foretold the order
    configs = {name: {} for name in [*found, *followed]}
    scores = CRITERIA["calibrated"](rung(found, configs=configs, followed=followed))
    assert scores == CRITERIA["calibrated"](rung(found, configs=configs, followed=followed))
    assert sorted(scores, key=scores.get) == sorted(found, key=CRITERIA["ls"](rung(found)).get)
    assert CRITERIA["calibrated"](rung(found)) == CRITERIA["blend"](rung(found))


def test_extrapolation_is_exact_for_losses_linear_in_the_logarithm():
    found = records_of(a={epoch: (3 - 0.5 * math.log(epoch), 0) for epoch in range(1, 6)}, b={5: (2.0, 0)})
    scores = CRITERIA["extrapolated_loss"](rung(found, epoch=5))
    assert scores == pytest.approx({"a": 3 - 0.5 * math.log(100), "b": 2.0})
    found = records_of(a={1: (1.0, 0), 2: (4.0, 0), 3: (0.5, 0)})
    assert CRITERIA["min_loss"](rung(found, epoch=2)) == {"a": 1.0}


def test_criteria_combine_in_words():
    found = records_of(a={1: (1.0, 3.0)}, b={1: (2.0, 1.0)}, c={1: (3.0, 2.0)})
    assert criterion_of("ls + averaged_loss")(rung(found)) == {"a": 4, "b": 3, "c": 5}
    product = criterion_of("ls * averaged_loss")(rung(found))
    assert product == pytest.approx({"a": math.log(3), "b": math.log(2), "c": math.log(6)})
    by_rung = criterion_of("ls then loss")
    assert by_rung(rung(found)) == CRITERIA["ls"](rung(found))
    assert by_rung(replace(rung(found), number=3)) == CRITERIA["loss"](rung(found))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("averaged_los", "Did you mean 'averaged_loss'"),
        ("ls + loss * ls", "must join names by"),
        ("ls then", "must be one of"),
    ],
)
def test_an_unknown_criterion_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        criterion_of(text)


def test_a_loss_that_was_not_recorded_is_refused():
    with pytest.raises(ValueError, match="must be recorded"):
        CRITERIA["averaged_loss"](RUNG)
