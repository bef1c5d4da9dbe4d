from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.settings import Settings, load_settings


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("SIGNALBOX_HOME", str(home))
    load_settings.cache_clear()
    yield load_settings()
    load_settings.cache_clear()
