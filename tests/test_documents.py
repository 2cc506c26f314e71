"""What README and docs show is run: every Python block as it stands, every command at least as a dry run."""

import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hyperpruning.cli import app
from hyperpruning.experiment import Experiment
from small import write_text

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "docs" / "extending.md"]


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    (folder / "my_text").mkdir()
    write_text(folder / "my_text")
    return folder


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_blocks_run(document, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    found = blocks(document, "python")
    assert found
    names: dict[str, object] = {}
    for block in found:
        exec(compile(block, str(document), "exec"), names)
    assert capsys.readouterr().out


def test_readme_commands_run(place, monkeypatch):
    monkeypatch.chdir(place)
    if not (place / "runs" / "mine").exists():
        exec(blocks(DOCUMENTS[0], "python")[0], {})
    commands = [line for block in blocks(DOCUMENTS[0], "sh") for line in block.splitlines() if line.startswith("hyper")]
    assert len(commands) >= 7
    for command in commands:
        words = shlex.split(command, comments=True)[1:]
        if words[0] == "fetch" or "--preset" in words:  # they need a published text: tests/test_presets.py
            continue
        result = CliRunner().invoke(app, [*words, "--dry-run"] if words[0] == "search" else words)
        assert result.exit_code == 0, (command, result.output)


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_run(example, capsys):
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out
    assert len(example.read_text().splitlines()) <= 75


def test_settings_in_the_readme_are_valid():
    found = blocks(DOCUMENTS[0], "toml")
    assert found
    for block in found:
        assert tomllib.loads(Experiment(**tomllib.loads(block)).to_toml())["model"].items() >= (
            tomllib.loads(block)["model"].items()
        )


@pytest.mark.parametrize("document", [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere_and_nothing_is_left_to_fill_in(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (document.parent / target).exists(), target
    assert not re.search(r"\b(TODO|FIXME|[A-Z]+_TABLE|XXX)\b", text)
