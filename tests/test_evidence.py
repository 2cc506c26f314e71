"""docs/results.md says what evidence.json says, and the shipped tables are those of the checksums."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace

import evidence
import probe
import pytest
from evidence_page import PAGE, blocks, equal_dense, frontier, marked

import hyperpruning as hp
from hyperpruning.lyapunov.distances import DISTANCES
from hyperpruning.training.state import Training
from small import small


def section() -> str:
    return PAGE.read_text().split("## The evidence")[1].split("\n## ")[0]


def test_the_page_is_what_the_results_say():
    found = blocks(evidence.results())
    assert marked(PAGE.read_text(), found) == PAGE.read_text()
    with pytest.raises(ValueError, match="must have the marks of 'another' once, got 0"):
        marked(PAGE.read_text(), {"another": ""})


def test_no_measured_number_is_typed_by_hand():
    prose = re.sub(r"<!-- evidence: .*?<!-- /evidence -->", "", section(), flags=re.DOTALL)
    chosen = {"1.25", "2.5", "3.75", "6.25", "18.75", "0.15"}  # the schedules and the limit, which are no results
    assert set(re.findall(r"-?\d*\.\d+", prose)) == chosen
    assert {f"{100 * f:g}" for fractions, _ in list(evidence.SCHEDULES.values())[:2] for f in fractions} - {"10"} == (
        chosen - {"0.15"}
    )


def test_the_spectrum_adds_something_where_the_page_says_so():
    found = json.loads(evidence.RESULTS.read_text())["tables"]
    adds = {
        name: sorted(
            int(epoch)
            for epoch, here in table["correlations"].items()
            if here["given the drop fraction"][1] > 0 and here["given the averaged loss"][1] > 0
        )
        for name, table in found.items()
    }
    assert adds == {"digits": [], "lm-long": [], "lm-short-mixed": [3, 4, 5]}
    assert "it adds a little to both from epoch 3 of 10 on, in digits at no epoch" in " ".join(section().split())
    long = found["lm-long"]["correlations"]
    assert sorted(int(epoch) for epoch, here in long.items() if here["given the averaged loss"][1] > 0) == [
        epoch for epoch in sorted(map(int, long)) if epoch >= 15
    ]


def test_searches_are_as_the_page_says():
    found = json.loads(evidence.RESULTS.read_text())["tables"]
    long, digits = (
        {schedule: found[name]["searches"][schedule] for schedule in ("early", "middle")}
        for name in ("lm-long", "digits")
    )
    foretold = {
        judge: sorted(int(epoch) for epoch, here in found["lm-long"]["correlations"].items() if here[judge][1] > 0)
        for judge in ("loss", "averaged_loss", "ls")
    }
    assert {judge: epochs[0] for judge, epochs in foretold.items()} == {"loss": 10, "averaged_loss": 15, "ls": 10}
    losses = ("loss", "averaged_loss", "min_loss", "extrapolated_loss")
    assert long["middle"]["ls"]["regret"][2] < min(long["middle"][rule]["regret"][0] for rule in losses)
    at_random = long["early"]["first"]["regret"][2]
    assert all(long["early"][rule]["regret"][1] > at_random for rule in losses)
    other = found["lm-long"]["searches"]
    assert all(other[name][rule]["regret"][1] > at_random for name in ("asha", "halving") for rule in losses[:2])
    assert min(long["early"], key=lambda rule: long["early"][rule]["regret"][0]) == "drop_fraction"
    assert all(each["ls"]["regret"][1] > each["first"]["regret"][2] for each in digits.values())
    for rule in evidence.RULES:  # each is significantly worse than the better of loss and distance in some pool
        here = (each["searches"][schedule] for each in found.values() for schedule in ("early", "middle"))
        assert any(
            one[rule]["regret"][1] > min((one[name]["regret"] for name in ("loss", "ls")), key=lambda r: r[0])[2]
            for one in here
        ), rule


def test_the_distances_say_something_where_the_page_says_so():
    digits = json.loads(evidence.RESULTS.read_text())["tables"]["digits"]["correlations"]

    def epochs(kind):
        return sorted(int(epoch) for epoch, here in digits.items() if here[f"ls, {kind}"][1] > 0)

    assert epochs("l2") == []
    assert [epoch for epoch in epochs("leading") if epoch >= 8] == epochs("wasserstein") == [8, 10, 15, 20]
    assert all(digits[e]["loss"][0] > max(digits[e][f"ls, {kind}"][0] for kind in DISTANCES) for e in digits)


def test_the_tables_are_those_of_the_checksums_and_of_the_results():
    sums = dict(line.split()[::-1] for line in (evidence.TABLES / "SHA256SUMS").read_text().splitlines())
    paths = sorted(evidence.TABLES.glob("*.npz"))
    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    assert sum(path.stat().st_size for path in paths) <= 20 * 2**20
    found = json.loads(evidence.RESULTS.read_text())["tables"]
    assert {path.stem for path in paths} == set(found)
    for path in paths:
        assert evidence.rounded(evidence.facts(hp.load_table(path))) == found[path.stem]["facts"]


def test_the_published_candidates_have_the_published_correlations():
    found = evidence.published_pool()
    assert [values[0] for values in found.values()] == [26, 18, 11]
    assert [[round(rho, 2) for rho in values[1:]] for values in found.values()] == [
        [0.72, 0.42],
        [0.88, -0.65],
        [0.61, -0.02],
    ]


def test_recorded_curves_are_replayed_as_elsewhere():
    found = hp.replay(evidence.nasbench(), n_candidates=40, criteria=("loss",), rungs=(3,), keep=(1,))
    assert found.epochs == 40 * 3 + 47
    assert 0 <= found.regret["loss"] < 1


def test_partial_correlations_and_left_out_regressions_know_what_was_put_in():
    rng = evidence.np.random.default_rng(1)
    given, own = rng.normal(size=(2, 200))
    both = given + own
    assert evidence.partial(own.tolist(), both.tolist(), given.tolist())[0] > 0.9
    assert abs(evidence.partial(given.tolist(), both.tolist(), given.tolist())[0]) < 0.2
    columns = [evidence.standardised(values) for values in (given, own)]
    assert evidence.left_out(columns, both.tolist())[0] > 0.9
    assert evidence.left_out(columns[:1], own.tolist())[1] < 0.2


def test_each_probe_has_the_sequences_and_the_measured_steps_of_its_name(text, monkeypatch):
    monkeypatch.setattr(probe, "SEQUENCES", (1, 2))
    monkeypatch.setattr(probe, "STEPS", (3, 5))
    plan = small(text).plan()
    training = Training(plan.task, plan.train, None, sparsity=0.0)
    found = probe.spectra(training, 4)
    assert list(found) == ["1 x 3", "1 x 5", "2 x 3", "2 x 5"]
    task = replace(plan.task, probe_batch=2, probe_steps=9)
    spectrum = hp.lyapunov_spectrum(*task.recurrence(training.network.eval()), warmup=4)
    assert (spectrum.steps, spectrum.growth.shape[1]) == (5, 2)
    assert found["2 x 5"]["exponents"] == spectrum.exponents.tolist()


def test_the_length_of_the_probe_matters_as_little_as_the_page_says():
    looks = evidence.results()["probe"]["looks"]
    assert list(looks) == ["2", "8", "15"]
    for here in looks.values():
        longest = here["8 x 240"]
        assert min(one["longest"][0] for one in here.values()) > 0.9
        assert here["1 x 20"]["seconds"] < longest["seconds"] / 15
        assert all(low < 0 < high for _, low, high in (one["final"] for one in here.values()))


def test_a_frontier_says_how_many_dense_weights_are_as_good():
    dense = [(1000.0, 0.1), (100.0, 0.2), (2000.0, 0.3)]
    assert equal_dense(0.15, dense) == pytest.approx(10**2.5)
    assert equal_dense(0.1, dense) == pytest.approx(1000)
    assert equal_dense(0.3, dense) == pytest.approx(100)
    assert equal_dense(0.05, dense) == float("inf")
    networks = {
        kind: [[weights, loss, 50.0 + seed] for seed in (0, 1)]
        for kind, weights, loss in (("dense", 1000, 0.1), ("narrower", 100, 0.2), ("static", 110, 0.19))
    }
    networks |= {"rigl-erk": [[110, 0.15, 60.0]], "gmp": [[110, 0.16, 59.0]], "searched": [[110, 0.17, 58.0]]}
    page = frontier({"task": {"metric": "accuracy", "networks": {"0.9": networks}}})
    row = "| task, accuracy | 90% | 110 | 50.5 (50.0 to 51.0) | 50.5 (50.0 to 51.0) | 50.5 (50.0 to 51.0) "
    assert row + "| 60.0 (60.0 to 60.0) | 59.0 (59.0 to 59.0) | 58.0 (58.0 to 58.0) | 2.9 (rigl-erk) |" in page


def means(task):
    """The mean test metric over seeds by (sparsity, kind of network)."""
    return {
        (float(sparsity), kind): sum(point[2] for point in points) / len(points)
        for sparsity, here in evidence.results()["frontier"][task]["networks"].items()
        for kind, points in here.items()
    }


def test_the_frontier_of_the_text_is_as_the_page_says():
    mean = means("text")
    for sparsity in (0.5, 0.8, 0.9, 0.95):
        here = {kind: mean[sparsity, kind] for kind in ("narrower", "static", "rigl-erk", "gmp", "searched")}
        assert mean[sparsity, "dense"] < min(here.values())
        assert min(here, key=here.__getitem__) == ("rigl-erk" if sparsity == 0.5 else "gmp")
        assert here["gmp"] < here["narrower"]
        assert (here["rigl-erk"] < here["narrower"]) == (sparsity == 0.5)
        assert here["searched"] > max(here[kind] for kind in ("gmp", "rigl-erk", "narrower"))


def test_the_frontier_of_the_digits_is_as_the_page_says():
    mean = means("digits")
    for sparsity in (0.5, 0.8, 0.9, 0.95):
        worse = [
            kind
            for kind in ("static", "rigl-erk", "gmp", "searched")
            if mean[sparsity, kind] <= mean[sparsity, "narrower"]
        ]
        assert worse == (["static"] if sparsity == 0.95 else [])
        assert mean[sparsity, "searched"] <= max(mean[sparsity, "rigl-erk"], mean[sparsity, "gmp"]) + 1e-9
    assert all(mean[s, kind] >= mean[s, "dense"] for s in (0.5, 0.8) for kind in ("rigl-erk", "gmp"))
