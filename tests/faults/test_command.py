"""What the command does on a read-only disk, and when the time of a search is up."""

import errno
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hyperpruning.cli import app
from hyperpruning.search.driver import search
from hyperpruning.search.ledger import LEDGER
from hyperpruning.testing.executor import _plan
from small import small

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.utime")
read_only: list[str] = []  # folders on a disk that is read-only


def _refuse(event: str, words: tuple[object, ...]) -> None:
    """An audit hook, because root may write whatever a file's mode says."""
    if not read_only or event not in ("open", *CHANGES):
        return
    path = words[0]
    writes = event != "open" or int(words[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes and isinstance(path, str | bytes) and os.fsdecode(path).startswith(tuple(read_only)):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(path))


@pytest.fixture(scope="module", autouse=True)
def _hook():
    sys.addaudithook(_refuse)  # it cannot be removed; without folders it does nothing


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def disk(tmp_path):
    """A search that was stopped in its middle, on a disk that is read-only from now on."""
    folder = tmp_path / "disk" / "run"
    search(_plan(), folder)
    lines = (folder / LEDGER).read_bytes().splitlines(keepends=True)
    (folder / LEDGER).write_bytes(b"".join(lines[:-6]))
    read_only.append(str(folder))
    yield folder
    read_only.clear()


def test_status_and_report_work_on_a_read_only_disk(disk, tmp_path):
    with pytest.raises(OSError, match="Read-only file system"):
        (disk / "x").write_text("")
    code, said = run("status", disk)
    assert code == 0, said
    code, said = run("report", disk, "--out", tmp_path / "page.html")
    assert code == 0, said
    assert (tmp_path / "page.html").stat().st_size > 10_000
    code, said = run("report", disk)
    assert code == 2
    assert "dense none" in said  # the table of results
    assert f"{disk / 'report.html'} cannot be read or written (Read-only file system). Give another path." in said


def test_when_the_time_is_up_the_command_says_how_to_continue(text, tmp_path):
    path, folder = tmp_path / "experiment.toml", tmp_path / "run"
    path.write_text(small(text).to_toml())
    for words in (("search", path, "--out", folder), ("resume", folder)):
        code, said = run(*words, "--workers", 1, "--max-hours", 1e-7)
        assert code == 3, said
        assert f"Continue with: hyperprune resume {folder}" in said
        assert "0/4" in said  # the epochs of the table of progress
    assert run("status", folder)[0] == 0


def test_a_budget_of_time_must_be_positive(text, tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_text(small(text).to_toml())
    code, said = run("search", path, "--out", tmp_path / "run", "--max-hours", 0)
    assert code == 2
    assert "max_hours must be above 0 and at most 1000000.0, got 0.0." in said
    assert not Path(tmp_path / "run").exists()
