from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa
from syncs_support import alerts, contacts, contacts_spec, message_spec

from syncs import operations
from syncs.claims import Action, LookBack, backoff
from syncs.ledger import Ledger, LedgerError, SyncBusy, action_key
from syncs.plan import Plan, plan_sync
from syncs.policies import Verdict
from syncs.results import RowResult
from syncs.spec import SyncSpec
from syncs.tables import metadata


def record(ledger: Ledger, lake: duckdb.DuckDBPyConnection, spec: SyncSpec) -> dict[str, int]:
    plan = plan_sync(
        lake, spec, ledger.known(spec), now=datetime.now(UTC), began_at=ledger.began_at()
    )
    ledger.record(spec, plan, repeatable=not spec.is_message, read_at=ledger.now())
    plan.close()
    return plan.counts


def willing(due: Sequence[Action], look_back: LookBack) -> dict[str, Verdict]:
    return {}


def test_setup_by_many_processes_at_once(ledger_url: str) -> None:
    failures: list[Exception] = []

    def ensure() -> None:
        try:
            Ledger(ledger_url).ensure()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ensure) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_unreachable_ledger_says_so_without_its_password() -> None:
    with pytest.raises(LedgerError) as caught:
        Ledger("postgresql://user:hunter22@127.0.0.1:1/x").ensure()
    assert "hunter22" not in str(caught.value) and caught.value.__cause__ is None


def test_a_ledger_that_is_not_set_up_says_so(ledger_url: str) -> None:
    with pytest.raises(LedgerError, match="not set up"):
        Ledger(ledger_url).began_at()


def test_a_delivered_row_is_unchanged_until_it_changes(
    ledger: Ledger, lake: duckdb.DuckDBPyConnection
) -> None:
    spec = contacts_spec()
    contacts(lake, {"a@x.example": 0.1, "NA": 0.2})
    assert record(ledger, lake, spec) == {"create": 2}
    assert record(ledger, lake, spec) == {"waiting": 2}
    with ledger.worker(spec.name) as worker:
        batch = worker.claim(spec, 10, willing)
        assert [a.row_key for a in batch.send] and len(batch.send) == 2
        assert ledger.counts(spec.name) == {"sending": 2}
        assert worker.claim(spec, 10, willing).send == []
        results = [RowResult.delivered(200), RowResult.rejected("bad", 400)]
        worker.settle(spec, batch, results, [0.0, 60.0])
    assert ledger.counts(spec.name) == {"delivered": 1, "rejected": 1}
    assert record(ledger, lake, spec) == {"unchanged": 1, "rejected": 1}
    delivered = batch.send[0]
    assert ledger.held_rows([a.action_key for a in batch.send]) == {
        delivered.action_key: (delivered.row_key, delivered.payload)
    }
    with ledger.worker(spec.name) as worker:
        assert worker.claim(spec, 10, willing).send == []


def test_the_newest_payload_replaces_a_waiting_one(
    ledger: Ledger, lake: duckdb.DuckDBPyConnection
) -> None:
    spec = contacts_spec()
    contacts(lake, {"a@x.example": 0.1})
    record(ledger, lake, spec)
    contacts(lake, {"a@x.example": 0.2})
    record(ledger, lake, spec)
    with ledger.worker(spec.name) as worker:
        batch = worker.claim(spec, 10, willing)
        assert [action.payload["score"] for action in batch.send] == [0.2]
        # While it is on its way nothing replaces it; afterwards the difference is found.
        contacts(lake, {"a@x.example": 0.3})
        assert record(ledger, lake, spec) == {"in_flight": 1}
        worker.settle(spec, batch, [RowResult.delivered()], [0.0])
    assert record(ledger, lake, spec) == {"update": 1}


def test_a_row_that_left_the_model_is_not_sent_and_may_come_back(
    ledger: Ledger, lake: duckdb.DuckDBPyConnection
) -> None:
    spec = contacts_spec()
    contacts(lake, {"a@x.example": 0.1})
    record(ledger, lake, spec)
    contacts(lake, {})
    assert record(ledger, lake, spec) == {"gone": 1}
    assert ledger.counts() == {"suppressed": 1}
    assert ledger.suppressed_customers(spec.name) == []
    contacts(lake, {"a@x.example": 0.1})
    assert record(ledger, lake, spec) == {"create": 1}
    assert ledger.counts() == {"planned": 1}


