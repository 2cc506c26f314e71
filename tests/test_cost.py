"""benchmarks/cost.py counts what the issue and the paper count."""

import json

from cost import RESULTS, published_script, rows


def test_the_published_decisions_cost_about_half():
    found = rows()
    assert found == json.loads(RESULTS.read_text())
    assert published_script() == 120 + 84 + 72 + 60 + 45 + 36 + 2 * 100 == 617
    assert found["with exact resume, without the duplicates"] == 338 <= 0.55 * 617
    assert found["all 40 trained to the end"] == 4000
