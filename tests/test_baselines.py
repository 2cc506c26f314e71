"""The searches of benchmarks/baselines.py are those of hp.replay and of other libraries, on the same pools."""

from __future__ import annotations

import importlib.util
import json

import baselines
import evidence
import pytest

import hyperpruning as hp


def needs(name):
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


def found():
    return json.loads(baselines.FOUND.read_text())


def table_of(name):
    return hp.load_table(evidence.TABLES / f"{name}.npz")


def test_the_results_are_those_of_the_choices_in_the_tables():
    for name, one in found().items():
        table = table_of(name)
        assert one["curves"] == baselines.curves_of(table), "run benchmarks/baselines.py"
        assert one["searches"] == evidence.rounded(baselines.summaries(table, one["chosen"])), name


def test_a_choice_has_the_regret_of_a_replayed_search():
    table = table_of("lorenz-mixed")
    for seed, (row, epochs) in enumerate(found()["lorenz-mixed"]["chosen"]["middle"]["ls"][:3]):
        done = hp.replay(table, seed=seed, n_candidates=24, criteria=("ls",), **evidence.schedule(table, "middle"))
        assert (done.chosen["ls"], done.epochs) == (row, epochs)
        assert (
            baselines.regret_of(table, baselines.pool_of(table, seed, baselines.CANDIDATES), row) == done.regret["ls"]
        )


@needs("syne_tune")
@pytest.mark.filterwarnings("ignore")
def test_syne_tune_stops_all_but_the_best_third_at_each_rung():
    table = table_of("lm-short-mixed")
    rungs, epochs, finals = {1: [], 3: [], 9: []}, 0, {}
    for row in baselines.pool_of(table, 0, baselines.CANDIDATES):
        for epoch in range(1, 11):
            epochs += 1
            earlier, loss = rungs.get(epoch), float(table.valid[row, epoch])
            if earlier is not None:
                better = sum(other < loss for other in earlier)
                earlier.append(loss)
                if better / len(earlier) > 1 / 3:
                    break
        else:
            finals[row] = table.final_valid[row, 0]
    assert baselines.syne_tune(table, 0) == (min(finals, key=finals.get), epochs)


@needs("botorch")
@pytest.mark.filterwarnings("ignore")
def test_an_extrapolated_curve_is_better_than_the_loss_where_slopes_differ():
    rates = [0.1 + 0.05 * number for number in range(12)]
    configs = [{"training.lr": rate, "task.dropout": number % 3} for number, rate in enumerate(rates)]
    curves = [[(1 + rate) * epoch**-rate for epoch in range(1, 7 - number % 3)] for number, rate in enumerate(rates)]
    foretold = baselines.last_losses(configs, curves, 40)
    final = [(1 + rate) * 40**-rate for rate in rates]
    assert evidence.spearman([curve[1] for curve in curves], final) < 0.5
    assert evidence.spearman(foretold, final) > 0.9
