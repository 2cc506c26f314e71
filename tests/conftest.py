"""What all tests share."""

from pathlib import Path

import pytest
import torch

from small import write_text


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    return write_text(folder)
