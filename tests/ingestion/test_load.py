from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from lakes import query

from ingestion.destination import Lake, LoadError
from ingestion.load import Loader
from ingestion.loaded import loaded_end
from ingestion.log import EventLog
from ingestion.segment import segment_path

RECORD = {
    "kind": "event",
    "source": "web",
    "message_id_generated": False,
    "type": "track",
    "event": "Purchase Completed",
    "event_version": 1,
    "user_id": "u1",
    "anonymous_id": None,
    "timestamp": "2026-01-02T03:04:05.678901Z",
    "original_timestamp": "2026-01-02T03:04:00.000000Z",
    "sent_at": None,
    "received_at": "2026-01-02T03:04:06.000000Z",
    "reason": None,
    "detail": None,
}


def record(number: int, **changes: object) -> bytes:
    message = {"message_id": f"m{number}", "payload": f'{{"n":{number},"na!e":"é😀"}}'}
    return msgspec.json.encode({**RECORD, **message, **changes})


def quarantined(number: int) -> bytes:
    return record(number, kind="quarantine", reason="missing_field", detail="total is required")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with EventLog(tmp_path / "log") as opened:
        yield opened


@pytest.fixture
def loader(lake: Lake, log: EventLog) -> Iterator[Loader]:
    made = new_loader(lake, log.directory)
    made.ensure_tables()
    yield made
    made.close()


def new_loader(lake: Lake, log_dir: Path) -> Loader:
    return Loader(lake.catalog_url, lake.data_path, log_dir, lake.pipelines_dir)


def test_tables_exist_before_anything_is_loaded(lake: Lake, loader: Loader) -> None:
    snapshots = query(lake, "select count(*) from ducklake_snapshots('lake')")
    loader.ensure_tables()
    assert query(lake, "select count(*) from ducklake_snapshots('lake')") == snapshots
    columns = dict(
        query(
            lake,
            "select table_name || '.' || column_name, data_type from duckdb_columns() "
            "where schema_name = 'raw'",
        )
    )
    assert columns["events.log_seq"] == "BIGINT"
    assert columns["events.message_id_generated"] == "BOOLEAN"
    assert columns["events.event_version"] == "INTEGER"
    assert columns["events.timestamp"] == "TIMESTAMP WITH TIME ZONE"
    assert columns["events.payload"] == "VARCHAR"
    assert columns["quarantine.reason"] == "VARCHAR"
    assert columns["crm_contacts.archived"] == "BOOLEAN"
    assert columns["support_tickets._dlt_load_id"] == "VARCHAR"
    assert (
        query(lake, "select * from raw.events union all by name select * from raw.quarantine") == []
    )


def test_every_record_is_in_one_table(lake: Lake, loader: Loader, log: EventLog) -> None:
    assert loader.load().batches == 0
    log.append([record(0), quarantined(1), record(2)])
    result = loader.load()
    assert (result.first_seq, result.next_seq, result.batches) == (0, 3, 1)
    assert (result.events, result.quarantined) == (2, 1)
    assert loader.load().batches == 0

    log.append([quarantined(3)])
    assert (loader.load().next_seq, loader.position()) == (4, 4)
    assert query(lake, "select log_seq, message_id from raw.events order by 1") == [
        (0, "m0"),
        (2, "m2"),
    ]
    assert query(lake, "select log_seq, reason from raw.quarantine order by 1") == [
        (1, "missing_field"),
        (3, "missing_field"),
    ]
    ((time_, received, payload),) = query(
        lake,
        "select epoch_us(timestamp), received_at::varchar, payload from raw.events "
        "where log_seq = 0",
    )
    assert (time_, received) == (1767323045678901, "2026-01-02 03:04:06+00")
    assert payload == '{"n":0,"na!e":"é😀"}'


def test_odd_records_neither_stop_the_load_nor_get_lost(
    lake: Lake,
    loader: Loader,
    log: EventLog,
) -> None:
    log.append(
        [
            b"{torn",
            b"\xff\xfe",
            record(2, kind="of the future"),
            record(3, timestamp="yesterday"),
            record(4, new_field=1, payload="\0", message_id="\0", event="\0"),
            b'{"kind": "event", "message_id": "old"}',
        ]
    )
    result = loader.load()
    assert (result.events, result.quarantined) == (3, 3)
    assert query(lake, "select log_seq, reason from raw.quarantine order by 1") == [
        (0, "invalid_record"),
        (1, "invalid_record"),
        (2, "invalid_record"),
    ]
    assert query(lake, "select log_seq from raw.events order by 1") == [(3,), (4,), (5,)]
    assert query(lake, "select received_at is not null from raw.events where log_seq = 3") == [
        (True,)
    ]


