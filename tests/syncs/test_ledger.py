from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import duckdb
import pytest
from syncs_support import alerts, contacts, contacts_spec, message_spec

from syncs.claims import Action, LookBack, backoff
from syncs.ledger import Ledger, LedgerError, SyncBusy
from syncs.plan import plan_sync
from syncs.policies import Verdict
from syncs.results import RowResult
from syncs.spec import SyncSpec


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
