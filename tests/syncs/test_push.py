from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from rich.console import Console
from syncs_support import (
    FAST,
    Reply,
    Request,
    Vendor,
    alerts,
    club_spec,
    contacts,
    contacts_spec,
    facts,
    make_pusher,
    message_spec,
    webhook_spec,
)

from syncs import destinations, operations
from syncs.facts import LakeFacts
from syncs.ledger import Ledger
from syncs.policies import Policies
from syncs.push import Pusher, Turns
from syncs.report import render_report
from syncs.spec import load_specs
from syncs.tables import lanes

Lake = duckdb.DuckDBPyConnection


def test_only_changes_leave_in_full_batches(pusher: Pusher, vendor: Vendor, lake: Lake) -> None:
    spec = contacts_spec()
    rows = {f"{n}@x.example": 0.1 for n in range(250)}
    contacts(lake, rows)
    seen: list[tuple[str, int, int]] = []
    report = pusher.run(spec, lake, progress=lambda *step: seen.append(step))
    assert (report.status, report.sent) == ("done", {"delivered": 250})
    assert report.sandbox and report.states == {"delivered": 250}
    assert [len(request.json["inputs"]) for request in vendor.requests] == [100, 100, 50]
    assert seen[-1] == (spec.name, 250, 250)
    assert pusher.run(spec, lake).sent == {}
    contacts(lake, rows | {"7@x.example": 0.9})
    assert pusher.run(spec, lake).planned == {"unchanged": 249, "update": 1}
    assert [row["id"] for row in vendor.requests[-1].json["inputs"]] == ["7@x.example"]


def test_a_refused_row_keeps_the_vendors_words_and_its_neighbours_arrive(
    pusher: Pusher, ledger: Ledger, vendor: Vendor, lake: Lake
) -> None:
    def answer(request: Request) -> Reply:
        ids = [row["id"] for row in request.json["inputs"]]
        if "13@x.example" in ids:
            return Reply(400, {"message": "Email address 13@x.example is invalid"})
        return Reply()

    vendor.answer = answer
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(20)})
    report = pusher.run(contacts_spec(), lake)
    assert report.sent == {"delivered": 19, "rejected": 1}
    with ledger._engine.connect() as connection:
        (reason,) = connection.exec_driver_sql(
            "select reason from actions where state = 'rejected'"
        ).one()
    assert "Email address ‹email› is invalid" in reason
    # It waits for its backoff, or for a new value.
    count = len(vendor.requests)
    pusher.run(contacts_spec(), lake)
    assert len(vendor.requests) == count
    vendor.play(Reply())
    contacts(lake, {f"{n}@x.example": 0.1 if n != 13 else 0.2 for n in range(20)})
    assert pusher.run(contacts_spec(), lake).sent == {"delivered": 1}


def test_a_run_ends_when_every_row_is_refused_and_not_when_every_second_is(
    pusher: Pusher, vendor: Vendor, lake: Lake
) -> None:
    step = 2

    def answer(request: Request) -> Reply:
        traces = [row["objectWriteTraceId"] for row in request.json["inputs"]][::step]
        words = {"category": "VALIDATION_ERROR", "message": "the sandbox has no such property"}
        errors = [words | {"context": {"objectWriteTraceId": [trace]}} for trace in traces]
        return Reply(207, {"numErrors": len(errors), "errors": errors, "results": []})

    vendor.answer = answer
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(200)})
    report = pusher.run(contacts_spec(), lake)
    assert (report.status, report.sent) == ("done", {"delivered": 100, "rejected": 100})
    step = 1
    contacts(lake, {f"{n}@x.example": 0.2 for n in range(200)})
    report = pusher.run(contacts_spec(), lake)
    assert report.status == "failed"
    assert "50 rows in a row" in (report.message or "")
    assert "the sandbox has no such property" in (report.message or "")
    assert report.states["planned"] > 0


def test_temporary_failures_are_retried_within_the_run(
    pusher: Pusher, vendor: Vendor, lake: Lake
) -> None:
    vendor.play(Reply(503), Reply(429, {}, {"Retry-After": "0.01"}), Reply(500), Reply())
    contacts(lake, {"a@x.example": 0.1})
    report = pusher.run(contacts_spec(), lake)
    assert (report.status, len(vendor.requests)) == ("done", 4)
    assert report.states == {"delivered": 1}


