"""Messages at once, beside the runs of their sync: recorded before they leave, and sent once."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa
from syncs_support import (
    Reply,
    Request,
    Vendor,
    alerts,
    club_spec,
    contacts,
    facts,
    make_pusher,
    webhook_spec,
)

from syncs import push
from syncs.facts import LakeFacts
from syncs.ledger import Ledger, action_key, actions
from syncs.operations import pause
from syncs.plan import Plan
from syncs.policies import Policies
from syncs.push import Pusher
from syncs.spec import SyncSpec

Lake = duckdb.DuckDBPyConnection
PEOPLE = """
create or replace table identity_map as select
    'user:' || t as id_key, 'c-' || t as customer_id, 'c-' || t as solo_customer_id,
    false as is_shared from (select unnest($triggers) as t);
create or replace table identity_edges as select '' as id_key, '' as other_id_key where false
"""


def received(vendor: Vendor) -> Counter[str]:
    return Counter(request.json["data"]["words"] for request in vendor.requests)


def keys(spec: SyncSpec, triggers: list[str]) -> list[str]:
    return [action_key(spec.name, f"c-{trigger}", trigger) for trigger in triggers]


def record_and_send(
    pusher: Pusher, lake: Lake, spec: SyncSpec, triggers: list[str], only: list[str] | None = None
) -> None:
    for statement in PEOPLE.split(";"):
        lake.execute(statement, {"triggers": triggers} if "$triggers" in statement else None)
    with pusher.express(spec, facts(lake)) as express:
        names = [f"c-{trigger}" for trigger in triggers]
        express.record(
            lake, "alerts", schema="main", customers=names, keys=(), log_seq=0, lane="hot"
        )
        express.send(keys(spec, triggers if only is None else only))


def test_both_lanes_together_send_each_message_once(
    pusher: Pusher, vendor: Vendor, lake: Lake, ledger: Ledger
) -> None:
    """While a run of the sync is under way, and the run afterwards, and once more."""
    spec = webhook_spec()
    triggers = [f"t{number}" for number in range(40)]
    alerts(lake, triggers)
    other = make_pusher(ledger, vendor.url)
    run = threading.Thread(target=lambda: other.run(spec, lake.cursor()))
    run.start()
    record_and_send(pusher, lake.cursor(), spec, triggers)
    run.join()
    pusher.run(spec, lake)
    record_and_send(pusher, lake, spec, triggers)
    assert received(vendor) == {f"words {trigger}": 1 for trigger in triggers}


def test_what_is_recorded_while_a_run_reads_its_model_is_known_to_the_run(
    pusher: Pusher, vendor: Vendor, lake: Lake, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = webhook_spec()
    alerts(lake, ["a"])
    run = make_pusher(ledger, vendor.url)
    read = push.plan_sync

    def read_slowly(*args: Any, **options: Any) -> Plan:
        found = read(*args, **options)
        record_and_send(pusher, lake.cursor(), spec, ["a"])
        return found

    monkeypatch.setattr(push, "plan_sync", read_slowly)
    report = run.run(spec, lake)
    assert report.planned == {"known": 1}
    assert received(vendor) == {"words a": 1}


def test_the_ledger_says_which_lane_recorded_it(
    pusher: Pusher, vendor: Vendor, lake: Lake, ledger: Ledger
) -> None:
    spec = webhook_spec()
    alerts(lake, ["a"])
    record_and_send(pusher, lake, spec, ["a"])
    alerts(lake, ["a", "b"])
    pusher.run(spec, lake)
    with ledger.engine.connect() as connection:
        lanes = connection.execute(sa.select(actions.c.trigger_id, actions.c.lane)).all()
        keys = set(connection.scalars(sa.select(actions.c.action_key)))
    assert dict(lanes) == {"a": "hot", "b": "batch"}  # type: ignore[arg-type]
    assert ledger.recorded([*keys, "never"]) == keys


def test_only_what_was_asked_for_leaves(pusher: Pusher, vendor: Vendor, lake: Lake) -> None:
    spec = webhook_spec()
    alerts(lake, ["a", "b"])
    record_and_send(pusher, lake, spec, ["a", "b"], only=["b"])
    assert received(vendor) == {"words b": 1}
    pusher.run(spec, lake)
    assert received(vendor) == {"words a": 1, "words b": 1}


def test_a_message_is_on_disk_before_its_first_byte(
    pusher: Pusher, vendor: Vendor, lake: Lake, ledger: Ledger
) -> None:
    states = []

    def look(request: Request) -> Reply:
        with ledger.engine.connect() as connection:
            states.extend(connection.scalars(sa.select(actions.c.state)))
        return Reply()

    vendor.answer = look
    alerts(lake, ["a"])
    record_and_send(pusher, lake, webhook_spec(), ["a"])
    assert states == ["sending"]


def test_facts_that_cannot_be_read_hold_everything_back(
    pusher: Pusher, vendor: Vendor, lake: Lake, ledger: Ledger
) -> None:
    spec = webhook_spec(policies=Policies(consent="marketing"))
    alerts(lake, ["a"])
    reader = facts(lake)
    for statement in PEOPLE.split(";"):
        lake.execute(statement, {"triggers": ["a"]} if "$triggers" in statement else None)
    lake.execute("drop table customer_consents")
    with pusher.express(spec, reader) as express:
        express.record(
            lake, "alerts", schema="main", customers=["c-a"], keys=(), log_seq=0, lane="hot"
        )
        report = express.send(keys(spec, ["a"]))
    assert report.status == "paused" and not vendor.requests
    assert ledger.counts(spec.name) == {"planned": 1}


def test_a_paused_sync_sends_nothing(
    pusher: Pusher, vendor: Vendor, lake: Lake, ledger: Ledger
) -> None:
    spec = webhook_spec()
    pause(ledger, spec.name, by="ada")
    alerts(lake, ["a"])
    record_and_send(pusher, lake, spec, ["a"])
    assert not vendor.requests and ledger.counts(spec.name) == {"planned": 1}


@pytest.mark.parametrize("status", [500, 429])
def test_what_must_wait_is_left_to_the_runs(
    pusher: Pusher, vendor: Vendor, lake: Lake, ledger: Ledger, status: int
) -> None:
    spec = webhook_spec()
    vendor.play(Reply(status), Reply())
    alerts(lake, ["a"])
    record_and_send(pusher, lake, spec, ["a"])
    pusher.run(spec, lake)
    assert ledger.counts(spec.name) == {"delivered": 1}


MEMBERS = club_spec(policies=Policies(consent="marketing"))


def join(pusher: Pusher, lake: Lake, emails: list[str], log_seq: int) -> dict[str, int]:
    """What the hot lane does for customers who shall be members; counts of its plan."""
    lake.execute(
        "create or replace table joining as select 0.1 as score, e as email, 'c-' || e as"
        " customer_id from (select unnest($1) as e)",
        [emails],
    )
    keys = [action_key(MEMBERS.name, email) for email in emails]
    with pusher.express(MEMBERS, LakeFacts(lake.cursor, "main")) as express:
        planned = express.record(
            lake, "joining", schema="hot", customers=(), keys=keys, log_seq=log_seq, lane="hot"
        )
        express.send(keys)
    return planned


@pytest.fixture
def audience(lake: Lake, club: None) -> Lake:
    """A lake that has read the log up to 100 and knows two members; everybody but bob agrees."""
    everybody = [f"{name}@x.example" for name in ("ann", "bob", "cat", "dan")]
    facts(lake, granted=[f"c-{email}" for email in everybody if not email.startswith("bob")])
    # The slice of the hot lane, which has read the same of consent.
    lake.execute(
        "create schema hot; create view hot.customer_consents as from main.customer_consents"
    )
    lake.execute("create table build_watermarks as select 'identity_map' as model, 100 as log_seq")
    contacts(lake, {"ann@x.example": 0.1, "bob@x.example": 0.1})
    return lake


def built(lake: Lake, members: list[str], log_seq: int) -> None:
    contacts(lake, dict.fromkeys(members, 0.1))
    lake.execute("update build_watermarks set log_seq = $1", [log_seq])


def asked(vendor: Vendor) -> list[tuple[str, str]]:
    """Who joined and left, in order."""
    return [
        (request.path.removeprefix("/club/"), row["email"].partition("@")[0])
        for request in vendor.requests
        for row in request.json
    ]


def test_who_joins_at_once_stays_until_the_lake_has_read_as_far(
    pusher: Pusher, vendor: Vendor, audience: Lake
) -> None:
    def run() -> dict[str, int]:
        read = LakeFacts(audience.cursor, "main")
        return pusher.run(MEMBERS, audience, facts=read, schema="main").planned

    assert run() == {"create": 1, "no_consent": 1}
    assert join(pusher, audience, ["ann@x.example", "cat@x.example"], 150) == {
        "create": 1,
        "unchanged": 1,
    }
    assert join(pusher, audience, ["bob@x.example"], 151) == {"no_consent": 1}
    assert asked(vendor) == [("join", "ann"), ("join", "cat")]
    # The lake knows neither that cat joined nor that ann came again.
    built(audience, [], 149)
    assert run() == {"ahead": 2}
    built(audience, ["cat@x.example"], 150)
    assert run() == {"leave": 1, "unchanged": 1}
    assert asked(vendor) == [("join", "ann"), ("join", "cat"), ("leave", "ann")]
    assert join(pusher, audience, ["ann@x.example"], 160) == {"create": 1}
    assert asked(vendor)[3:] == [("join", "ann")]


def test_both_lanes_together_let_each_join_once(
    pusher: Pusher, vendor: Vendor, audience: Lake, ledger: Ledger
) -> None:
    emails = [f"m{number}@x.example" for number in range(40)]
    read = facts(audience, granted=[f"c-{email}" for email in emails])
    built(audience, emails, 100)
    other = make_pusher(ledger, vendor.url)
    beside = audience.cursor()
    run = threading.Thread(target=lambda: other.run(MEMBERS, beside, facts=read, schema="main"))
    run.start()
    for email in emails:
        join(pusher, audience.cursor(), [email], 100)
    run.join()
    pusher.run(MEMBERS, audience, facts=read, schema="main")
    assert Counter(asked(vendor)) == {("join", email.partition("@")[0]): 1 for email in emails}


def test_an_audience_that_waits_for_approval_grows_by_nobody(
    pusher: Pusher, vendor: Vendor, audience: Lake, ledger: Ledger
) -> None:
    ledger.record_run(
        sync=MEMBERS.name, destination="club", sandbox=False, status="blocked", counts={},
        started_at=ledger.now(),
    )  # fmt: skip
    assert join(pusher, audience, ["cat@x.example"], 150) == {}
    assert not vendor.requests and ledger.counts(MEMBERS.name) == {}