def test_withheld_actions_are_never_sending(
    ledger: Ledger, lake: duckdb.DuckDBPyConnection
) -> None:
    spec = message_spec()
    alerts(lake, ["a", "b"])
    record(ledger, lake, spec)
    seen: dict[str, int] = {}

    def judge(due: Sequence[Action], look_back: LookBack) -> dict[str, Verdict]:
        seen.update(ledger.counts())
        return {due[0].action_key: Verdict("suppressed", "consent", "no consent for sales")}

    with ledger.worker(spec.name) as worker:
        batch = worker.claim(spec, 10, judge)
        assert seen == {"planned": 2}
        assert (len(batch.send), batch.withheld) == (1, {"suppressed": 1})

        def broken(due: Sequence[Action], look_back: LookBack) -> dict[str, Verdict]:
            raise RuntimeError

        worker.settle(spec, batch, [RowResult.retrying("later")], [0.0])
        with pytest.raises(RuntimeError):
            worker.claim(spec, 10, broken)
    assert ledger.counts() == {"suppressed": 1, "retrying": 1}


def test_two_workers_never_hold_the_same_action(
    ledger: Ledger, lake: duckdb.DuckDBPyConnection
) -> None:
    spec = message_spec()
    alerts(lake, [str(n) for n in range(60)])
    record(ledger, lake, spec)
    taken: list[str] = []

    def work() -> None:
        with ledger.worker(spec.name, alone=False) as worker:
            while batch := worker.claim(spec, 3, willing).send:
                taken.extend(action.action_key for action in batch)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # An empty claim may only mean that others held the last rows for an instant.
    work()
    assert len(taken) == len(set(taken)) == 60


def test_a_sync_is_run_by_one_at_a_time(ledger: Ledger) -> None:
    with ledger.worker("a"), ledger.worker("b"), pytest.raises(SyncBusy), ledger.worker("a"):
        pass
    with ledger.worker("a"):
        pass


def test_a_run_that_has_ended_leaves_a_session_without_locks(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="broke"), ledger.worker("a"):
        raise ValueError("broke")
    with ledger.engine.connect() as session:
        own = sa.text("select pid, locktype from pg_locks where pid = pg_backend_pid()")
        kept = session.execute(own).all()
    with ledger.worker("a"), ledger.engine.connect() as another:
        assert kept and "advisory" not in {lock.locktype for lock in kept}
        held = sa.text(
            "select pid from pg_locks join pg_database on pg_locks.database = pg_database.oid"
            " where locktype = 'advisory' and datname = current_database()"
        )
        assert set(another.scalars(held)) == {kept[0].pid}, "the next run takes the session up"


@pytest.mark.parametrize(("repeatable", "state"), [(True, "retrying"), (False, "unknown")])
def test_what_a_dead_worker_left(
    repeatable: bool, state: str, ledger: Ledger, lake: duckdb.DuckDBPyConnection
) -> None:
    spec = contacts_spec() if repeatable else message_spec()
    contacts(lake, {"a@x.example": 0.1})
    alerts(lake, ["a"])
    record(ledger, lake, spec)
    with ledger.worker(spec.name) as worker:
        batch = worker.claim(spec, 10, willing)
        assert ledger.recover() == {}, "its worker lives"
    assert ledger.recover() == {state: 1}
    assert ledger.recover() == {}
    # The answer came after all: what is known now replaces `unknown`, but not another's turn.
    worker.settle(spec, batch, [RowResult.delivered(200)], [0.0])
    assert ledger.counts() == {"retrying" if repeatable else "delivered": 1}


def test_an_uncertain_value_is_sent_again_even_when_the_model_goes_back(
    ledger: Ledger, lake: duckdb.DuckDBPyConnection
) -> None:
    spec = contacts_spec()
    contacts(lake, {"a@x.example": 0.1})
    record(ledger, lake, spec)
    with ledger.worker(spec.name) as worker:
        worker.settle(spec, worker.claim(spec, 1, willing), [RowResult.delivered()], [0.0])
        contacts(lake, {"a@x.example": 0.2})
        record(ledger, lake, spec)
        worker.settle(spec, worker.claim(spec, 1, willing), [RowResult.retrying("?")], [0.0])
    contacts(lake, {"a@x.example": 0.1})
    assert record(ledger, lake, spec) == {"update": 1}


