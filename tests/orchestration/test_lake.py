"""The lake's promises to its readers and writers, on the real lake and Postgres."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import duckdb
import psycopg2
import pytest

from orchestration import dbt, lake, postgres, warehouse
from orchestration.settings import Settings

HOLDER = """
import sys, time
from orchestration import lake
from orchestration.settings import load_settings
with lake.writer(load_settings(), "nightly build"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other_writer(settings: Settings):  # type: ignore[no-untyped-def]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_writer_is_told_who_is_first(
    settings: Settings, other_writer: subprocess.Popen[str]
) -> None:
    with (
        pytest.raises(lake.WriterBusy, match=rf"nightly build \(pid {other_writer.pid}\)"),
        lake.writer(settings, "test", wait_seconds=0),
    ):
        pass
    assert lake.current_writer(settings) == f"nightly build (pid {other_writer.pid})"


def test_a_killed_writer_leaves_no_lock(
    settings: Settings, other_writer: subprocess.Popen[str]
) -> None:
    other_writer.kill()
    with lake.writer(settings, "test", wait_seconds=10):
        pass
    assert lake.current_writer(settings) is None


def test_the_writer_may_nest_and_use_threads(settings: Settings) -> None:
    seen: list[str | None] = []

    def nested() -> None:
        with lake.writer(settings, "inner", wait_seconds=0):
            seen.append(lake.current_writer(settings))

    with lake.writer(settings, "outer"):
        thread = threading.Thread(target=nested)
        thread.start()
        thread.join()
        assert lake.current_writer(settings) == seen[0]
    assert seen[0] is not None
    assert seen[0].startswith("outer")
    assert lake.current_writer(settings) is None


def test_what_does_not_fit_in_memory_spills_into_the_home_and_goes(settings: Settings) -> None:
    left = settings.home / "spill" / "4194304-0"  # of a process that is gone
    left.mkdir(parents=True)
    query = "select md5(i::varchar) as digest from range(1500000) as t (i) order by digest"
    with (
        lake.connect(settings, read_only=False) as one,
        lake.connect(settings, read_only=False) as other,
    ):
        for connection in (one, other):
            connection.execute("set memory_limit = '40MB'")
            connection.execute("set threads = 1")
        held = [connection.execute(query) for connection in (one, other)]
        spilled = {file.parent for file in (settings.home / "spill").glob("*/*")}
        assert len(spilled) == 2, "each has its own"
        first, second = (rows.fetchone() for rows in held)
        assert first == second
    assert not any(directory.exists() for directory in spilled)
    lake.maintain(settings, {})
    assert not left.exists()


def test_readers_see_whole_commits_while_a_writer_writes(settings: Settings) -> None:
    with lake.connect(settings, read_only=False) as writing, lake.connect(settings) as reading:
        writing.execute("create or replace table pairs (a int, b int)")
        for number in range(10):
            writing.execute("begin")
            writing.execute("insert into pairs values (?, 0)", [number])
            assert reading.execute("select count(*) from pairs").fetchone() == (2 * number,)
            writing.execute("insert into pairs values (?, 1)", [number])
            writing.execute("commit")
        assert reading.execute("select count(*) from pairs").fetchone() == (20,)


def test_maintenance_keeps_the_rows(settings: Settings) -> None:
    with lake.connect(settings, read_only=False) as connection:
        connection.execute("create or replace table kept (n int)")
        for number in range(20):
            connection.execute("insert into kept values (?)", [number])
        connection.execute("delete from kept where n % 2 = 0")
    with lake.writer(settings, "test"):
        report = lake.maintain(settings, {})
    with lake.connect(settings) as connection:
        rows = connection.execute("select n from kept order by n").fetchall()
    assert rows == [(number,) for number in range(1, 20, 2)]
    assert set(report) == {
        "tables_rewritten", "tables_merged", "snapshots_expired", "files_removed"
    }  # fmt: skip


def test_maintenance_keeps_one_snapshot_of_each_hour_and_what_a_model_was_built_from(
    settings: Settings,
) -> None:
    hour = "date_trunc('hour', now()) - interval '3 hours'"
    latest = "select max(snapshot_id) from ducklake_snapshots('lake')"
    move = "update ducklake_snapshot set snapshot_time = {} where snapshot_id <= %s"
    with lake.connect(settings, read_only=False) as connection:
        connection.execute(
            f"create or replace table build_watermarks as select 'a_model' as model,"
            f" {hour} + interval '15 minutes' as built_at"
        )
        connection.execute("create or replace table thinned (n int)")
        ends = []
        for number in range(4):
            connection.execute("insert into thinned values (?)", [number])
            ends += connection.execute(latest).fetchall()[0]
        first, _, third, last = ends
        with closing(psycopg2.connect(postgres.start(settings).lake)) as session, session:
            session.cursor().execute(move.format(f"{hour} + interval '20 minutes'"), [third])
            session.cursor().execute(move.format(f"{hour} + interval '10 minutes'"), [first])
        lake.maintain(settings, {})
        kept = connection.execute("select snapshot_id from ducklake_snapshots('lake')").fetchall()
        assert sorted(number for (number,) in kept if number <= last) == [first, third, last]
        for version, rows in ((first, 1), (third, 3)):
            seen = connection.execute(f"select count(*) from thinned at (version => {version})")
            assert seen.fetchone() == (rows,)
        connection.execute("drop table build_watermarks")


