from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.settings import Settings, load_settings


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home of its own. Not pytest's folder: a Unix socket's path must be short."""
    directory = Path(tempfile.mkdtemp(prefix="sbx-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("SIGNALBOX_HOME", str(home))
    load_settings.cache_clear()
    yield load_settings()
    load_settings.cache_clear()