def test_the_beginning_can_be_moved(ledger: Ledger, lake: duckdb.DuckDBPyConnection) -> None:
    ledger.begin_at(datetime.now(UTC) + timedelta(hours=2))
    alerts(lake, ["a"])
    assert record(ledger, lake, message_spec()) == {"suppressed": 1}


def test_a_hundred_thousand_rows(ledger: Ledger, lake: duckdb.DuckDBPyConnection) -> None:
    spec = contacts_spec()
    lake.execute(
        "create table health as select i || '@x.example' as email, i / 7 as score,"
        " 'c' || i as customer_id from range(100000) t(i)"
    )
    assert record(ledger, lake, spec) == {"create": 100_000}
    assert record(ledger, lake, spec) == {"waiting": 100_000}


def test_backoff_grows_to_its_cap() -> None:
    waits = [backoff(n, base=1, cap=60) for n in range(1, 50)]
    assert 0.5 <= waits[0] <= 1 and all(wait <= 60 for wait in waits) and min(waits[10:]) >= 30


def states(ledger: Ledger, columns: str = "state") -> dict[str, Any]:
    with ledger.engine.connect() as connection:
        rows = connection.exec_driver_sql(f"select row_key, {columns} from actions").all()
    return {row[0]: row[1] if len(row) == 2 else tuple(row[1:]) for row in rows}


def send(ledger: Ledger, spec: SyncSpec, *results: RowResult, **options: Any) -> Sequence[Action]:
    """Claim what is due, and settle it with these results in order; the last one for the rest."""
    with ledger.worker(spec.name) as worker:
        batch = worker.claim(spec, 100, willing)
        told = [results[min(n, len(results) - 1)] for n in range(len(batch.send))]
        worker.settle(spec, batch, told, [3600.0] * len(told), **options)
        return batch.send


def test_version_1_becomes_the_present_version_in_place(ledger_url: str) -> None:
    engine = sa.create_engine(ledger_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(Path(__file__).with_name("ledger_v1.sql").read_text())
    ledger = Ledger(ledger_url)
    ledger.ensure()
    ledger.ensure()
    assert ledger.began_at() == datetime(2026, 1, 1, tzinfo=UTC)
    assert states(ledger, "held, leave") == {
        "a@x.example": (True, False),
        "b@x.example": (False, False),
        "c@x.example": (True, False),
        "d@x.example": (False, False),
        "t": (False, False),
    }
    assert operations.waive(ledger, "hubspot__health", key="b@x.example") == 1
    made = {table.name: set(table.columns.keys()) for table in metadata.sorted_tables}
    kept = sa.inspect(engine)
    for name, columns in made.items():
        assert {column["name"] for column in kept.get_columns(name)} == columns
    with engine.begin() as connection:
        connection.exec_driver_sql("update ledger_info set version = 99")
    with pytest.raises(LedgerError, match="update it"):
        ledger.ensure()
    ledger.close()
    engine.dispose()


def test_what_was_read_earlier_never_replaces_what_was_read_later(
    ledger: Ledger, lake: duckdb.DuckDBPyConnection
) -> None:
    """Two processes, and the slower one has read the older model."""
    spec = contacts_spec()

    def read() -> tuple[Plan, datetime]:
        moment = ledger.now()
        known = ledger.known(spec)
        return plan_sync(lake, spec, known, now=moment, began_at=moment), moment

    contacts(lake, {"a@x.example": 0.1})
    older, earlier = read()
    contacts(lake, {"a@x.example": 0.2})
    newer, later = read()
    ledger.record(spec, newer, repeatable=True, read_at=later)
    ledger.record(spec, older, repeatable=True, read_at=earlier)
    assert [action.payload["score"] for action in send(ledger, spec, RowResult.delivered())] == [
        0.2
    ]
    # Nor does it after the newer one has arrived.
    ledger.record(spec, older, repeatable=True, read_at=earlier)
    assert ledger.counts() == {"delivered": 1}


def test_joins_and_leaves_are_not_mixed_and_fit_the_destination(
    ledger: Ledger, lake: duckdb.DuckDBPyConnection
) -> None:
    spec = contacts_spec(mode="mirror")
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(10)})
    record(ledger, lake, spec)
    send(ledger, spec, RowResult.delivered())
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(5, 15)})
    assert record(ledger, lake, spec) == {"create": 5, "leave": 5, "unchanged": 5}
    with ledger.worker(spec.name) as worker:
        batches = [worker.claim(spec, 100, willing) for _ in range(3)]
        assert [len(batch.send) for batch in batches] == [5, 5, 0]
        assert all(len({action.leave for action in batch.send}) <= 1 for batch in batches)
        (leaving,) = [batch for batch in batches if batch.send and batch.send[0].leave]
        assert leaving.send[0].payload.keys() == {"email", "score"}, "what identifies the row"
        worker.settle(spec, leaving, [RowResult.delivered()] * 5, [0.0] * 5)
    assert ledger.recover() == {"retrying": 5}
    assert record(ledger, lake, spec) == {"unchanged": 5, "waiting": 5}
    with ledger.worker(spec.name) as worker:
        # A payload has 33 bytes.
        assert len(worker.claim(spec, 100, willing, max_bytes=80).send) == 2
        assert len(worker.claim(spec, 100, willing, max_bytes=1).send) == 1
        assert [a.row_key for a in worker.claim(spec, 9, willing, only="14@x.example").send] in (
            [], ["14@x.example"]
        )  # fmt: skip


