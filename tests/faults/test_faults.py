"""Faults at every write, flush, replacement, ledger line and decision: nothing is lost, and nothing changes."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from hyperpruning.faults import KINDS, POINTS, VARIABLE, Fault, arm, fault
from hyperpruning.files import write_atomic

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def memory():
    """A folder in memory, where flushing takes no time."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


def injected(folder: Path, count: int, processes: int) -> list[str]:
    """Inject so many faults; return those, and check that each resumed search has the expected result."""
    script = [sys.executable, Path(__file__).with_name("forking.py"), folder, str(count), str(processes)]
    ran = subprocess.run(script, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    different = [line["fault"] for line in lines if not line["same"]]
    assert not different, ran.stderr[-4000:]
    assert ran.returncode == 0, ran.stderr[-4000:]
    return [line["fault"] for line in lines]


def test_a_search_with_a_fault_is_resumed_to_the_same_result(memory):
    assert len(injected(memory, 4, 2)) == 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_point_and_every_kind(memory, capsys):
    found = injected(memory, 320, 2)
    tried = Counter(tuple(one.split(":")[::2]) for one in found)
    with capsys.disabled():
        sys.stdout.write(f"\n{len(found)} faults at {len({point for point, _ in tried})} points\n")
    assert len(found) >= 300
    assert {point for point, _ in tried} == set(POINTS) - {"ledger.cut"}  # a whole search cuts nothing
    assert {kind for _, kind in tried} == set(KINDS)


def test_the_environment_names_the_fault():
    twice = "fault('driver.decide')\nprint('one', flush=True)\nfault('driver.decide')"
    script = f"from hyperpruning.faults import fault\n{twice}"
    environment = ENVIRONMENT | {VARIABLE: "driver.decide:2:kill"}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (-9, "one\n")


@pytest.mark.parametrize(
    "text", ["", "here:1:kill", "ledger.append:1:melt", "ledger.fsync:1:flip", "ledger.append:x:EIO"]
)
def test_a_fault_that_there_is_not_is_a_sentence(text):
    with pytest.raises(ValueError, match=r"HYPERPRUNE_FAULT must be point:count:kind .* Correct it, or unset it\."):
        Fault(text)


def test_what_is_written_is_damaged_at_the_given_count_alone(tmp_path):
    content = bytes(range(200))
    try:
        arm("files.write:2:flip")
        for name in ("one", "two", "three"):
            write_atomic(tmp_path / name, content)
        changed = [x ^ y for x, y in zip((tmp_path / "two").read_bytes(), content, strict=True) if x != y]
        assert (tmp_path / "one").read_bytes() == (tmp_path / "three").read_bytes() == content
        assert [number.bit_count() for number in changed] == [1]
        arm("files.write:1:truncate")
        write_atomic(tmp_path / "one", content)
        assert 0 < len((tmp_path / "one").read_bytes()) < 200
        arm("files.replace:1:ENOSPC")
        with pytest.raises(OSError, match="No space left"):
            write_atomic(tmp_path / "two", b"new")
        assert (tmp_path / "two").read_bytes() != b"new"
        assert not list(tmp_path.glob(".*"))
    finally:
        arm(None)
    assert fault("files.write", b"x") == b"x"
