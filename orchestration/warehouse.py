"""Creates what every other part may rely on: the lake, its raw tables, the ledger's tables."""

from __future__ import annotations

from pathlib import Path

from orchestration import ingest, lake, postgres
from orchestration.settings import Settings

_ensured: set[Path] = set()


def ensure(settings: Settings) -> None:
    """Create lake, raw tables and ledger where they are missing; looked at once per process."""
    if settings.home in _ensured:
        return
    from syncs.ledger import Ledger

    ingest.loader(settings).ensure_tables()
    lake.ensure_layout(settings)
    Ledger(postgres.start(settings).ledger).ensure()
    _ensured.add(settings.home)
