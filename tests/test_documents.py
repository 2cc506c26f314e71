"""What README and docs show is run: every Python block as it stands, every command at least as a dry run."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import budgets
import pytest
from typer.testing import CliRunner

import hyperpruning as hp
from hyperpruning.cli import app
from hyperpruning.experiment import Experiment
from small import write_text

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(), flags=re.DOTALL)


def commands(document: Path) -> list[list[str]]:
    lines = [line for block in blocks(document, "sh") for line in block.splitlines() if line.startswith("hyperprune ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def by_name(path: Path) -> str:
    return path.name


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A folder of somebody who reads a page, with a text in it."""
    (tmp_path / "my_text").mkdir()
    write_text(tmp_path / "my_text")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("error")  # so that pages give total_steps
@pytest.mark.parametrize("document", [page for page in PAGES if blocks(page, "python")], ids=by_name)
def test_what_a_page_shows_runs(document, reader, capsys):
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(document, "python"):
        exec(compile(block, str(document), "exec"), names)
    assert capsys.readouterr().out
    for words in commands(document):
        if words[0] == "fetch" or "--preset" in words:  # they need a published text: tests/test_presets.py
            continue
        dry = ["--dry-run"] if words[0] == "search" and "--dry-run" not in words else []
        result = CliRunner().invoke(app, [*words, *dry])
        assert result.exit_code == 0, (words, result.output)


def test_readme_and_tutorial_show_the_commands():
    for page in ("README.md", "docs/tutorial.md"):
        shown = {words[0] for words in commands(ROOT / page)}
        assert shown >= {"search", "init", "status", "resume", "report", "evaluate", "spectrum"}, page


EXTRAS = ("aeon", "lightning", "sklearn", "skorch")  # packages of examples
SLOW = {"lightning", "skorch"}  # importing them takes seconds


def example_parameter(path):
    needed = {package for package in EXTRAS if re.search(rf'(import|from|find_spec\(") ?{package}\b', path.read_text())}
    missing = [package for package in needed if find_spec(package) is None]
    marks = [pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")]
    marks += [pytest.mark.slow, pytest.mark.filterwarnings("ignore")] if needed & SLOW else []
    return pytest.param(path, marks=marks, id=path.name)


@pytest.mark.parametrize("example", [example_parameter(path) for path in sorted((ROOT / "examples").glob("*.py"))])
def test_examples_run(example, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example), "--small"])
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out
    lines = example.read_text().splitlines()
    assert len(lines) <= (100 if example.name == "own_loop.py" else 75)


def test_every_example_is_on_its_page():
    page = (DOCS / "examples.md").read_text()
    for example in (ROOT / "examples").rglob("*.py"):
        assert f'--8<-- "{example.relative_to(ROOT)}"' in page, f"{example.name} must be on docs/examples.md."


def test_a_loop_of_ones_own_is_put_into_a_search_with_30_lines():
    whole = (ROOT / "examples" / "own_loop.py").read_text()
    added = whole.split("# What you add: at most 30 lines.\n")[1]
    assert len([line for line in added.splitlines() if line.strip()]) <= 30
    assert whole.count("sparsifier.step()") == 1


def test_a_classifier_is_pruned_by_a_search_of_25_lines():
    search = (ROOT / "examples" / "digits.py").read_text().split("# For comparison")[0]
    assert len([line for line in search.splitlines() if line.strip()]) <= 25


@pytest.mark.parametrize("document", [page for page in PAGES if blocks(page, "toml")], ids=by_name)
def test_settings_are_valid(document):
    for block in blocks(document, "toml"):
        shown = tomllib.loads(block)
        understood = tomllib.loads(Experiment(**shown).to_toml())
        for section, values in shown.items():
            assert understood[section].items() >= values.items()


def test_every_public_name_stands_in_the_reference():
    shown = re.findall(r"^::: hyperpruning\.(\w+)$", (DOCS / "api.md").read_text(), flags=re.MULTILINE)
    assert sorted(shown) == sorted([*hp.__all__, "testing"])


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().split("nav:")[1].split("theme:")[0]
    assert sorted(re.findall(r"(\w+\.md)$", navigation, flags=re.MULTILINE)) == sorted(map(by_name, DOCS.glob("*.md")))


@pytest.mark.slow
def test_the_site_builds_and_needs_no_network(tmp_path):
    mkdocs = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(
        mkdocs, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0, built.stderr
    for page in tmp_path.rglob("*.html"):
        assert not re.search(r"<(script|img|iframe)[^>]+src=\"https?:", page.read_text()), page
        assert not re.search(r"<link[^>]+href=\"https?:", page.read_text()), page


@pytest.mark.parametrize("document", [*ROOT.glob("*.md"), *DOCS.glob("*.md")], ids=by_name)
def test_links_lead_somewhere_and_nothing_is_left_to_fill_in(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert target.startswith("http") or (document.parent / target).exists(), target
    assert not re.search(r"\b(TODO|FIXME|[A-Z]+_TABLE|XXX)\b", text)


def test_results_of_methods_that_have_changed_name_the_commit_that_they_hold_for():
    text = (ROOT / "docs" / "results.md").read_text()
    measured = [line for line in text.splitlines() if re.match(r"\| (iss-p|granet)\b", line)]
    assert len(measured) == 11
    assert all("(6a145ef)" in line for line in measured)
    assert "All numbers of `iss-p` and `granet` on this page hold for commit 6a145ef" in text


def test_the_page_has_the_table_of_searches_under_a_budget():
    assert budgets.markdown(json.loads(budgets.RESULTS.read_text())) in (DOCS / "results.md").read_text()