def test_a_row_that_reached_nobody_needs_not_leave(
    ledger: Ledger, lake: duckdb.DuckDBPyConnection
) -> None:
    spec = contacts_spec(mode="mirror")
    results = {
        "refused": RowResult.rejected("no"),
        "held": RowResult.retrying("?"),
        "unsent": RowResult.retrying("closed"),
    }
    for name, result in results.items():
        contacts(lake, {name: 0.1})
        record(ledger, lake, spec)
        send(ledger, spec, result,
             without_effect=[action_key(spec.name, "unsent")])  # fmt: skip
    contacts(lake, {})
    record(ledger, lake, spec)
    assert states(ledger, "state, leave") == {
        "refused": ("suppressed", False),
        "held": ("planned", True),
        "unsent": ("suppressed", False),
    }


def test_attempts_say_how_long_they_took(ledger: Ledger, lake: duckdb.DuckDBPyConnection) -> None:
    spec = contacts_spec()
    contacts(lake, {"a@x.example": 0.1})
    record(ledger, lake, spec)
    key = action_key(spec.name, "a@x.example")
    (sent,) = send(ledger, spec, RowResult.rejected("no", 400), latencies={key: 12})
    with ledger.engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "select action_key, payload_hash, outcome, reason, status_code, latency_ms"
            " from attempts"
        ).all()
    assert [tuple(row) for row in rows] == [(key, sent.payload_hash, "rejected", "no", 400, 12)]


def test_retry_and_waive(ledger: Ledger, lake: duckdb.DuckDBPyConnection) -> None:
    spec = message_spec()
    alerts(lake, ["a", "b", "c", "d"])
    record(ledger, lake, spec)
    outcomes = RowResult.rejected("no"), RowResult.unknown("?"), RowResult.retrying("later")
    send(ledger, spec, *outcomes, RowResult.delivered())
    assert operations.retry(ledger, spec.name) == (2, 1, 0)
    assert ledger.counts() == {"planned": 2, "unknown": 1, "delivered": 1}
    assert operations.retry(ledger, spec.name, unknown=True) == (1, 0, 0)
    assert operations.waive(ledger, spec.name, reason="told by phone") == 3
    assert ledger.counts() == {"waived": 3, "delivered": 1}
    assert record(ledger, lake, spec) == {"known": 4}, "a message is never derived again"
    assert operations.retry(ledger, spec.name) == (0, 0, 0)
    some = next(key for key, state in states(ledger).items() if state == "waived")
    assert operations.retry(ledger, spec.name, key=some) == (1, 0, 0)


def test_a_waived_row_rests_until_it_changes(
    ledger: Ledger, lake: duckdb.DuckDBPyConnection
) -> None:
    spec = contacts_spec()
    contacts(lake, {"a@x.example": 0.1})
    record(ledger, lake, spec)
    send(ledger, spec, RowResult.rejected("no"))
    operations.waive(ledger, spec.name)
    assert record(ledger, lake, spec) == {"waived": 1}
    assert ledger.next_due(spec.name) is None
    contacts(lake, {"a@x.example": 0.2})
    assert record(ledger, lake, spec) == {"create": 1}
    assert ledger.counts() == {"planned": 1}


