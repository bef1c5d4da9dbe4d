"""dbt-duckdb plugin: gives dbt the lake, so that a bare `dbt build` works with no set-up.

It starts Postgres, attaches `lake` and `ledger`, and makes a writing command on the production
schema the lake's only writer for as long as its process lives.
"""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.flags import get_flags

from orchestration import lake, warehouse
from orchestration.settings import load_settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

WRITING = {"build", "run", "seed", "snapshot", "run-operation", "clone"}


class Plugin(BasePlugin):  # type: ignore[misc]
    """Named in profiles.yml; dbt creates one per connection environment."""

    def configure_connection(self, conn: DuckDBPyConnection) -> None:
        settings = load_settings()
        command = getattr(get_flags(), "WHICH", "")
        # Whoever runs dbt within Signalbox holds the lock already, and lets it go when it is done.
        if self.creds.schema == lake.SCHEMA and command in WRITING and not lake.is_writer():
            held = ExitStack()
            held.enter_context(lake.writer(settings, f"dbt {command}", on_wait=_say))
            atexit.register(held.close)
        warehouse.ensure(settings)
        lake.attach(conn, settings, read_only=False)
        lake.attach_ledger(conn, settings)

    def configure_cursor(self, cursor: Any) -> None:
        cursor.execute("set timezone = 'UTC'")


def _say(text: str) -> None:
    from dbt_common.events.functions import fire_event
    from dbt_common.events.types import Note

    fire_event(Note(msg=text))