def test_a_long_retry_after_is_left_to_the_next_run(
    pusher: Pusher, vendor: Vendor, lake: Lake
) -> None:
    vendor.play(Reply(429, {}, {"Retry-After": "600"}))
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(150)})
    report = pusher.run(contacts_spec(), lake)
    assert report.status == "partial" and "asked to wait" in (report.message or "")
    assert len(vendor.requests) == 1, "the rest of the queue respects it too"
    assert report.states == {"planned": 50, "retrying": 100}
    assert report.sent == {"retrying": 100}
    with pusher.ledger.engine.connect() as connection:
        tries = connection.exec_driver_sql(
            "select state, attempts, sent_at is null, count(*), count(t.action_key)"
            " from actions a left join attempts t using (action_key) group by 1, 2, 3 order by 1"
        )
        assert tries.all() == [("planned", 0, True, 50, 0), ("retrying", 1, False, 100, 100)]
    assert pusher.run(contacts_spec(), lake).status == "partial"
    assert len(vendor.requests) == 1


def test_several_requests_are_under_way_but_never_two_for_a_key(
    pusher: Pusher, vendor: Vendor, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncs.sending.CLAIM_ROWS", 100)
    width = destinations.load("hubspot").concurrency
    # The first answers wait for each other: with fewer at once the barrier breaks.
    together = threading.Barrier(width, timeout=20)
    refusals = [Reply(429), Reply(503), Reply(500)]
    under_way: Counter[str] = Counter()
    most: list[int] = []
    mutex = threading.Lock()

    def answer(request: Request) -> Reply:
        keys = [row["id"] for row in request.json["inputs"]]
        with mutex:
            first = len(most) < width
            under_way.update(keys)
            most.append(max(under_way.values()))
        if first:
            together.wait()
        with mutex:
            under_way.subtract(keys)
            return refusals.pop() if refusals else Reply()

    vendor.answer = answer
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(width * 200)})
    report = pusher.run(contacts_spec(), lake)
    assert report.states == {"delivered": width * 200}
    assert report.sent == {"delivered": width * 200, "retrying": 300}
    assert not together.broken and max(most) == 1


def test_messages_and_mirrors_are_sent_one_request_after_the_other(
    pusher: Pusher,
    vendor: Vendor,
    lake: Lake,
    club: None,
    plain_template: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = destinations.load
    monkeypatch.setattr(
        "syncs.push.destinations.load", lambda name: replace(load(name), concurrency=4)
    )
    monkeypatch.setattr("syncs.sending.CLAIM_ROWS", 1)
    under_way = threading.Semaphore(1)
    alone: list[bool] = []

    def answer(request: Request) -> Reply:
        alone.append(under_way.acquire(blocking=False))
        time.sleep(0.005)
        under_way.release()
        return Reply(body={"ok": True})

    vendor.answer = answer
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(60)})
    alerts(lake, [str(n) for n in range(20)])
    assert pusher.run(club_spec(), lake).sent == {"delivered": 60}
    assert pusher.run(message_spec(template=plain_template), lake).sent == {"delivered": 20}
    assert len(alone) >= 23 and all(alone)


def test_one_broken_request_ends_all_that_are_under_way(
    pusher: Pusher, ledger: Ledger, vendor: Vendor, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncs.sending.CLAIM_ROWS", 200)
    vendor.play(Reply(), Reply(401, {"message": "expired token"}))
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(2000)})
    report = pusher.run(contacts_spec(), lake)
    assert report.status == "failed" and "expired token" in (report.message or "")
    width = destinations.load("hubspot").concurrency
    assert len(vendor.requests) <= 1 + width
    assert sum(report.states.values()) == 2000 and "sending" not in report.states
    assert report.states["planned"] >= 2000 - 100 * (1 + width)


def test_a_failing_destination_is_left_alone_and_probed(
    ledger: Ledger, vendor: Vendor, lake: Lake
) -> None:
    pusher = make_pusher(ledger, vendor.url)
    pusher._pace = replace(FAST, breaker_cooldown=60.0)
    vendor.play(Reply(503))
    contacts(lake, {"a@x.example": 0.1})
    report = pusher.run(contacts_spec(), lake)
    assert "keeps failing" in (report.message or "")
    assert len(vendor.requests) == FAST.breaker_failures
    with ledger.engine.begin() as connection:
        connection.execute(lanes.update().values(held_until=None))
    report = pusher.run(contacts_spec(), lake)
    assert len(vendor.requests) == FAST.breaker_failures + 1, "one probe"
    assert pusher.run(contacts_spec(), lake).status == "partial"
    assert len(vendor.requests) == FAST.breaker_failures + 1, "it failed: left alone again"
    with ledger.engine.begin() as connection:
        connection.execute(lanes.update().values(held_until=None))
    vendor.play(Reply())
    assert pusher.run(contacts_spec(), lake).status == "done"