def test_retention_forgets_content_and_not_what_was_sent(
    ledger: Ledger, lake: duckdb.DuckDBPyConnection
) -> None:
    spec, messages = contacts_spec(mode="mirror"), message_spec()
    contacts(lake, {"held@x.example": 0.1, "left@x.example": 0.1})
    alerts(lake, ["a"])
    for declared in (spec, messages):
        record(ledger, lake, declared)
        send(ledger, declared, RowResult.delivered())
    contacts(lake, {"held@x.example": 0.1})
    record(ledger, lake, spec)
    send(ledger, spec, RowResult.delivered())
    for _ in range(2):
        ledger.record_run(sync=spec.name, destination="x", sandbox=True, status="done",
                          message=None, counts={"rows": 1}, started_at=ledger.now())  # fmt: skip
    assert operations.trim(ledger, 1) == {"payloads": 0, "attempts": 0, "runs": 0}
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("update actions set updated_at = now() - interval '2 days'")
        connection.exec_driver_sql("update attempts set finished_at = now() - interval '2 days'")
        connection.exec_driver_sql("update sync_runs set finished_at = now() - interval '2 days'")
    assert operations.trim(ledger, 1) == {"payloads": 3, "attempts": 4, "runs": 1}
    assert operations.trim(ledger, 1) == {"payloads": 0, "attempts": 0, "runs": 0}
    assert ledger.usual_rows(spec.name) == 1
    assert record(ledger, lake, messages) == {"known": 1}
    contacts(lake, {})
    assert record(ledger, lake, spec) == {"leave": 1}
    (leaving,) = send(ledger, spec, RowResult.delivered())
    assert leaving.payload["email"] == "held@x.example"
    with pytest.raises(LedgerError, match="more than 0"):
        operations.trim(ledger, 0)


def test_a_restored_ledger_sends_fields_again_and_no_message(
    ledger: Ledger, lake: duckdb.DuckDBPyConnection
) -> None:
    spec, messages = contacts_spec(mode="mirror"), message_spec()
    contacts(lake, {"same@x.example": 0.1, "left@x.example": 0.1})
    alerts(lake, ["waiting"])
    record(ledger, lake, spec)
    record(ledger, lake, messages)
    send(ledger, spec, RowResult.delivered())
    # The backup is from now. What follows is not in it: new messages, one who left.
    lake.execute("update alerts set fired_at = now()")
    assert operations.restored(ledger) == {"messages_unknown": 1, "rows_to_send": 2}
    lake.execute(
        "insert into alerts by name select 'c' as customer_id, 'sent since' as trigger_id,"
        " now() - interval 1 second as fired_at, now() + interval 1 hour as expires_at"
    )
    assert record(ledger, lake, messages) == {"known": 1, "suppressed": 1}
    contacts(lake, {"same@x.example": 0.1})
    assert record(ledger, lake, spec) == {"update": 1, "leave": 1}
    assert len(send(ledger, spec, RowResult.delivered())) == 1


def test_what_the_sandbox_took_counts_as_not_sent(
    ledger: Ledger, lake: duckdb.DuckDBPyConnection
) -> None:
    spec = contacts_spec()
    contacts(lake, {"a@x.example": 0.1})
    record(ledger, lake, spec)
    with ledger.worker(spec.name) as worker:
        batch = worker.claim(spec, 10, willing, sandbox=True)
        worker.settle(spec, batch, [RowResult.delivered()], [0.0])
    for sandbox, counts in ((True, {"unchanged": 1}), (False, {"create": 1})):
        known = ledger.known(spec, sandbox=sandbox)
        found = plan_sync(lake, spec, known, now=ledger.now(), began_at=ledger.began_at())
        assert found.counts == counts


def test_pauses(ledger: Ledger) -> None:
    assert ledger.pause_of("a") is None and not operations.resume(ledger, "a")
    operations.pause(ledger, "a", by="ann")
    operations.pause(ledger, "a", by="ben", reason="new template")
    assert "paused by ben" in str(ledger.pause_of("a"))
    assert "new template" in str(ledger.pause_of("a"))
    assert operations.overview(ledger)["a"]["pause"]["paused_by"] == "ben"
    assert operations.resume(ledger, "a") and ledger.pause_of("a") is None
