from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invented import invent_run

from hyperpruning.report.page import report


@pytest.fixture
def invent(tmp_path: Path) -> Callable[..., Path]:
    """Make a run folder; see `invent_run`."""

    def make(name: str = "run", **settings: Any) -> Path:
        return invent_run(tmp_path / name, **settings)

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that has ended; only to be read."""
    return invent_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def train_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that has trained everybody to the end; only to be read."""
    return invent_run(tmp_path_factory.mktemp("train_all"), train_all=True)


@pytest.fixture(scope="session")
def page(train_all: Path) -> str:
    """Its report."""
    return report(train_all)
