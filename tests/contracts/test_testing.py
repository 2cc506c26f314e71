"""What the room of contract suites promises of itself."""

import ast
import inspect
from pathlib import Path

import pytest

import hyperpruning
import hyperpruning.testing as suites

ROOT = Path(hyperpruning.__file__).parent
NAMES = ["check_criterion", "check_driven_layer", "check_executor", "check_method", "check_sampler", "check_task"]


def test_it_has_six_names():
    assert suites.__all__ == dir(suites) == NAMES
    (seen,) = [node.body for node in ast.parse(inspect.getsource(suites)).body if isinstance(node, ast.If)]
    assert [alias.name for node in seen for alias in node.names] == NAMES
    assert all("Raises:" in inspect.getdoc(getattr(suites, name)) for name in NAMES)
    assert all(">>>" in inspect.getdoc(getattr(suites, name)) for name in NAMES)
    with pytest.raises(AttributeError, match="has no attribute 'check_all'"):
        suites.check_all  # noqa: B018


def test_no_other_room_imports_it_and_it_imports_no_test_tool():
    for path in ROOT.rglob("*.py"):
        names = {
            name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        }
        if path.parent == ROOT / "testing":
            assert not {str(name).split(".")[0] for name in names} & {"pytest", "hypothesis", "unittest"}
        elif path != ROOT / "__init__.py":
            assert not {name for name in names if str(name).startswith("hyperpruning.testing")}, path
