"""What hosts under faults share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The directory remote."""
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder
