"""The quarantine's models, and staging on a lake that an older version built."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from dbt_warehouse import Message, Warehouse

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
COLUMNS = "log_seq, message_id, event, event_version, reason, received_at"


def quarantine(warehouse: Warehouse, *rows: tuple[object, ...]) -> None:
    with warehouse.connect() as connection:
        for *row, hour in rows:
            connection.execute(
                f"insert into raw.quarantine (source, {COLUMNS}) values ('web', ?, ?, ?, ?, ?, ?)",
                [*row, datetime(2026, 3, 20, int(str(hour)), tzinfo=UTC)],
            )


def test_a_replay_counts_for_every_copy_of_its_message(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    late = Message("track", NOW - timedelta(days=1), "m1", "u1", None, "Purchase Completed")
    purchase = ("Purchase Completed", 1, "wrong_type")
    quarantine(
        warehouse,
        (10, "m1", *purchase, 10),
        (10, "m1", *purchase, 10),  # repeated by a load that was killed
        (11, "m1", *purchase, 11),  # sent again by the producer
        (12, "m2", *purchase, 12),
        (13, "m3", None, None, "invalid_json", 13),
    )
    # An older version's table has none of the new columns.
    warehouse.dbt("seed", "--select", "+quarantine_summary", "+stg_events")
    warehouse.dbt("run", "--select", "stg_events", as_of=NOW)
    with warehouse.connect() as connection:
        for column in ("violation_reason", "violation_detail", "replayed_at"):
            connection.execute(f"alter table main.stg_events drop column {column}")
    warehouse.load([late])
    with warehouse.connect() as connection:
        connection.execute("update raw.events set replayed_from = 10, replayed_at = now()")
    warehouse.dbt("build", "--select", "stg_events", "+quarantine_summary", as_of=NOW)

    assert warehouse.query("select log_seq, status from main.quarantined_messages order by 1") == [
        (10, "replayed"),
        (11, "replayed"),
        (12, "waiting"),
        (13, "waiting"),
    ]
    assert warehouse.query(
        "select event, event_version, reason, messages, waiting, replayed, rejected, "
        "first_received_at, last_received_at from main.quarantine_summary order by all"
    ) == [
        ("Purchase Completed", 1, "wrong_type", 3, 1, 2, 0, *_times(10, 12)),
        ("unknown", None, "invalid_json", 1, 1, 0, 0, *_times(13, 13)),
    ]
    (event,) = warehouse.query(
        "select message_id, violation_reason, replayed_at is not null from main.stg_events"
    )
    assert event == ("m1", None, True)


def _times(*hours: int) -> list[object]:
    return [datetime(2026, 3, 20, hour, tzinfo=UTC) for hour in hours]
