"""A DuckDB file with a raw layer, and dbt in this process to build the models on it."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import parsed

from ingestion import raw_tables
from ingestion.sources import refreshed

PROJECT = Path(__file__).parents[1] / "dbt_project"

RAW_TABLES = """
create schema raw;
create schema ledger;
create table raw.events (
    log_seq bigint, source varchar, message_id varchar, message_id_generated boolean, type varchar,
    event varchar, event_version integer, user_id varchar, anonymous_id varchar,
    timestamp timestamptz, original_timestamp timestamptz, sent_at timestamptz,
    received_at timestamptz, payload varchar, _dlt_load_id varchar, violation_reason varchar,
    violation_detail varchar, replayed_from bigint, replayed_at timestamptz, repeat_of bigint
);
create table raw.quarantine (
    log_seq bigint, source varchar, message_id varchar, type varchar, event varchar,
    reason varchar, detail varchar, received_at timestamptz, payload varchar, _dlt_load_id varchar,
    message_id_generated boolean, event_version integer, user_id varchar, anonymous_id varchar,
    sent_at timestamptz, rejected boolean
);
create table ledger.actions (
    action_key varchar, sync varchar, destination varchar, mode varchar, row_key varchar,
    customer_id varchar, trigger_id varchar, payload_hash varchar, payload varchar, state varchar,
    reason varchar, status_code integer, attempts integer, created_at timestamptz,
    updated_at timestamptz, sent_at timestamptz, delivered_at timestamptz, expires_at timestamptz,
    next_attempt_at timestamptz, event_at timestamptz, policy varchar, leave boolean,
    sandbox boolean
);
create table ledger.attempts (
    attempt_id bigint, action_key varchar, sync varchar, attempt integer, payload_hash varchar,
    outcome varchar, reason varchar, status_code integer, latency_ms integer,
    started_at timestamptz, finished_at timestamptz
);
"""
# As the load does it.
MARK_REPEATS = """
update raw.events set repeat_of = firsts.log_seq
from (select source, message_id, min(log_seq) as log_seq from raw.events group by all) as firsts
where events.source = firsts.source and events.message_id = firsts.message_id
    and events.log_seq > firsts.log_seq
"""


@dataclass
class Message:
    """One message as a Segment client sends it; `at` is UTC, and when it arrived unless told."""

    type: str
    at: datetime
    message_id: str
    user: str | None = None
    anonymous: str | None = None
    event: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    source: str = "web"
    received: datetime | None = None

    def row(self, log_seq: int) -> tuple[Any, ...]:
        payload = {"type": self.type, "userId": self.user, "anonymousId": self.anonymous}
        payload |= {"event": self.event} | dict(self.body)
        return (
            *(log_seq, self.source, self.message_id, False, self.type, self.event, 1),
            *(self.user, self.anonymous, self.at, self.at, self.at, self.received or self.at),
            *(json.dumps(payload), "load"),
        )


class Warehouse:
    """dbt builds into `path`; queries open it between the builds, since one process may hold it."""

    _manifests: ClassVar[dict[Path, Any]] = {}

    def __init__(self, directory: Path, project: Path = PROJECT) -> None:
        self.project = project
        self.path = directory / "signalbox_test.duckdb"
        self.scratch = directory
        self.next_seq = 0
        with self.connect() as connection:
            connection.execute(RAW_TABLES)
            for source in refreshed():
                connection.register("empty", raw_tables.schema(source.table).empty_table())
                connection.execute(
                    f"create table raw.{source.table} as "
                    "select *, cast(null as varchar) as _dlt_load_id from empty"
                )
                connection.unregister("empty")

    @contextmanager
    def connect(self) -> Any:
        connection = duckdb.connect(str(self.path))
        try:
            connection.execute("set timezone = 'UTC'")
            yield connection
        finally:
            connection.close()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            rows: list[tuple[Any, ...]] = connection.execute(sql).fetchall()
            return rows

    def load(self, messages: Iterable[Message]) -> None:
        """Append messages to the raw layer in the order given."""
        rows = [message.row(self.next_seq + offset) for offset, message in enumerate(messages)]
        self.next_seq += len(rows)
        self.load_rows(rows)

    def load_rows(self, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            columns = [name for (name, *_) in self.query("describe raw.events")][: len(rows[0])]
            marks = ", ".join("?" * len(columns))
            with self.connect() as connection:
                connection.executemany(
                    f"insert into raw.events ({', '.join(columns)}) values ({marks})", rows
                )
                connection.execute(MARK_REPEATS)

    def batch(self, *args: str, as_of: datetime) -> None:
        """Run one dbt command as a micro-batch does, in one transaction."""
        from orchestration.dbt_transaction import one_transaction

        with one_transaction() as begun:
            self.dbt(*args, as_of=as_of, one_transaction=True)
            for transaction in begun:
                transaction.end(commit=True)

    def dbt(self, *args: str, as_of: datetime | None = None, **variables: Any) -> Any:
        """Run one dbt command; fails the test with dbt's own words."""
        from dbt.cli.main import dbtRunner

        if as_of is not None:
            variables["as_of"] = as_of.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        runner = dbtRunner(manifest=self.manifest())
        # Nobody reads dbt's JSON files of it, and writing them takes as long as ten small models.
        command = [*args, *self._where(), "--no-write-json", "--vars", json.dumps(variables)]
        return self._invoked(runner.invoke(command))

    def manifest(self) -> Any:
        """The parsed project, parsed once per process."""
        from dbt.cli.main import dbtRunner

        if self.project not in self._manifests:
            if self.project == PROJECT:
                parsed.lend("test", self.scratch / "target")
            manifest = self._invoked(dbtRunner().invoke(["parse", *self._where()]))
            if self.project == PROJECT:
                parsed.keep("test", self.scratch / "target")
            self._manifests[self.project] = manifest
        return self._manifests[self.project]

    def inline(self, sql: str) -> str:
        """SQL of the project's macros, compiled for this warehouse."""
        from dbt.cli.main import dbtRunner

        runner = dbtRunner(manifest=copy.copy(self.manifest()))
        results = self._invoked(
            runner.invoke(["compile", "--inline", sql, "--log-level", "none", *self._where()])
        )
        code: str = results.results[0].node.compiled_code
        return code

    def _where(self) -> list[str]:
        os.environ["SIGNALBOX_DBT_TEST_DB"] = str(self.path)
        return [
            *("--project-dir", str(self.project), "--profiles-dir", str(self.project)),
            *("--target", "test"),
            *("--target-path", str(self.scratch / "target"), "--quiet", "--no-use-colors"),
            *("--log-path", str(self.scratch / "logs"), "--log-level-file", "none"),
        ]

    @staticmethod
    def _invoked(outcome: Any) -> Any:
        failed = [
            f"{result.node.name}: {result.message}"
            for result in getattr(outcome.result, "results", None) or []
            if str(result.status) in {"error", "fail", "runtime error", "skipped"}
        ]
        assert outcome.success, outcome.exception or "\n".join(failed)
        return outcome.result

    def table(self, name: str) -> list[tuple[Any, ...]]:
        """All rows of a model, in an order that does not depend on how they were written."""
        return self.query(f"select * from main.{name} order by all")

    def columns(self, name: str) -> list[str]:
        return [row[0] for row in self.query(f"describe main.{name}")]
