from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invented import Invented

from hyperpruning.report.page import report


@pytest.fixture
def invent(tmp_path: Path) -> Callable[..., Path]:
    """Make a run folder; see `Invented`."""

    def make(name: str = "run", **settings: Any) -> Path:
        Invented(tmp_path / name, **settings)
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that has ended; only to be read."""
    return Invented(tmp_path_factory.mktemp("finished")).folder


@pytest.fixture(scope="session")
def exhaustive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that has trained everybody to the end; only to be read."""
    return Invented(tmp_path_factory.mktemp("exhaustive"), exhaustive=True).folder


@pytest.fixture(scope="session")
def page(exhaustive: Path) -> str:
    """Its report."""
    return report(exhaustive)
