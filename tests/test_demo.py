"""README and docs/results.md say of the demo what its plan and benchmarks/results/criteria_demo.json say."""

import json
from dataclasses import replace
from pathlib import Path

from criteria import RESULTS, markdown

from hyperpruning.experiment import demo_experiment
from hyperpruning.search.forecast import epochs_of_one_search

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MEASURED = json.loads((RESULTS / "criteria_demo.json").read_text())


def test_the_readme_shows_the_epochs_of_the_plan():
    plan = demo_experiment().plan()
    one = epochs_of_one_search(replace(plan, finalist_seeds=1), "loss", plan.n_candidates)
    full = plan.n_candidates * plan.train.epochs
    said = " ".join(README.split())
    assert f"trains {one} of their {full} epochs, {full / one:.1f} times fewer" in said
    assert f"further seeds of its finalists take {2 * plan.train.epochs} more" in said
    assert f"after epoch {plan.rungs[0]} agree with the losses after epoch {plan.train.epochs}" in said
    assert f"{one} of {full}" in said


def test_the_readme_shows_a_run_of_the_demo():
    for label, test in [(label, test) for seed, label, _, _, test, _ in MEASURED["choices"] if seed == 0]:
        assert f"{test:.2f}" in README, label


def test_the_page_has_the_tables():
    assert markdown(MEASURED) in (ROOT / "docs" / "results.md").read_text()
