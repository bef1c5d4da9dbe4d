from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ingestion.destination import Lake


@pytest.fixture
def lake(new_database: Callable[[], str], tmp_path: Path) -> Lake:
    """A lake of its own: a new catalog database and an empty directory."""
    return Lake(new_database(), f"{tmp_path / 'lake'}/", tmp_path / "dlt")