def test_a_message_without_an_answer_becomes_unknown_and_is_never_resent(
    pusher: Pusher, vendor: Vendor, lake: Lake, plain_template: str
) -> None:
    spec = message_spec(template=plain_template)
    vendor.play(Reply(drop=True), Reply(500), Reply(body={"ok": True}))
    alerts(lake, ["a", "b", "c"])
    report = pusher.run(spec, lake)
    assert report.sent == {"unknown": 2, "delivered": 1}
    assert pusher.run(spec, lake).sent == {}
    assert len(vendor.requests) == 3


def test_a_webhook_is_resent_with_the_same_id(pusher: Pusher, vendor: Vendor, lake: Lake) -> None:
    vendor.play(Reply(drop=True), Reply())
    alerts(lake, ["a"])
    assert pusher.run(webhook_spec(), lake).states == {"delivered": 1}
    ids = [request.headers["webhook-id"] for request in vendor.requests]
    assert len(ids) == 2 and len(set(ids)) == 1


def test_losing_the_ledger_sends_no_message_again(
    pusher: Pusher, vendor: Vendor, lake: Lake
) -> None:
    alerts(lake, ["a"])
    lake.execute("update alerts set fired_at = now()")
    pusher._ledger.begin_at(lake.execute("select now() - interval 1 minute").fetchall()[0][0])
    assert pusher.run(webhook_spec(), lake).sent == {"delivered": 1}
    with pusher._ledger._engine.begin() as connection:
        connection.exec_driver_sql("drop table actions, attempts, sync_runs, ledger_info")
    pusher._ledger.ensure()
    report = pusher.run(webhook_spec(), lake)
    assert (report.planned, len(vendor.requests)) == ({"suppressed": 1}, 1)


def test_consent_is_judged_when_sending(pusher: Pusher, vendor: Vendor, lake: Lake) -> None:
    spec = webhook_spec(policies=Policies(consent="marketing"))
    alerts(lake, ["yes", "no"])
    for unreadable in (LakeFacts(lake.cursor, "nowhere"), None):
        report = pusher.run(spec, lake, facts=unreadable)
        assert report.status == "paused" and report.states == {"planned": 2}
    assert vendor.requests == []
    report = pusher.run(spec, lake, facts=facts(lake, granted=["c-yes"]))
    assert report.sent == {"delivered": 1, "suppressed": 1}
    everyone = facts(lake, granted=["c-yes", "c-no"])
    assert pusher.run(spec, lake, facts=everyone).sent == {}, "a message is judged once"


def test_a_field_leaves_once_consent_is_granted(pusher: Pusher, vendor: Vendor, lake: Lake) -> None:
    spec = contacts_spec(policies=Policies(consent="marketing"))
    contacts(lake, {"a@x.example": 0.1})
    assert pusher.run(spec, lake, facts=facts(lake)).sent == {"suppressed": 1}
    assert vendor.requests == []
    granted = facts(lake, granted=["c-a@x.example"])
    assert pusher.run(spec, lake, facts=granted).sent == {"delivered": 1}


def test_expired_messages_are_recorded_and_not_sent(
    pusher: Pusher, ledger: Ledger, vendor: Vendor, lake: Lake
) -> None:
    alerts(lake, ["a", "b"], lifetime="-1 second")
    report = pusher.run(webhook_spec(), lake)
    assert report.planned == {"expired": 2} and report.states == {"expired": 2}
    # Planned in time, and too old when its turn came.
    alerts(lake, ["c"])
    consenting = webhook_spec(policies=Policies(consent="marketing"))
    assert pusher.run(consenting, lake).status == "paused"
    with ledger._engine.begin() as connection:
        connection.exec_driver_sql("update actions set expires_at = now() where state = 'planned'")
    everyone = facts(lake, granted=["c-c"])
    assert pusher.run(consenting, lake, facts=everyone).sent == {"expired": 1}
    assert vendor.requests == []


def test_the_blast_limit_pauses_and_can_be_lifted(
    pusher: Pusher, vendor: Vendor, lake: Lake
) -> None:
    spec = contacts_spec(max_change_ratio=0.2)
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(150)})
    assert pusher.run(spec, lake).status == "done"
    contacts(lake, {f"{n}@x.example": 0.2 for n in range(150)})
    blocked = pusher.run(spec, lake)
    assert blocked.status == "blocked" and "--approve" in (blocked.message or "")
    assert blocked.states == {"delivered": 150} and len(vendor.requests) == 2
    assert pusher.run(spec, lake, approve=True).sent == {"delivered": 150}


