"""What all tests share."""

from pathlib import Path

import hypothesis
import pytest
import torch

from small import write_text

hypothesis.settings.register_profile("no clock", deadline=None)  # a loaded machine is no failure
hypothesis.settings.load_profile("no clock")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    return write_text(folder)
