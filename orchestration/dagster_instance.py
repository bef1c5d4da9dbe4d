"""Dagster's storage on the embedded Postgres, and its files under `SIGNALBOX_HOME`.

Named in dagster.yaml. These classes only fill in what a static file cannot know: where Postgres
listens and where home is.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any

from dagster import AssetKey, DagsterEventType, EventLogEntry
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.event_log.base import AssetRecord
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.local_compute_log_manager import (
    IO_TYPE_EXTENSION,
    LocalComputeLogManager,
)
from dagster._core.storage.root import LocalArtifactStorage
from dagster._serdes import ConfigurableClassData
from dagster._utils import ensure_file, touch_file
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from sqlalchemy import Connection, Engine, create_engine, inspect, make_url

from orchestration import postgres
from orchestration.settings import load_settings

# Events that a run may hold back until the next one of another kind: nobody waits for them.
_MAY_WAIT = {
    DagsterEventType.STEP_OUTPUT,
    DagsterEventType.HANDLED_OUTPUT,
    DagsterEventType.ASSET_MATERIALIZATION,
    DagsterEventType.ASSET_OBSERVATION,
    DagsterEventType.ASSET_CHECK_EVALUATION,
}


class _Events(PostgresEventLogStorage):  # type: ignore[misc]
    """Dagster's, less what it asks the catalog about its own tables for each event.

    With `gather`, for a process that executes runs, a step's outputs are stored together: with the
    next event of another kind, or when this process asks for something. Dagster needs three
    connections and up to six statements for each, and a micro-batch has a hundred of them.
    """

    gather = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._gathered: list[EventLogEntry] = []
        self._mutex = threading.RLock()
        self._asks_for_others = False

    def store_event(self, event: EventLogEntry) -> None:
        if not self.gather:
            super().store_event(event)
            return
        with self._mutex:
            self._gathered.append(event)
            if not (event.is_dagster_event and event.dagster_event_type in _MAY_WAIT):
                self._store_gathered()

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Any events, in their order; Dagster's own stores most kinds one by one."""
        rows = [self._event_to_row(event) for event in events]
        ids = SqlEventLogStorageTable.c.id
        statement = SqlEventLogStorageTable.insert().returning(ids, sort_by_parameter_order=True)
        with self._connect() as connection:
            stored = list(zip(events, connection.scalars(statement, rows), strict=True))
        of_assets = [
            (event, number)
            for event, number in stored
            if event.is_dagster_event
            and event.dagster_event_type in ASSET_EVENTS
            and event.get_dagster_event().asset_key
        ]
        if of_assets:
            with self.index_transaction() as connection:
                self._store_asset_event_tags(connection, *zip(*of_assets, strict=True))
                for event, number in of_assets:
                    self._store_asset_event(connection, event, number)
        for event, number in stored:
            if event.is_dagster_event and event.dagster_event_type in ASSET_CHECK_EVENTS:
                self.store_asset_check_event(event, number)

    def get_asset_records(
        self, asset_keys: Sequence[AssetKey] | None = None
    ) -> Sequence[AssetRecord]:
        """Asked for each output, of what it was made from: nearly always of an earlier step."""
        with self._mutex:
            waiting = {event.get_dagster_event().asset_key for event in self._gathered}
            self._asks_for_others = asset_keys is not None and waiting.isdisjoint(asset_keys)
            try:
                found: Sequence[AssetRecord] = super().get_asset_records(asset_keys)
                return found
            finally:
                self._asks_for_others = False

    def _store_gathered(self) -> None:
        with self._mutex:
            events, self._gathered = self._gathered, []
            if events:
                self.store_event_batch(events)

    def _connect(self) -> AbstractContextManager[Connection]:
        if not self._asks_for_others:
            self._store_gathered()  # whoever reads is to find what was stored before
        connected: AbstractContextManager[Connection] = super()._connect()
        return connected

    def has_table(self, table_name: str) -> bool:
        return table_name in self._tables()

    def _has_asset_key_col_on_connection(self, conn: Any, column_name: str) -> bool:
        return column_name in self._tables()["asset_keys"]

    @lru_cache(maxsize=1)  # noqa: B019 - one instance per process
    def _tables(self) -> dict[str, set[str]]:
        with self.index_connection() as connection:
            inspector = inspect(connection)
            return {
                name: {column["name"] for column in inspector.get_columns(name)}
                for name in inspector.get_table_names()
            }


class Storage(DagsterPostgresStorage):  # type: ignore[misc]
    """Runs, events and schedules in the database `signalbox_dagster`."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(postgres_url, postgres_url not in _kept, inst_data)
        self._event_log_storage = _Events(postgres_url, should_autocreate_tables=False)
        if os.environ.get(postgres.KEEP_CONNECTIONS):
            # Dagster connects anew for every statement. A run begins with dozens of events, and the
            # code server makes an instance, which looks for its tables, for every tick of a sensor.
            engine = _keeping_engine(postgres_url)
            for part in (self._run_storage, self._event_log_storage, self._schedule_storage):
                part._engine = engine

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Storage:
        # A run writes some two hundred events, with commits of their own, and each would wait for
        # the disk. Nothing that must not be lost depends on them: after a power failure the last
        # half second of its memory is missing, and a run whose end was in it counts as failed.
        url = make_url(postgres.start(load_settings()).dagster).update_query_dict(
            {"options": "-c synchronous_commit=off"}
        )
        return cls(postgres_url=url.render_as_string(hide_password=False), inst_data=inst_data)

    # The parts are reached through this class alone; without these the base class would describe
    # them to other processes by a URL that our configuration does not hold.
    @property
    def event_storage_data(self) -> None:
        return None

    @property
    def run_storage_data(self) -> None:
        return None

    @property
    def schedule_storage_data(self) -> None:
        return None


_kept: dict[str, Engine] = {}


def _keeping_engine(url: str) -> Engine:
    if url not in _kept:
        _kept[url] = create_engine(
            url, isolation_level="AUTOCOMMIT", pool_size=4, max_overflow=32, pool_pre_ping=True
        )
    return _kept[url]


class ComputeLogs(LocalComputeLogManager):
    """stdout and stderr of steps, in `<home>/dagster/logs`, where the UI shows them.

    Dagster would also copy them to those of the process, by two `tail`s and two more interpreters
    for each run.
    """

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> ComputeLogs:
        return cls(base_dir=str(load_settings().home / "dagster" / "logs"), inst_data=inst_data)

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        out, err = (
            self.get_captured_local_path(log_key, IO_TYPE_EXTENSION[kind])
            for kind in (ComputeIOType.STDOUT, ComputeIOType.STDERR)
        )
        ensure_file(out)
        with redirect_to_file(sys.stdout, out), redirect_to_file(sys.stderr, err):
            yield CapturedLogContext(log_key)
        touch_file(self.complete_artifact_path(log_key))  # type: ignore[no-untyped-call]


class Artifacts(LocalArtifactStorage):
    """Dagster's local files, in `<home>/dagster`."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Artifacts:
        return cls(base_dir=str(load_settings().home / "dagster"), inst_data=inst_data)