def test_an_empty_model_takes_nobody_out_unasked(
    pusher: Pusher, vendor: Vendor, lake: Lake, club: None
) -> None:
    specs = [contacts_spec(), club_spec()]
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(150)})
    assert [pusher.run(spec, lake).status for spec in specs] == ["done", "done"]
    contacts(lake, {})
    for _ in range(2):
        reports = [pusher.run(spec, lake) for spec in specs]
        assert [report.status for report in reports] == ["blocked", "blocked"]
        assert all("far fewer" in (report.message or "") for report in reports)
    assert [pusher.run(spec, lake, approve=True).status for spec in specs] == ["done", "done"]
    assert [pusher.run(spec, lake).status for spec in specs] == ["done", "done"], (
        "that is usual now"
    )
    assert sum(len(r.json) for r in vendor.requests if r.path == "/club/leave") == 150


def test_a_mirror_follows_its_model(pusher: Pusher, vendor: Vendor, lake: Lake, club: None) -> None:
    members: set[str] = set()

    def answer(request: Request) -> Reply:
        assert len(request.body) < 700, "as many as fit into 400 bytes, or one"
        keys = {row["email"] for row in request.json}
        (members.update if request.path == "/club/join" else members.difference_update)(keys)
        return Reply()

    vendor.answer = answer
    spec = club_spec(policies=Policies(consent="marketing"))
    everybody = {f"{name}@x.example": 0.1 for name in "abcdefghijklmnopqrst"}
    contacts(lake, everybody)
    read = facts(lake, granted=[f"c-{email}" for email in everybody])

    def run() -> dict[str, int]:
        return pusher.run(spec, lake, facts=read, schema="main").planned

    assert run() == {"create": 20} and members == set(everybody)
    contacts(lake, {email: 0.1 for email in everybody if email > "c"})
    lake.execute("update customer_consents set granted = false where customer_id = 'c-t@x.example'")
    preview = pusher.run(spec, lake, facts=read, schema="main", dry_run=True).preview
    assert preview is not None and preview.title().startswith("3 removals")
    assert {row["key"] for row in preview.removals} == {"a@x.example", "b@x.example", "t@x.example"}
    assert run() == {"leave": 3, "unchanged": 17}
    assert members == {email for email in everybody if "c" < email < "t"}
    contacts(lake, everybody)
    preview = pusher.run(spec, lake, facts=read, schema="main", dry_run=True).preview
    assert preview is not None and preview.held_back == {"consent": 1}
    assert [(row["key"], row["reason"]) for row in preview.suppressed] == [
        ("t@x.example", "no consent for marketing")
    ]
    assert run() == {"create": 2, "no_consent": 1, "unchanged": 17}
    assert members == {email for email in everybody if email < "t"}


def test_a_paused_sync_says_who_and_why(pusher: Pusher, vendor: Vendor, lake: Lake) -> None:
    contacts(lake, {"a@x.example": 0.1})
    operations.pause(pusher.ledger, "hubspot__health", by="ann", reason="the CRM is moving")
    report = pusher.run(contacts_spec(), lake)
    assert (report.status, report.ok, report.states) == ("paused", True, {})
    assert "paused by ann" in str(report.message) and "CRM is moving" in str(report.message)
    assert pusher.run(contacts_spec(), lake, dry_run=True).planned == {"create": 1}
    operations.resume(pusher.ledger, "hubspot__health")
    assert pusher.run(contacts_spec(), lake).sent == {"delivered": 1}


def test_limit_and_only(pusher: Pusher, vendor: Vendor, lake: Lake) -> None:
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(10)})
    report = pusher.run(contacts_spec(), lake, only="7@x.example")
    assert report.planned == {"create": 1} and report.states == {"delivered": 1}
    report = pusher.run(contacts_spec(), lake, limit=4)
    assert report.status == "partial" and "limit of 4" in str(report.message)
    assert report.sent == {"delivered": 4} and report.states == {"delivered": 5, "planned": 5}
    report = pusher.run(contacts_spec(), lake, only="c-3@x.example", full=True)
    assert sum(report.sent.values()) == 1
    assert pusher.run(contacts_spec(), lake, full=True).states == {"delivered": 10}
    assert sum(len(request.json["inputs"]) for request in vendor.requests) == 1 + 4 + 1 + 10


