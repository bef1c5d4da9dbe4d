from __future__ import annotations

from pathlib import Path

import pytest
from dbt_warehouse import Warehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """An empty raw layer and no models yet."""
    return Warehouse(tmp_path)
