"""docs/results.md says what evidence.json says, and the shipped tables are those of the checksums."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace

import evidence
import probe
import pytest
from evidence_page import PAGE, against_the_better, blocks, equal_dense, frontier, looks, marked

import hyperpruning as hp
from hyperpruning.search.plan import Plan
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


def tables():
    return json.loads(evidence.RESULTS.read_text())["tables"]


def regret(table, schedule, rule):
    return table["searches"][schedule][rule]["regret"][0]


def mean_of(values):
    found = list(values)
    return sum(found) / len(found)


def foretold_at(table, judge):
    """The epochs at which a value foretells the end."""
    return sorted(int(epoch) for epoch, here in table["correlations"].items() if here[judge][1] > 0)


def test_the_spectrum_adds_something_where_the_page_says_so():
    adds = {
        name: sorted(
            set(foretold_at(table, "given the drop fraction")) & set(foretold_at(table, "given the averaged loss"))
        )
        for name, table in tables().items()
    }
    assert {name: epochs for name, epochs in adds.items() if epochs} == {
        "lm-long-no-random": [2, 4],
        "lm-published": [1, 2, 3],
        "lm-short": [2, 3, 4, 5],
        "lm-short-mixed": [3, 4, 5],
    }
    loss_alone = {name: foretold_at(table, "given the averaged loss") for name, table in tables().items()}
    assert {name for name, epochs in loss_alone.items() if epochs} == {
        *("lm-published", "lm-short", "lm-short-mixed", "lm-long", "lm-long-mixed", "lm-long-no-random")
    }
    assert min(loss_alone["lm-long"]) == 15
    assert min(loss_alone["lm-long-mixed"]) == 10


def test_the_distance_is_the_better_judge_where_the_page_says_so():
    found = tables()
    assert len(found) == 12
    minus = {name: one["searches"]["middle"]["ls"]["minus loss"] for name, one in found.items()}
    assert {name for name, (_, _, high) in minus.items() if high < 0} == {"lm-long"}
    assert {name for name, (_, low, high) in minus.items() if low < 0 < high} == {"lm-published"}
    nothing = {name for name, one in found.items() if regret(one, "middle", "ls") > regret(one, "middle", "first")}
    assert nothing == {"digits", "lm-long-no-random", "lm-sparse"}
    assert foretold_at(found["lm-published"], "ls")[0] == 1
    assert foretold_at(found["lm-published"], "loss")[0] == 4
    table = hp.load_table(evidence.TABLES / "lm-published.npz")
    for losses in (table.valid[:-1, 1:3], table.averaged[:-1, 1:3]):
        low, high = evidence.np.nanquantile(losses, (0.05, 0.95), axis=0)
        assert (high - low).max() < 0.04
    correlations = found["lm-long-no-random"]["correlations"]
    assert all(here["ls"][0] > here["loss"][0] for epoch, here in correlations.items() if int(epoch) <= 8)
    for name in ("lm-long-fan-in", "lm-short"):
        first = found[name]["correlations"][looks(found[name])[0]]
        assert first["averaged_loss"][0] > first["ls"][0]
    assert found["lm-published"]["facts"]["noise"] > 1
    assert found["lm-sparse"]["facts"]["median"] > 3.4
    mixed = [one for name, one in found.items() if name.endswith("mixed") or name in ("gru-lm", "lm-sparse")]
    worse = [regret(one, "middle", "conditional_ls") > regret(one, "middle", "ls") for one in mixed]
    assert (sum(worse), len(mixed)) == (4, 6)


def test_what_was_foretold_of_pools_came_true_as_the_page_says():
    found = tables()
    before = found["lm-long"]["without random"]["epochs"]
    assert all(before[epoch]["ls"][1] > 0 for epoch in "123")
    assert all(before[epoch]["loss"][1] < 0 for epoch in "12")
    for name, fulfilled in (("lm-long-no-random", (True, True)), ("lm-long-fan-in", (True, False))):
        here = found[name]["correlations"]
        assert tuple(here[e]["ls"][0] >= 0.4 and here[e]["ls"][0] > here[e]["loss"][0] for e in "23") == fulfilled
    low, high = found["lm-long-no-random"]["searches"]["early"]["ls"]["minus loss"][1:]
    assert low < 0 < high


def test_the_averaged_loss_is_the_best_single_judge_as_the_page_says():
    found = tables()
    differ = {name: regret(one, "late", "averaged_loss") - regret(one, "late", "loss") for name, one in found.items()}
    assert sum(abs(each) > 0.02 for each in differ.values()) == 6
    assert sum(each < -0.02 for each in differ.values()) == 4
    for schedule in ("middle", "late"):
        means = {
            rule: mean_of(regret(one, schedule, rule) for one in found.values())
            for rule in ("averaged_loss", "loss", "ls", "conditional_ls", "rank_sum", "blend", "surrogate")
        }
        assert min(value for rule, value in means.items() if rule != "surrogate") == means["averaged_loss"]
        assert means["surrogate"] == pytest.approx(means["averaged_loss"], abs=0.03)
    halved = {
        name
        for name, one in found.items()
        if regret(one, "middle", "averaged_loss") < 0.5 * regret(one, "middle", "loss")
    }
    assert halved == {"lm-long-mixed", "gru-lm"}


def test_side_by_side_is_as_the_page_says():
    found = tables()

    def together(names):
        return {name: one["together"]["middle"][names]["regret"][0] for name, one in found.items()}

    default, former = together("ls, loss, averaged_loss"), together("ls, loss, rank_sum")
    assert Plan(task=None, dense_task=None, train=hp.TrainConfig(epochs=4), space=hp.SearchSpace({})).criteria == (
        *("ls", "loss", "averaged_loss"),
    )
    for rule in ("ls", "loss", "averaged_loss"):
        assert mean_of(default.values()) < mean_of(regret(one, "middle", rule) for one in found.values())
    assert mean_of(default.values()) < mean_of(former.values())
    late = {
        rule: mean_of(regret(one, "late", rule) for one in found.values()) for rule in ("ls", "loss", "averaged_loss")
    }
    assert mean_of(default.values()) == pytest.approx(late["averaged_loss"], abs=0.02)
    assert all(default[name] < regret(found[name], "late", "averaged_loss") for name in ("lm-long", "lm-published"))
    assert default["lm-sparse"] > regret(found["lm-sparse"], "late", "averaged_loss")


def test_the_rules_of_other_libraries_are_as_good_as_the_page_says():
    found = {name: one["searches"] for name, one in evidence.results()["baselines"].items()}
    assert set(found) <= set(tables())
    minus_loss = {name: one["middle"]["lkgp"]["minus loss"] for name, one in found.items()}
    assert {name for name, (_, _, high) in minus_loss.items() if high < 0} == {"lm-long", "lm-sparse"}
    assert {name for name, (_, low, _) in minus_loss.items() if low > 0} == {"lm-published"}
    mean = {
        rule: mean_of(one["middle"][rule]["regret"][0] for one in found.values())
        for rule in ("loss", "averaged_loss", "lkgp")
    }
    assert mean["averaged_loss"] < min(mean["loss"], mean["lkgp"])
    assert mean["loss"] == pytest.approx(mean["lkgp"], abs=0.02)
    assert all(one["middle"]["lkgp"]["minus ls"][0] < 0 for one in found.values())
    theirs, alike = "Syne Tune's ASHA", {"lm-published", "lm-short-mixed"}
    for name, one in found.items():
        _, low, high = one["asha"][theirs]["minus loss"]
        assert low < 0 < high if name in alike else high < 0
        factor = one["asha"][theirs]["epochs"] / one["asha"]["loss"]["epochs"]
        assert 1 < factor < 1.5 if name.startswith("lm-short") else 1.8 < factor < 2.5
        middle = tables()[name]["searches"]["middle"]["loss"]
        dearer = 1.17 if name == "lm-long-no-random" else 1.05
        assert middle["epochs"] < dearer * one["asha"][theirs]["epochs"]
        if name in ("digits", "gru-lm", "lm-long", "lm-long-mixed", "lm-long-no-random"):
            assert middle["regret"][0] < one["asha"][theirs]["regret"][0]


def test_a_dense_network_for_each_setting_helps_as_little_as_the_page_says():
    found = evidence.results()["own_dense"]
    assert set(found) == {name for name in tables() if name.endswith("mixed") or name in ("gru-lm", "lm-sparse")}
    for name, one in found.items():
        own, published, averaged = (one["regrets"][rule] for rule in ("own_dense", "ls", "averaged_loss"))
        assert own[1] > averaged[2]
        assert own[2] >= published[1]
        assert (own[0] < published[0]) == (name == "gru-lm")
    higher = {
        name
        for name in ("gru-lm", "lm-long-mixed", "lm-short-mixed")
        if all(
            here["own_dense"][0] > here["ls"][0]
            for epoch, here in found[name]["correlations"].items()
            if int(epoch) <= 5
        )
    }
    assert higher == {"lm-long-mixed", "lm-short-mixed"}


def test_no_rule_is_never_worse_as_the_page_says():
    found = tables()
    for rule in evidence.RULES:
        assert any(against_the_better(one, "middle", rule)[1] > 0 for one in found.values()), rule
    new = [one for name, one in found.items() if name not in evidence.CHOSEN_ON]
    chosen, loss, ls = (
        mean_of(regret(one, "middle", rule) for one in new) for rule in (evidence.FIRST_BOTH, "loss", "ls")
    )
    assert chosen < min(loss, ls)
    worse = [name for name, one in found.items() if against_the_better(one, "middle", evidence.FIRST_BOTH)[1] > 0]
    assert [name for name in worse if name not in evidence.CHOSEN_ON] == ["lm-long-fan-in"]


def test_early_looks_mislead_in_two_pools_as_the_page_says():
    for name, one in tables().items():
        random = one["searches"]["early"]["first"]["regret"]
        searches = [(each, rule) for each in ("early", "asha", "halving") for rule in evidence.LOSSES]
        worse = {(each, rule) for each, rule in searches if one["searches"][each][rule]["regret"][1] > random[2]}
        assert worse == {"lm-long": set(searches), "lm-sparse": {("halving", "loss")}}.get(name, set())


def test_the_settings_foretell_as_much_as_the_page_says():
    more = 0
    for one in tables().values():
        here = one["correlations"][looks(one)[0]]
        more += here["settings"][0] >= max(
            here[judge][0] for judge in ("loss", "averaged_loss", "ls", "conditional_ls")
        )
    assert more == 11


def test_the_factor_is_as_the_page_says():
    found = tables()

    def largest(name):
        one = found[name]
        return max(
            (
                24 * one["facts"]["epochs"] / each["epochs"]
                for rules in one["searches"].values()
                for each in rules.values()
                if each["regret"][0] <= evidence.REGRET
            ),
            default=0,
        )

    assert {name for name in found if largest(name) >= 8} == {"digits-mixed", "lm-long-fan-in", "lorenz-mixed"}
    assert [name for name in found if largest(name) == 0] == ["lm-long-no-random"]


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
    others = ("searched, unchanged", "searched, whole space", "static, fan_in", "rigl-erk, fan_in")
    networks |= {"rigl-erk": [[110, 0.15, 60.0]], "gmp": [[110, 0.16, 59.0]], "searched": [[110, 0.17, 58.0]]}
    networks |= {kind: [[110, 0.18, 57.0]] for kind in others}
    page = frontier({"task": {"metric": "accuracy", "networks": {"0.9": networks}}})
    cells = ["task, accuracy", "90%", "110", *["50.5 (50.0 to 51.0)"] * 3, "57.0 (57.0 to 57.0)", "60.0 (60.0 to 60.0)"]
    cells += [f"{value}.0 ({value}.0 to {value}.0)" for value in (57, 59, 58, 57, 57)]
    assert f"| {' | '.join([*cells, '2.9 (rigl-erk)'])} |" in page


def means(task):
    """The mean test metric over seeds by (sparsity, kind of network)."""
    return {
        (float(sparsity), kind): sum(point[2] for point in points) / len(points)
        for sparsity, here in evidence.results()["frontier"][task]["networks"].items()
        for kind, points in here.items()
    }


ALL = (0.5, 0.8, 0.9, 0.95)


def test_the_frontier_of_the_text_is_as_the_page_says():
    mean = means("text")
    for sparsity in ALL:
        here = {kind: value for (at, kind), value in mean.items() if at == sparsity}
        assert here["dense"] == min(here.values())
        assert here["gmp"] < here["narrower"]
        assert here["searched, unchanged"] < here["searched, whole space"]
        assert here["searched"] < here["narrower"] * 1.05
        if sparsity == 0.5:
            named = [here[kind] for kind in ("static", "rigl-erk", "gmp")]
            assert min(named) < here["searched, unchanged"] < max(named)
            continue
        assert here["gmp"] == min(value for kind, value in here.items() if kind != "dense")
        for scaled, other in (
            *(("static, fan_in", "static"), ("rigl-erk, fan_in", "rigl-erk")),
            ("searched", "searched, unchanged"),
        ):
            assert here[scaled] < here[other]


def test_the_frontier_of_the_lorenz_system_is_as_the_page_says():
    mean = means("lorenz")
    for sparsity in ALL:
        here = {kind: value for (at, kind), value in mean.items() if at == sparsity}
        assert here["dense"] == min(here.values())
        assert here["searched, whole space"] == min(value for kind, value in here.items() if kind != "dense")
        if sparsity > 0.5:
            assert max(here["searched"], here["searched, whole space"]) < here["narrower"]


def test_the_frontier_of_the_digits_is_as_the_page_says():
    mean = means("digits")
    for sparsity in ALL:
        here = {kind: value for (at, kind), value in mean.items() if at == sparsity}
        worse = {kind for kind, value in here.items() if value < here["narrower"]}
        assert worse == ({"static", "static, fan_in"} if sparsity == 0.95 else set())
        if sparsity < 0.9:
            assert all(value > here["dense"] - 0.5 for kind, value in here.items() if kind not in (*worse, *STATIC))
        for scaled, other in (("rigl-erk, fan_in", "rigl-erk"), ("searched", "searched, unchanged")):
            assert abs(here[scaled] - here[other]) < 2


STATIC = ("static", "static, fan_in", "narrower")