def test_what_the_crm_has_already_is_noted_and_not_sent(
    pusher: Pusher, vendor: Vendor, lake: Lake
) -> None:
    lake.execute(
        "attach ':memory:' as lake; create schema lake.raw; create table lake.raw.crm_contacts as"
        " select 'A@x.example' as email, '{\"score\": \"0.10\"}' as properties,"
        " false as archived, epoch(now())::varchar as _dlt_load_id"
    )
    contacts(lake, {"a@x.example": 0.1, "b@x.example": 0.1})
    # Read from a live CRM it says nothing of the sandbox.
    report = pusher.run(contacts_spec(), lake, live_sources={"crm"}, dry_run=True)
    assert report.planned == {"create": 2}
    report = pusher.run(contacts_spec(), lake)
    assert report.planned == {"already_there": 1, "create": 1}
    assert report.states == {"delivered": 2} and report.sent == {"delivered": 1}
    assert [row["id"] for row in vendor.requests[0].json["inputs"]] == ["b@x.example"]
    assert pusher.run(contacts_spec(), lake).planned == {"unchanged": 2}
    contacts(lake, {"a@x.example": 0.2, "b@x.example": 0.1})
    assert pusher.run(contacts_spec(), lake).sent == {"delivered": 1}
    # It was read before 0.2 left: going back to 0.1 must be sent.
    contacts(lake, {"a@x.example": 0.1, "b@x.example": 0.1})
    assert pusher.run(contacts_spec(), lake).sent == {"delivered": 1}


def test_messages_of_customers_who_merge_are_sent_once(
    pusher: Pusher, vendor: Vendor, lake: Lake
) -> None:
    lake.execute(
        "create table identity_map as select 'anonymous:1' as id_key, 'c-a' as customer_id,"
        " 'c-a' as solo_customer_id, false as is_shared"
    )
    alerts(lake, ["a"])
    assert pusher.run(webhook_spec(), lake, schema="main").sent == {"delivered": 1}
    lake.execute("update identity_map set customer_id = 'ann'")
    lake.execute("update alerts set customer_id = 'ann'")
    assert pusher.run(webhook_spec(), lake, schema="main").planned == {"known": 1}
    assert len(vendor.requests) == 1


def test_a_dry_run_shows_everything_and_touches_nothing(
    pusher: Pusher, ledger: Ledger, vendor: Vendor, lake: Lake, plain_template: str
) -> None:
    spec = contacts_spec()
    contacts(lake, {"a@x.example": 0.1, "b@x.example": 0.2})
    pusher.run(spec, lake)
    contacts(lake, {"a@x.example": 0.3, "b@x.example": 0.2, "c@x.example": 0.4})
    before = len(vendor.requests)
    preview = pusher.run(spec, lake, dry_run=True).preview
    assert preview is not None and preview.unchanged == 1
    assert preview.creates == [
        {"key": "c@x.example", "fields": {"email": "c@x.example", "score": 0.4}}
    ]
    assert preview.updates == [{"key": "a@x.example", "changes": {"score": [0.1, 0.3]}}]
    assert preview.title() == "2 writes"
    alerts(lake, ["yes", "no"])
    message = message_spec(template=plain_template, policies=Policies(consent="marketing"))
    report = pusher.run(message, lake, dry_run=True, facts=facts(lake, granted=["c-yes"]))
    assert report.preview is not None
    assert [item["text"] for item in report.preview.messages] == ["words yes"]
    assert report.preview.title() == "1 message, 1 suppressed (consent 1)"
    (held,) = report.preview.suppressed
    assert (held["key"], held["reason"]) == ("no", "no consent for marketing")
    assert len(vendor.requests) == before and ledger.counts() == {"delivered": 2}
    json.dumps(report.to_dict())
    console = Console(record=True, width=100)
    console.print(render_report(report))
    assert "words yes" in console.export_text()