def test_maintenance_lets_a_waiting_writer_in_between_two_tables(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lake.connect(settings, read_only=False) as connection:
        for name in ("one", "two", "three"):
            connection.execute(f"create or replace table waited_{name} (n int)")
    began, ended = threading.Event(), threading.Event()
    reports = []

    def maintain() -> None:
        reports.append(lake.maintain(settings, {}))
        ended.set()

    # The lock belongs to the process: what waits for it is another one.
    taken = lake._lock

    def lock(*arguments: object) -> object:
        session = taken(*arguments)  # type: ignore[arg-type]
        began.set()
        return session

    monkeypatch.setattr(lake, "_lock", lock)
    thread = threading.Thread(target=maintain)
    thread.start()
    assert began.wait(30)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    monkeypatch.setattr(lake, "LOCK_POLL_SECONDS", 3.0)  # long enough to see it
    assert process.stdout.readline() == "held\n"
    assert not ended.is_set()
    monkeypatch.setattr(lake, "LOCK_POLL_SECONDS", 0.01)
    process.kill()
    process.wait()
    thread.join(120)
    assert reports


def test_models_lie_in_small_parts_by_the_columns_they_are_looked_up_by(settings: Settings) -> None:
    warehouse.ensure(settings)
    rows = lake.ROW_GROUP_ROWS
    with lake.connect(settings, read_only=False) as connection:
        connection.execute("create or replace table visits (customer int, visit int)")
        for number in range(3):
            connection.execute(
                f"insert into visits select hash(n) % 100, {number} from range({rows}) as t (n)"
            )
    with lake.writer(settings, "test"):
        for _ in range(2):
            lake.maintain(settings, {"visits": ["customer", "visit"], "not_built_yet": ["id"]})
    with lake.connect(settings) as connection:
        files = connection.execute(
            "select data_file from ducklake_list_files('lake', 'visits')"
        ).fetchall()
        assert len(files) == 1
        (file,) = files[0]
        kept = connection.execute(f"select customer, visit from '{file}'").fetchall()
        groups = connection.execute(
            f"select count(distinct row_group_id) from parquet_metadata('{file}')"
        ).fetchone()
    assert len(kept) == 3 * rows and kept == sorted(kept)
    assert groups == (3,)


def test_a_tables_files_and_their_bounds_are_found_by_indexes(settings: Settings) -> None:
    warehouse.ensure(settings)
    lake.ensure_layout(settings)
    with closing(psycopg2.connect(postgres.start(settings).lake)) as session:
        cursor = session.cursor()
        cursor.execute("set enable_seqscan = off")
        for table, columns in lake.CATALOG_INDEXES.items():
            condition = " and ".join(f"{column} = 1" for column in columns.split(", "))
            cursor.execute(f"explain select * from {table} where {condition}")
            assert f"{table}_by_table" in str(cursor.fetchall())


REFUSED = [
    "insert into raw.events (log_seq) values (1)",
    "drop table raw.events",
    "select * from read_csv('/etc/hostname')",
    "select * from read_text('/etc/hostname')",
    "copy (select 1) to 'out.csv'",
    "attach 'other.duckdb'",
    "install httpfs",
    "set enable_external_access = true",
    "call postgres_execute('__ducklake_metadata_lake', 'drop table ducklake_table')",
    "select * from postgres_query('__ducklake_metadata_lake', "
    "'select pg_read_file(''/etc/hostname'')')",
]


def test_a_table_that_is_made_anew_is_another_generation(settings: Settings) -> None:
    """What a reader learns, in a connection that stays open; neither rows nor maintenance count."""
    with lake.connect(settings, read_only=False) as writing, lake.connect(settings) as reading:
        writing.execute("create or replace table models (n int)")
        seen = [lake.generation(reading, ["models"])]
        writing.execute("insert into models values (1)")
        writing.execute("insert into models values (2)")
        writing.execute("call ducklake_merge_adjacent_files('lake')")
        seen.append(lake.generation(reading, ["models"]))
        writing.execute("create table fresh as from models")
        writing.execute("begin")
        writing.execute("alter table models rename to old")
        writing.execute("alter table fresh rename to models")
        writing.execute("drop table old")
        writing.execute("commit")
        seen.append(lake.generation(reading, ["models"]))
    assert seen[0] and seen[0] == seen[1] != seen[2]


def test_adhoc_sql_reads_the_lake_and_nothing_else(settings: Settings, tmp_path: Path) -> None:
    warehouse.ensure(settings)
    connection = lake.connect_guarded(settings)
    assert connection.execute("select count(*) from raw.events").fetchone() == (0,)
    for query in REFUSED:
        with pytest.raises(duckdb.Error):
            connection.execute(query).fetchall()


def test_dbt_lets_go_of_the_lock_with_whoever_ran_it(settings: Settings) -> None:
    with lake.writer(settings, "outer"):
        dbt.invoke(["seed"], settings)
        assert lake.is_writer()
    assert not lake.is_writer()
    assert lake.current_writer(settings) is None
