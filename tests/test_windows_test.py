"""benchmarks/windows_test.py tests as it says, and docs/searching.md says what it found."""

import json
from pathlib import Path
from statistics import NormalDist

from windows_test import RESULTS, over_seeds, over_windows

PAGE = Path(__file__).parents[1] / "docs" / "searching.md"


def found():
    return json.loads(RESULTS.read_text())


def test_the_page_says_what_was_found():
    text = " ".join(PAGE.read_text().split("Why seeds, and not the windows")[1].split("\n## ")[0].split())
    result = found()
    whole, short = result["over windows"]
    for said in (
        f"with {result['seeds']} seeds",
        f"over the {whole['windows']} validation windows at the level {result['level']} calls",
        f"calls {whole['called different']:.0%} of the {whole['pairs']} pairs different".replace("%", " %"),
        f"({short['called different']:.0%} with {short['windows']} shorter windows)".replace("%", " %"),
        f"a standard deviation of {whole['standard deviation over seeds']:.3f} nats over seeds",
        f"a standard error of {whole['standard error by windows']:.3f}",
        f"{result['over seeds']['3']:.0%} different with 3 or with 5 seeds".replace("%", " %"),
        f"`clear_level` {result['clear_level']:.0%}.".replace("%", " %"),
    ):
        assert said in text, said
    assert f"{result['over seeds']['3']:.0%}" == f"{result['over seeds']['5']:.0%}"


def test_a_test_over_windows_is_not_sound_and_one_over_seeds_is():
    result = found()
    assert all(one["called different"] > 0.4 for one in result["over windows"])
    assert max(result["over seeds"].values()) < 0.06
    assert result["clear_level"] < 0.05


def test_the_counts_are_those_of_their_tests():
    """Windows that scatter independently, as if seeds added nothing: then both tests keep their level."""
    normal = NormalDist().samples(20 * 16, seed=1)
    trainings = [normal[start : start + 16] for start in range(0, len(normal), 16)]
    assert over_windows(trainings, 35)["called different"] < 0.12
    assert 0.03 < over_seeds(normal[:20], 3) < 0.07
    shifted = [[loss + 5 * number for loss in losses] for number, losses in enumerate(trainings)]
    assert over_windows(shifted, 35)["called different"] == 1.0
