"""Policies with a real ledger and a real vendor: what leaves, what waits, what is written down."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import sqlalchemy as sa
from syncs_support import FAST, Reply, Request, Vendor, alerts, facts, webhook_spec

from syncs.destinations import Sandbox
from syncs.http import Http
from syncs.ledger import Ledger, actions
from syncs.policies import Cap, Holdout, Policies, QuietHours
from syncs.push import Pusher

Lake = duckdb.DuckDBPyConnection
DAY = timedelta(days=1)
DAILY = Cap(1, DAY)


def mailer(ledger: Ledger, vendor: Vendor, **caps: Cap) -> Pusher:
    return Pusher(
        ledger,
        sandbox=Sandbox(url=vendor.url),
        env_file=None,
        http=Http(timeouts=(2.0, 2.0)),
        pace=replace(FAST, retry_base=60.0, retry_cap=60.0),
        channel_caps=caps,
    )


def messages(lake: Lake, table: str, customers: list[str], *, trigger: str = "t") -> None:
    lake.execute(
        f"create or replace table {table} as"
        " select c as customer_id, $trigger as trigger_id,"
        " now() + interval 1 second as fired_at, now() + interval 1 day as expires_at,"
        " '#care' as channel, c || '@x.example' as words from (select unnest($customers) as c)",
        {"trigger": trigger, "customers": customers},
    )


def received(vendor: Vendor) -> Counter[str]:
    return Counter(request.json["data"]["words"] for request in vendor.requests)


def outcomes(ledger: Ledger, sync: str) -> dict[str, tuple[str, str | None]]:
    query = sa.select(actions.c.customer_id, actions.c.state, actions.c.policy)
    with ledger.engine.connect() as connection:
        found = connection.execute(query.where(actions.c.sync == sync)).all()
    return {row[0]: (row[1], row[2]) for row in found}


def let_time_pass(ledger: Ledger) -> None:
    with ledger.engine.begin() as connection:
        waiting = actions.c.next_attempt_at.is_not(None)
        connection.execute(actions.update().where(waiting).values(next_attempt_at=sa.func.now()))


def test_two_processes_never_exceed_a_cap_together(
    ledger: Ledger, ledger_url: str, vendor: Vendor, lake: Lake
) -> None:
    """Two syncs on one channel, each with a message for the same people, at the same time."""
    customers = [f"c{number}" for number in range(25)]
    reader = facts(lake)
    specs = []
    for name in ("one", "two"):
        messages(lake, name, customers)
        policies = Policies(channel="email")
        specs.append(webhook_spec(name=f"webhook__{name}", relation=name, policies=policies))
    start = threading.Barrier(2)
    ledgers = [Ledger(ledger_url), Ledger(ledger_url)]

    def run(number: int) -> None:
        cursor = lake.cursor()
        start.wait()
        mailer(ledgers[number], vendor, email=DAILY).run(specs[number], cursor, facts=reader)

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own in ledgers:
        own.close()
    assert received(vendor) == {f"{customer}@x.example": 1 for customer in customers}
    states = ledger.counts()
    assert states == {"delivered": 25, "suppressed": 25}


def test_no_process_looks_back_while_another_decides(
    ledger: Ledger, vendor: Vendor, lake: Lake
) -> None:
    """The second is told the history only when the first has committed, and then sees it."""
    pusher, specs = mailer(ledger, vendor), []
    for name in ("one", "two"):
        messages(lake, name, ["ann"])
        specs.append(
            webhook_spec(
                name=f"webhook__{name}",
                relation=name,
                policies=Policies(channel="email", consent="unreadable"),
            )
        )
        assert pusher.run(specs[-1], lake).status == "paused", "planned, nothing sent"
    deciding, told = threading.Event(), threading.Event()
    seen: list[int] = []
    since = datetime.now(UTC) - DAY

    def first(due: Any, look_back: Any) -> dict[str, Any]:
        seen.append(len(look_back(since).messages))
        deciding.set()
        assert not told.wait(0.5), "both were told that there is room"
        return {}

    def second(due: Any, look_back: Any) -> dict[str, Any]:
        seen.append(len(look_back(since).messages))
        told.set()
        return {}

    def claim(spec: Any, judge: Any) -> None:
        with ledger.worker(spec.name) as worker:
            worker.claim(spec, 1, judge)

    threads = [threading.Thread(target=claim, args=(specs[0], first))]
    threads[0].start()
    assert deciding.wait(10)
    threads.append(threading.Thread(target=claim, args=(specs[1], second)))
    threads[1].start()
    for thread in threads:
        thread.join(10)
    assert seen == [0, 1]


def test_a_syncs_own_cap_and_what_counts_for_it(ledger: Ledger, vendor: Vendor, lake: Lake) -> None:
    pusher, spec = mailer(ledger, vendor), webhook_spec(policies=Policies(cap=DAILY))
    alerts(lake, ["a"])
    lake.execute("update alerts set customer_id = 'c'")
    vendor.play(Reply(400), Reply())
    assert pusher.run(spec, lake).sent == {"rejected": 1}
    lake.execute("update alerts set trigger_id = 'b'")
    assert pusher.run(spec, lake).sent == {"delivered": 1}, "a refused one was never received"
    lake.execute("update alerts set trigger_id = 'd'")
    assert pusher.run(spec, lake).sent == {"suppressed": 1}
    with ledger.engine.begin() as connection:
        connection.execute(actions.update().values(sent_at=actions.c.sent_at - DAY))
    lake.execute("update alerts set trigger_id = 'e'")
    assert pusher.run(spec, lake).sent == {"delivered": 1}


def test_quiet_hours_wait_for_the_customers_morning(
    ledger: Ledger, vendor: Vendor, lake: Lake
) -> None:
    now = datetime.now(UTC)
    begin, end = ((now + by).time().replace(microsecond=0) for by in (-2 * HOUR, 2 * HOUR))
    spec = webhook_spec(policies=Policies(quiet_hours=QuietHours(begin, end)))
    messages(lake, "alerts", ["here", "there", "nowhere"])
    pusher = mailer(ledger, vendor)
    reader = facts(lake, zones={"here": "UTC", "there": "Asia/Kolkata", "nowhere": "Narnia"})
    report = pusher.run(spec, lake, facts=reader)
    assert report.sent == {"delivered": 1, "later": 2}
    assert received(vendor) == {"there@x.example": 1}
    assert report.status == "partial" and "quiet hours" in (report.message or "")
    assert report.next_due_seconds is not None and 7000 < report.next_due_seconds <= 7200
    assert pusher.run(spec, lake, facts=reader).sent == {}
    # A postponed message is judged again when its time comes: by then both have moved.
    moved = facts(lake, zones={"here": "Asia/Kolkata", "nowhere": "Asia/Kolkata"})
    let_time_pass(ledger)
    assert pusher.run(spec, lake, facts=moved).sent == {"delivered": 2}
    assert set(outcomes(ledger, spec.name).values()) == {("delivered", None)}


HOUR = timedelta(hours=1)


def test_the_suppression_list_goes_by_address_and_by_person(
    ledger: Ledger, vendor: Vendor, lake: Lake
) -> None:
    spec = webhook_spec(policies=Policies(channel="email", address="words"))
    messages(lake, "alerts", ["Ann", "bob", "cem", "dot"])
    reader = facts(
        lake,
        listed=[
            ("email", "ann@x.example", None, "bounced"),
            ("email", None, "bob", "unsubscribed"),
            ("sms", "cem@x.example", None, "asked by phone"),
            ("sms", None, "cem", "asked by phone"),
        ],
    )
    report = mailer(ledger, vendor).run(spec, lake, facts=reader)
    assert report.sent == {"suppressed": 2, "delivered": 2}
    assert received(vendor) == {"cem@x.example": 1, "dot@x.example": 1}
    assert outcomes(ledger, spec.name)["Ann"] == ("suppressed", "suppression_list")


def test_who_is_held_out_is_written_down_and_counts_for_the_cap(
    ledger: Ledger, vendor: Vendor, lake: Lake
) -> None:
    holdout = Holdout(0.5, "g")
    customers = [f"c{number}" for number in range(20)]
    held = {customer for customer in customers if holdout.holds(customer)}
    spec = webhook_spec(policies=Policies(holdout=holdout, cap=DAILY))
    pusher = mailer(ledger, vendor)
    messages(lake, "alerts", customers)
    assert pusher.run(spec, lake).sent == {"suppressed": len(held), "delivered": 20 - len(held)}
    first = outcomes(ledger, spec.name)
    assert {name for name, (_, policy) in first.items() if policy == "holdout"} == held
    assert set(received(vendor)) == {f"{name}@x.example" for name in set(customers) - held}
    messages(lake, "alerts", customers, trigger="again")
    assert pusher.run(spec, lake).sent == {"suppressed": 20}
    with ledger.engine.connect() as connection:
        again = sa.select(actions.c.policy).where(actions.c.trigger_id == "again").distinct()
        assert connection.scalars(again).all() == ["cap"], "both groups start equally often"


def test_the_more_urgent_message_goes_first(ledger: Ledger, vendor: Vendor, lake: Lake) -> None:
    """One place is left: the news step back until the warning has left, and are then one too
    many. Where the warning is held back itself, the news go."""
    reader = facts(lake, granted=["ann"], purpose="warnings")
    messages(lake, "news", ["ann", "bob"])
    messages(lake, "warnings", ["ann", "bob"])
    news = webhook_spec(
        name="webhook__news", relation="news", policies=Policies(channel="email", priority=1)
    )
    warnings = webhook_spec(
        name="webhook__warnings",
        relation="warnings",
        policies=Policies(channel="email", priority=9, consent="warnings"),
    )
    pusher = mailer(ledger, vendor, email=DAILY)
    # Planned, and not yet sent: consent could not be read.
    assert pusher.run(warnings, lake, facts=None).status == "paused"
    assert pusher.run(news, lake, facts=reader).sent == {"later": 2}
    assert set(outcomes(ledger, news.name).values()) == {("planned", "priority")}
    assert pusher.run(warnings, lake, facts=reader).sent == {"delivered": 1, "suppressed": 1}
    let_time_pass(ledger)
    assert pusher.run(news, lake, facts=reader).sent == {"delivered": 1, "suppressed": 1}
    assert outcomes(ledger, news.name) == {
        "ann": ("suppressed", "cap"),
        "bob": ("delivered", None),
    }


def test_syncs_of_one_destination_run_by_priority(
    ledger: Ledger, vendor: Vendor, lake: Lake
) -> None:
    vendor.answer = lambda request: Reply()
    messages(lake, "alerts", ["ann"])
    specs = [
        webhook_spec(name=f"webhook__{name}", policies=Policies(channel="email", priority=priority))
        for name, priority in (("low", 0), ("high", 5), ("middle", 3))
    ]
    pusher = mailer(ledger, vendor, email=Cap(2, DAY))
    reports = pusher.run_all(specs, lake, facts=facts(lake))
    assert [report.sent for report in reports] == [
        {"suppressed": 1}, {"delivered": 1}, {"delivered": 1},
    ]  # fmt: skip


def test_a_message_that_may_have_been_seen_counts(
    ledger: Ledger, vendor: Vendor, lake: Lake
) -> None:
    """Unknown ends count, and so does a message that will be tried again; its own retry does
    not count against itself."""

    def answer(request: Request) -> Reply:
        return Reply(503) if len(vendor.requests) == 1 else Reply()

    vendor.answer = answer
    messages(lake, "one", ["ann"])
    messages(lake, "two", ["ann"])
    policies = Policies(channel="email")
    one = webhook_spec(name="webhook__one", relation="one", policies=policies)
    two = webhook_spec(name="webhook__two", relation="two", policies=policies)
    pusher, reader = mailer(ledger, vendor, email=DAILY), facts(lake)
    assert pusher.run(one, lake, facts=reader, retry_budget=0.0).sent == {"retrying": 1}
    assert pusher.run(two, lake, facts=reader).sent == {"suppressed": 1}
    let_time_pass(ledger)
    assert pusher.run(one, lake, facts=reader).sent == {"delivered": 1}


def test_a_dry_run_says_what_policies_would_do(ledger: Ledger, vendor: Vendor, lake: Lake) -> None:
    messages(lake, "alerts", ["ann", "bob"])
    policies = Policies(channel="email", address="words", quiet_hours=ALWAYS)
    reader = facts(lake, listed=[("email", "bob@x.example", None, "bounced")])
    spec = webhook_spec(policies=policies)
    preview = mailer(ledger, vendor).run(spec, lake, facts=reader, dry_run=True).preview
    assert preview is not None and preview.messages == []
    assert [item["reason"] for item in preview.suppressed] == ["on the suppression list: bounced"]
    assert [item["policy"] for item in preview.postponed] == ["quiet_hours"]
    assert vendor.requests == [] and ledger.counts() == {}


_NOW = datetime.now(UTC)
ALWAYS = QuietHours((_NOW - HOUR).time(), (_NOW + 20 * HOUR).time())


def test_the_warehouse_is_asked_for_many_at_once(
    ledger: Ledger, vendor: Vendor, lake: Lake
) -> None:
    """One message a request, and yet not one question each."""
    messages(lake, "alerts", [f"c{number}" for number in range(40)])
    reader = facts(lake, granted=[f"c{number}" for number in range(0, 40, 2)])
    asked: list[int] = []

    def counting(policies: Policies, recipients: Any) -> Any:
        asked.append(len(recipients))
        return reader(policies, recipients)

    spec = webhook_spec(policies=Policies(consent="marketing"))
    report = mailer(ledger, vendor).run(spec, lake, facts=counting)
    assert report.sent == {"delivered": 20, "suppressed": 20}
    assert asked == [40]


def test_a_ledger_of_the_version_before_is_brought_up(ledger_url: str, lake: Lake) -> None:
    ledger = Ledger(ledger_url)
    ledger.ensure()
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql(
            "alter table actions drop column policy, drop column channel, drop column priority;"
            "update ledger_info set version = 1"
        )
    ledger.ensure()
    ledger.ensure()
    with ledger.engine.connect() as connection:
        columns: Any = {column["name"] for column in sa.inspect(connection).get_columns("actions")}
        assert {"policy", "channel", "priority"} <= columns
        version = connection.exec_driver_sql("select version from ledger_info").all()
    assert version[0][0] >= 2
    ledger.close()