def test_the_position_is_the_warehouses(
    lake: Lake,
    loader: Loader,
    log: EventLog,
) -> None:
    log.append([record(number) for number in range(10)])
    assert loader.load(max_records=4).next_seq == 4
    other = new_loader(lake, log.directory)
    assert other.load(max_records=3).first_seq == 4
    other.close()
    assert loader.load().first_seq == 7

    log.append([record(10), record(11)])
    loader.load()
    with lake.connect() as connection:
        connection.execute("call ducklake_merge_adjacent_files('lake')")
    assert loader.position() == 12
    with lake.connect() as connection:  # an erasure may take all rows of the last load
        connection.execute("delete from lake.raw.events where log_seq >= 10")
    assert loader.position() == 12


def test_the_log_is_told_how_far_the_warehouse_has_come(
    lake: Lake, loader: Loader, log: EventLog
) -> None:
    assert loaded_end(log.directory) == 0
    log.append([record(number) for number in range(5)])
    assert loaded_end(log.directory) == 0
    loader.load(max_records=3)
    assert loaded_end(log.directory) == 3
    marker = log.directory / "loaded"
    marker.write_bytes(marker.read_bytes()[:-1])
    assert loaded_end(log.directory) == 0  # damaged: then nothing is known
    loader.load(max_records=0)  # the warehouse knows it
    assert loaded_end(log.directory) == 3
    marker.unlink()
    loader.load()
    assert loaded_end(log.directory) == loader.position() == 5


def test_records_that_are_gone_before_they_were_loaded_are_missed(
    lake: Lake, tmp_path: Path
) -> None:
    with EventLog(tmp_path / "log", segment_bytes=1) as log:
        for number in range(3):
            log.append([record(number)])
    loader = new_loader(lake, log.directory)
    loader.ensure_tables()
    loader.load(max_records=1)
    segment_path(log.directory, 0).unlink()  # loaded, so nobody misses it
    loader.load(max_records=0)
    segment_path(log.directory, 1).unlink()
    with pytest.raises(LoadError, match="oldest record that is kept is 2: 1 records are missing"):
        loader.load()
    assert loaded_end(log.directory) == 1
    assert loader.load(skip_missing=True).first_seq == 2
    assert loaded_end(log.directory) == 3
    loader.close()


def test_a_strange_log_is_refused(
    lake: Lake, loader: Loader, log: EventLog, tmp_path: Path
) -> None:
    log.append([record(0), record(1)])
    loader.load()
    with EventLog(tmp_path / "other") as other:
        other.append([record(0)])
    with pytest.raises(LoadError, match="up to 1, but the log ends at 0"):
        new_loader(lake, tmp_path / "other").load()


@pytest.mark.parametrize("table", ["none", "without keys_id"])
def test_a_lake_of_the_first_version_goes_on_where_its_load_marks_end(
    lake: Lake, loader: Loader, log: EventLog, table: str
) -> None:
    log.append([record(0), quarantined(1)])
    loader.load()
    log.append([record(2), record(3)])
    loader.load()
    loader.close()
    with lake.connect() as connection:
        connection.execute("use lake")
        # Killed, as it could be then, between the rows of the second load and its mark.
        connection.execute(
            "delete from raw._dlt_loads where load_id = "
            "(select _dlt_load_id from raw.events where log_seq = 3)"
        )
        connection.execute("alter table raw.events drop column repeat_of")
        connection.execute("drop table raw._log_position")
        if table != "none":
            connection.execute("create table raw._log_position (next_seq bigint)")

    upgraded = new_loader(lake, log.directory)
    upgraded.ensure_tables()
    assert upgraded.position() == 2
    log.append([record(4)])
    result = upgraded.load()
    assert (result.first_seq, result.next_seq) == (2, 5)
    upgraded.close()
    # What had no mark stands twice, under the same log_seq: staging takes one of each.
    seqs = [seq for (seq,) in query(lake, "select log_seq from raw.events order by all")]
    assert seqs == [0, 2, 2, 3, 3, 4]
    assert query(lake, "select log_seq from raw.quarantine") == [(1,)]


def test_an_unreachable_lake_is_said_so(tmp_path: Path) -> None:
    url = f"postgresql://postgres:hush@/lake?host={tmp_path}"
    with pytest.raises(LoadError, match="cannot be opened") as caught:
        Loader(url, f"{tmp_path}/lake/", tmp_path / "log", tmp_path / "dlt").load()
    assert "hush" not in str(caught.value)


def test_a_slow_query_prints_no_progress(lake: Lake) -> None:
    assert query(lake, "select current_setting('enable_progress_bar')") == [(False,)]


def test_torn_working_files_of_dlt_do_not_matter(
    lake: Lake,
    loader: Loader,
    log: EventLog,
) -> None:
    log.append([record(0)])
    loader.load()
    working_dir = lake.pipelines_dir / "events"
    assert list(working_dir.glob("load/loaded/*")) == []
    for name in ("state.json", "schemas/events.schema.json"):
        (working_dir / name).write_text("{")
    (working_dir / "load/normalized/1.1/new_jobs").mkdir(parents=True)
    (working_dir / "normalize/extracted/2.2").mkdir(parents=True)
    log.append([record(1)])
    fresh = new_loader(lake, log.directory)
    assert fresh.load().events == 1
    (working_dir / "load/normalized/3.3/new_jobs").mkdir(parents=True)
    log.append([record(2)])
    assert fresh.load().events == 1
    fresh.close()
    assert query(lake, "select log_seq from raw.events order by 1") == [(0,), (1,), (2,)]


