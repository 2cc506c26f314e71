"""Every random corruption of a file is refused in one sentence, healed with a warning, or harmless."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("corruptions.py")


def faults(first: int, count: int, *options: str) -> str:
    """The faults of some cases, each with the number that repeats it; "" for none."""
    words = [sys.executable, SCRIPT, "--first", first, "--count", count, *options]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, counts = done.stdout.rsplit("\n", 2)[:2] if done.stdout.count("\n") > 1 else ("", done.stdout)
    assert "refused" in counts
    assert "harmless or healed" in counts
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the cases read /proc, and measure memory as Linux does")
def test_60_random_corruptions_are_refused_healed_or_harmless():
    assert not faults(0, 60)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="the cases read /proc, and measure memory as Linux does")
@pytest.mark.parametrize("first", range(1000, 1500, 100))
def test_500_random_corruptions_are_refused_healed_or_harmless(first):
    assert not faults(first, 100, "--draw")
