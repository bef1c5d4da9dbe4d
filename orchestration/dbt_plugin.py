"""dbt-duckdb plugin: gives dbt the lake, so that a bare `dbt build` works with no set-up.

It starts Postgres, attaches `lake` and `ledger`, and makes a writing command on the production
schema the lake's only writer for as long as its process lives.
"""

from __future__ import annotations

import atexit
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.flags import get_flags
from dbt_common.exceptions import DbtRuntimeError
from dbt_common.invocation import get_invocation_id

from orchestration import lake, warehouse
from orchestration.settings import Settings, load_settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# dbt opens another connection after one has failed; it need not wait a second time.
_refused: tuple[str, DbtRuntimeError] | None = None
# Of which commit a file of its own sees the lake; the newest, if unset.
SNAPSHOT = "SIGNALBOX_DBT_EVALUATION_SNAPSHOT"
WRITING = {"build", "run", "seed", "snapshot", "run-operation", "clone"}


class Plugin(BasePlugin):  # type: ignore[misc]
    """Named in profiles.yml; dbt creates one per connection environment."""

    def configure_connection(self, conn: DuckDBPyConnection) -> None:
        settings = load_settings()
        command = getattr(get_flags(), "WHICH", "")
        # Whoever runs dbt within Signalbox holds the lock already, and lets it go when it is done.
        if self.creds.schema == lake.SCHEMA and command in WRITING and not lake.is_writer():
            _become_writer(settings, command)
        warehouse.ensure(settings)
        # A target with a file of its own (evaluation) only reads the lake.
        elsewhere = self.creds.database != lake.CATALOG
        snapshot = os.environ.get(SNAPSHOT) if elsewhere else None
        lake.attach(
            conn, settings, read_only=elsewhere, snapshot=int(snapshot) if snapshot else None
        )
        lake.attach_ledger(conn, settings)

    def configure_cursor(self, cursor: Any) -> None:
        cursor.execute("set timezone = 'UTC'")


def _become_writer(settings: Settings, command: str) -> None:
    global _refused
    if _refused and _refused[0] == get_invocation_id():
        raise _refused[1]
    held = ExitStack()
    try:
        held.enter_context(lake.writer(settings, f"dbt {command}", on_wait=_say))
    except lake.WriterBusy as error:
        _refused = (get_invocation_id(), DbtRuntimeError(str(error)))
        raise _refused[1] from None
    atexit.register(held.close)


def _say(text: str) -> None:
    from dbt_common.events.functions import fire_event
    from dbt_common.events.types import Note

    fire_event(Note(msg=text))
