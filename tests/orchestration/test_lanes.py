"""The figures of a lane, from real loads and a real ledger."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import duckdb
import psycopg2
import pytest

from ingestion.contract import Contracts
from ingestion.envelope import Arrival, encode_record, to_record
from ingestion.log import EventLog
from orchestration import ingest, lake, lanes, postgres, warehouse
from orchestration.assets.ingest import micro_batch_keeps_up
from orchestration.settings import Settings


def accept(settings: Settings, accepted: datetime) -> None:
    message = b'{"type":"identify","userId":"u","messageId":"m"}'
    record = to_record(message, Arrival("web", accepted), Contracts.load())
    with EventLog(settings.log_dir) as log:
        log.append([encode_record(record)])


def test_a_lagging_micro_batch_is_an_alarm(settings: Settings) -> None:
    warehouse.ensure(settings)
    assert micro_batch_keeps_up().passed
    accept(settings, datetime.now(UTC) - timedelta(seconds=30))
    assert micro_batch_keeps_up().passed
    ingest.loader(settings).load()
    accept(settings, datetime.now(UTC) - timedelta(seconds=90))
    assert not micro_batch_keeps_up().passed
    ingest.loader(settings).load()
    assert micro_batch_keeps_up().passed


def test_figures_are_ranks_and_none_without_values() -> None:
    assert lanes.figures([]) == {"count": 0, "p50": None, "p95": None, "p99": None}
    assert lanes.figures([3.0, None, 1.0]) == {"count": 2, "p50": 3.0, "p95": 3.0, "p99": 3.0}
    hundred = lanes.figures(float(number) for number in range(100, 0, -1))
    assert hundred == {"count": 100, "p50": 51.0, "p95": 96.0, "p99": 100.0}


def test_a_load_counts_as_sent_when_the_syncs_after_it_have_ended(settings: Settings) -> None:
    warehouse.ensure(settings)
    with lake.connect(settings, read_only=False) as connection, suppress(duckdb.CatalogException):
        connection.execute("delete from raw._dlt_loads")  # of other tests in this home
    assert lanes.micro_batch(settings)["accepted_to_loaded"]["count"] == 0
    accepted = datetime.now(UTC) - timedelta(seconds=10)
    accept(settings, accepted)
    ingest.loader(settings).load()
    ledger = psycopg2.connect(postgres.start(settings).ledger)
    with ledger, ledger.cursor() as cursor:
        cursor.execute("update ledger_info set began_at = now()")
    assert lanes.micro_batch(settings)["accepted_to_loaded"]["count"] == 0, "nobody acted yet"
    with ledger, ledger.cursor() as cursor:
        cursor.execute("update ledger_info set began_at = now() - interval '1 hour'")
    measured = lanes.micro_batch(settings)
    assert measured["accepted_to_loaded"]["p50"] >= 10
    assert measured["accepted_to_sent"]["count"] == 0

    with ledger, ledger.cursor() as cursor:
        for sync, seconds in (("quick", 20), ("slow", 30), ("slow", 90)):
            cursor.execute(
                "insert into sync_runs (sync, destination, sandbox, status, counts, started_at, "
                "finished_at) values (%s, 'd', true, 'done', '{}', now(), %s)",
                [sync, accepted + timedelta(seconds=seconds)],
            )
        cursor.execute(
            "insert into actions (action_key, sync, destination, mode, row_key, payload_hash,"
            " state, repeatable, lane, event_at, sent_at)"
            " values ('k', 's', 'd', 'message', 'r', 'h', 'delivered', false, 'batch', %s, %s)",
            [accepted, accepted + timedelta(seconds=7)],
        )
    ledger.close()
    measured = lanes.micro_batch(settings)
    assert measured["accepted_to_sent"]["p50"] == pytest.approx(30, abs=0.1)
    assert measured["messages"]["s"]["p95"] == pytest.approx(7, abs=0.1)