# As in production, loads run in forks of a process that has the imports done. One always waits
# with the lake attached; told by a line to load, it is killed: at a point in the code, or after so
# many seconds by the kernel, which like SIGKILL leaves no chance to clean up.
CHILDREN = """
import os, signal, sys
from pathlib import Path
from dlt.destinations.impl.duckdb.duck import DuckDbCopyJob
from dlt.destinations.impl.ducklake.ducklake import DuckLakeClient
from dlt.pipeline.pipeline import Pipeline
from ingestion import load
from ingestion.destination import _Package, warm_up
from ingestion.load import Loader

POINTS = {
    "extracted": (Pipeline, "normalize", 1, False),
    "normalized": (Pipeline, "load", 1, False),
    "first table written": (DuckDbCopyJob, "run", 1, True),
    "second table written": (DuckDbCopyJob, "run", 2, True),
    "before mark": (DuckLakeClient, "complete_load", 1, False),
    "marked": (DuckLakeClient, "complete_load", 1, True),
    "position written": (Loader, "_keep_position", 1, True),
    "committed": (_Package, "commit", 1, True),
    "told the log": (load, "publish_loaded", 2, True),
}

def die_in(owner, name, call, after):
    real, calls = getattr(owner, name), []
    def fatal(*args, **kwargs):
        calls.append(1)
        if not after and len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if after and len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, fatal)

def run(orders):
    loader = Loader(url, data, Path(log), Path(pipelines))
    loader.ensure_tables()
    import polars
    when = os.read(orders, 100).decode()
    if when in POINTS:
        die_in(*POINTS[when])
    elif when:
        signal.setitimer(signal.ITIMER_REAL, float(when))
    if when:
        loader.load()

url, data, log, pipelines = sys.argv[1:]
warm_up()
while True:
    orders, desk = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(desk)
        run(orders)
        os._exit(0)
    os.close(orders)
    when = sys.stdin.readline().strip()
    os.write(desk, when.encode())
    os.close(desk)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not when:
        break
    print(status, flush=True)
"""

AFTER_COMMIT = ("committed", "told the log")
BEFORE_COMMIT = (
    "extracted",
    "normalized",
    "first table written",
    "second table written",
    "before mark",
    "marked",
    "position written",
)
POINTS = (*BEFORE_COMMIT, *AFTER_COMMIT)


@pytest.mark.long
def test_kill_anywhere_loses_nothing(
    lake: Lake,
    log: EventLog,
    tmp_path: Path,
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "cwd").mkdir()
    rng = random.Random(7)
    sent: dict[int, str] = {}

    def append(count: int) -> None:
        start = len(sent)
        # Quarantine ends some batches and events others: neither table alone knows the position.
        kinds = [rng.random() < 0.2 for _ in range(count)]
        log.append(
            [quarantined(start + i) if bad else record(start + i) for i, bad in enumerate(kinds)]
        )
        sent.update({start + i: f"m{start + i}" for i in range(count)})

    with subprocess.Popen(
        [
            *(sys.executable, "-c", CHILDREN, lake.catalog_url, lake.data_path),
            *(str(log.directory), str(lake.pipelines_dir)),
        ],
        cwd=tmp_path / "cwd",
        env={"HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as children:
        assert children.stdin is not None
        assert children.stdout is not None
        watcher = new_loader(lake, log.directory)
        for when in [*POINTS, *(f"{rng.random():.3f}" for _ in range(6))]:
            append(500)
            before = watcher.position()
            children.stdin.write(when + "\n")
            children.stdin.flush()
            status = int(children.stdout.readline())
            if when in POINTS:
                assert status == -signal.SIGKILL, when
                expected = len(sent) if when in AFTER_COMMIT else before
                assert watcher.position() == expected, when
                told = len(sent) if when == "told the log" else before
                assert loaded_end(log.directory) == told, when
            else:
                assert status in (0, -signal.SIGALRM)
        watcher.close()

    loader = new_loader(lake, log.directory)
    loader.load()
    loader.close()
    rows = query(
        lake,
        "select log_seq, message_id, payload from raw.events union all "
        "select log_seq, message_id, payload from raw.quarantine",
    )
    assert {(seq, message_id) for seq, message_id, _ in rows} == set(sent.items())
    assert len(rows) == len(sent)  # rows and position are one commit: nothing is loaded twice
    assert [path.name for path in (tmp_path / "home").iterdir()] == [".duckdb"]
    assert list((tmp_path / "cwd").iterdir()) == []
