"""Corrupt packed matrices, with the kernel under the address and undefined-behaviour sanitizers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hyperpruning.deploy.compiler import compile_kernel

SCRIPT = Path(__file__).with_name("fuzz_packed.py")
FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")


def sanitizer(name: str) -> str:
    found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(found):
        pytest.skip(f"gcc has no {name}")
    return found


def run(library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    preload = f"{sanitizer('libasan.so')} {sanitizer('libubsan.so')}"
    environment = {**os.environ, "LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(library), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_a_corrupt_matrix_is_refused_or_harmless(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERPRUNING_CC", "gcc")
    done = run(compile_kernel(tmp_path, more_flags=FLAGS), "2000", "0")
    assert done.returncode == 0, done.stderr[-3000:]
    refused, multiplied = (int(part.split()[0]) for part in done.stdout.split(","))
    assert refused + multiplied == 2000
    assert min(refused, multiplied) > 200  # both happen


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_the_sanitizers_see_an_index_that_the_checks_would_refuse(tmp_path, monkeypatch):
    """So that the test above means something."""
    monkeypatch.setenv("HYPERPRUNING_CC", "gcc")
    library = compile_kernel(tmp_path, more_flags=FLAGS)
    unchecked = tmp_path / "unchecked.py"
    text = SCRIPT.read_text().replace(
        "from hyperpruning.deploy.packing import",
        "import hyperpruning.deploy.native as native\nnative.check_packed = lambda packed: None\n"
        "from hyperpruning.deploy.packing import",
    )
    unchecked.write_text(text)
    monkeypatch.setattr(sys.modules[__name__], "SCRIPT", unchecked)
    assert run(library, "200", "0").returncode != 0