def test_no_secret_and_no_person_outside_the_payload(
    pusher: Pusher,
    ledger: Ledger,
    vendor: Vendor,
    lake: Lake,
    plain_template: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("SIGNALBOX_HUBSPOT_TOKEN", "pat-na1-very-secret")
    monkeypatch.setenv("SIGNALBOX_HUBSPOT_BASE_URL", f"{vendor.url}/hubspot")
    caplog.set_level(logging.DEBUG)
    contacts(lake, {"ann@x.example": 0.1})
    words = "pat-na1-very-secret may not write ann@x.example"
    for reply in (Reply(400, {"message": words}), Reply(403, {"message": words})):
        vendor.play(reply)
        contacts(lake, {"ann@x.example": 0.1 + len(vendor.requests)})
        report = pusher.run(contacts_spec(), lake)
        assert not report.sandbox
        with ledger._engine.connect() as connection:
            reasons = [
                str(row)
                for table in ("actions", "attempts", "sync_runs")
                for row in connection.exec_driver_sql(
                    f"select {'message' if table == 'sync_runs' else 'reason'} from {table}"
                )
            ]
        kept = "\n".join([*reasons, str(report.message), caplog.text])
        assert "very-secret" not in kept and "ann@" not in kept
    assert report.status == "failed" and "credentials" in (report.message or "")
    assert report.states == {"retrying": 1}


def test_the_same_refusal_over_and_over_stops_the_run(
    pusher: Pusher, vendor: Vendor, lake: Lake
) -> None:
    vendor.play(Reply(400, {"message": "Property score does not exist"}))
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(300)})
    report = pusher.run(contacts_spec(), lake)
    assert report.status == "failed" and "does not exist" in (report.message or "")
    assert len(vendor.requests) < 250


def test_a_broken_destination_file_loses_nothing(
    pusher: Pusher, vendor: Vendor, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = destinations.load

    def broken(name: str) -> destinations.Destination:
        return replace(load(name), push=lambda rows, target, http: [])

    monkeypatch.setattr("syncs.push.destinations.load", broken)
    contacts(lake, {"a@x.example": 0.1})
    report = pusher.run(contacts_spec(), lake)
    assert report.status == "failed" and report.states == {"retrying": 1}
    alerts(lake, ["a"])
    report = pusher.run(webhook_spec(), lake)
    assert report.states == {"retrying": 1}, "it has an idempotency key"


def test_syncs_side_by_side(
    pusher: Pusher, vendor: Vendor, lake: Lake, plain_template: str
) -> None:
    def answer(request: Request) -> Reply:
        return Reply(503) if "webhook" in request.path else Reply(body={"ok": True})

    vendor.answer = answer
    contacts(lake, {"a@x.example": 0.1})
    alerts(lake, ["a"])
    specs = [contacts_spec(), webhook_spec(), message_spec(template=plain_template)]
    reports = pusher.run_all(specs, lake, retry_budget=0.0)
    assert [report.sync for report in reports] == [spec.name for spec in specs]
    assert [report.status for report in reports] == ["done", "partial", "done"]


def test_who_waits_to_plan_goes_by_priority() -> None:
    turns, planned = Turns(), []

    def plan(priority: int) -> None:
        with turns.turn(priority):
            planned.append(priority)

    threads = [threading.Thread(target=plan, args=(priority,)) for priority in (0, 100, 10)]
    with turns.turn(0):
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 30
        while turns.waiting < len(threads) and time.monotonic() < deadline:
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert planned == [100, 10, 0]


def test_a_toy_destination_and_a_toy_sync_need_nothing_else(
    pusher: Pusher, vendor: Vendor, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy.py").write_text(
        """
from pydantic_settings import BaseSettings, SettingsConfigDict
from syncs.results import RowResult

MODES = {"upsert"}
BATCH_SIZE = 2
RATE = 100.0
CREDENTIALS = ("base_url",)
SANDBOX = {"base_url": "{url}/toy"}
API_VERSION = "1"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SIGNALBOX_TOY_")
    base_url: str | None = None


def push(rows, target, http):
    answer = http.post(target.settings.base_url, json=[dict(row.fields) for row in rows])
    return [RowResult.delivered(answer.status_code) for _ in rows]


def check(target, http):
    return "a toy"
"""
    )
    monkeypatch.setattr(destinations, "__path__", [*destinations.__path__, str(tmp_path)])
    node: dict[str, Any] = {
        "resource_type": "model",
        "name": "sync_toy__health",
        "relation_name": "health",
        "columns": {"email": {}, "score": {}},
        "config": {"meta": {"sync": {"destination": "toy", "mode": "upsert", "key": "email"}}},
    }
    (spec,) = load_specs({"nodes": {"x": node}})
    contacts(lake, {"a@x.example": 0.1, "b@x.example": 0.2, "c@x.example": 0.3})
    assert pusher.run(spec, lake).sent == {"delivered": 3}
    assert [len(request.json) for request in vendor.requests] == [2, 1]
