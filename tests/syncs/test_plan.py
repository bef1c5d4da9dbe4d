from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from syncs_support import CONTROL, alerts, contacts, contacts_spec, facts, message_spec

from syncs.facts import LakeFacts, Recipient
from syncs.ledger import action_key
from syncs.plan import KNOWN_SCHEMA, Plan, PlanError, plan_sync
from syncs.policies import Policies
from syncs.spec import SyncSpec

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=400)


def ledger_rows(rows: list[dict[str, Any]]) -> pa.Table:
    blank = dict.fromkeys(KNOWN_SCHEMA.names) | {"was_delivered": False, "held": False}
    return pa.Table.from_pylist([blank | row for row in rows], KNOWN_SCHEMA)


def plan(
    lake: Any, spec: SyncSpec, rows: list[dict[str, Any]] | None = None, **options: Any
) -> Plan:
    options = {"now": NOW, "began_at": LONG_AGO} | options
    return plan_sync(lake, spec, ledger_rows(rows or []), **options)


def remembered(found: Plan, state: str = "delivered") -> list[dict[str, Any]]:
    """The ledger's rows after this plan was carried out."""
    done = state == "delivered"
    return [
        {
            "action_key": row["action_key"],
            "state": state,
            "payload_hash": row["payload_hash"],
            "delivered_hash": row["payload_hash"] if done else None,
            "was_delivered": done,
            "held": done,
            "leave": False,
            "updated_at": NOW,
        }
        for row in found.rows("create", "update", "message")
    ]


def test_only_what_changed_is_due(lake: duckdb.DuckDBPyConnection) -> None:
    spec = contacts_spec()
    contacts(lake, {"a@x.example": 0.1, "b@x.example": 0.2})
    first = plan(lake, spec)
    assert first.counts == {"create": 2}
    contacts(lake, {"a@x.example": 0.1, "b@x.example": 0.3, "c@x.example": 0.4})
    second = plan(lake, spec, remembered(first))
    assert second.counts == {"unchanged": 1, "update": 1, "create": 1}
    assert {row["row_key"] for row in second.rows("update")} == {"b@x.example"}


def test_action_keys_agree_with_python(lake: duckdb.DuckDBPyConnection) -> None:
    contacts(lake, {"ä:1@x.example": 0.1, "🤖@x.example": 0.2})
    for row in plan(lake, contacts_spec()).rows("create"):
        assert row["action_key"] == action_key("hubspot__health", row["row_key"])
    alerts(lake, ["t:1", "été"])
    for row in plan(lake, message_spec()).rows("message"):
        expected = action_key("slack__alert", row["customer_id"], row["trigger_id"])
        assert row["action_key"] == expected


def test_waiting_rows(lake: duckdb.DuckDBPyConnection) -> None:
    spec = contacts_spec()
    contacts(lake, {"a@x.example": 0.1})
    old = plan(lake, spec)
    held = remembered(old)[0]
    waiting = held | {"state": "retrying", "was_delivered": False, "delivered_hash": None}
    assert plan(lake, spec, [waiting]).counts == {"waiting": 1}
    assert plan(lake, spec, [waiting | {"state": "sending"}]).counts == {"in_flight": 1}
    assert plan(lake, spec, [waiting | {"state": "rejected"}]).counts == {"rejected": 1}
    contacts(lake, {"a@x.example": 0.2})
    assert plan(lake, spec, [waiting]).counts == {"create": 1}
    # An update that was never tried, and the model went back to what is delivered.
    newer = held | {"state": "planned", "payload_hash": "another"}
    contacts(lake, {"a@x.example": 0.1})
    assert plan(lake, spec, [newer]).counts == {"revert": 1}
    # It was tried: nobody knows what the destination holds, so the row is sent again.
    assert plan(lake, spec, [newer | {"delivered_hash": None}]).counts == {"update": 1}
    contacts(lake, {})
    assert plan(lake, spec, [newer]).counts == {"gone": 1}
    assert plan(lake, spec, [held]).counts == {}


def test_column_order_and_session_time_zone_change_no_hash(
    lake: duckdb.DuckDBPyConnection,
) -> None:
    spec = contacts_spec(columns=("email", "seen", "score"))
    moved = contacts_spec(columns=("score", "email", "seen"))
    lake.execute(
        "create table health as select 'a@x.example' as email, 0.5 as score,"
        " timestamptz '2026-01-01 12:00:00+02' as seen"
    )
    (here,) = plan(lake, spec).rows("create")
    lake.execute("set timezone = 'Asia/Tokyo'")
    (there,) = plan(lake, moved).rows("create")
    assert here["payload_hash"] == there["payload_hash"]
    assert '"seen":"2026-01-01T10:00:00.000Z"' in here["payload"]


def test_values_that_json_cannot_hold(lake: duckdb.DuckDBPyConnection) -> None:
    lake.execute(
        "create table health as select 'a@x.example' as email, 'nan'::double as score,"
        " 'c' || chr(0) || '1' as customer_id"
    )
    (row,) = plan(lake, contacts_spec()).rows("create")
    assert row["payload"] == '{"email":"a@x.example","score":null}'
    assert row["customer_id"] == "c1"


def test_rows_without_a_key_are_counted_and_doubled_keys_refused(
    lake: duckdb.DuckDBPyConnection,
) -> None:
    contacts(lake, {"a@x.example": 0.1})
    lake.execute("insert into health values (null, 0.5, 'c')")
    assert plan(lake, contacts_spec()).counts == {"create": 1, "skipped": 1}
    lake.execute("insert into health select * from health")
    with pytest.raises(PlanError, match="1 rows repeat a value of the key 'email'"):
        plan(lake, contacts_spec())


def test_update_only_leaves_strangers_out(lake: duckdb.DuckDBPyConnection) -> None:
    contacts(lake, {"A@x.example": 0.1, "b@x.example": 0.2})
    lake.execute(
        "create table crm as"
        " select 'a@X.example' as key, '{}' as fields, now() + interval 1 day as read_at"
    )
    spec = contacts_spec(mode="update_only")
    found = plan(lake, spec, read_back="select * from crm")
    assert [row["row_key"] for row in found.rows("create")] == ["A@x.example"]
    assert found.count("absent") == 1
    # What was planned while it was there must not be sent when it is gone.
    waiting = remembered(found, state="planned")
    lake.execute("delete from crm")
    assert plan(lake, spec, waiting, read_back="select * from crm").counts == {
        "absent": 1, "gone": 1
    }  # fmt: skip
    with pytest.raises(PlanError, match="update_only needs what hubspot has"):
        plan(lake, spec, read_back="select * from nowhere")


def test_messages(lake: duckdb.DuckDBPyConnection) -> None:
    alerts(lake, ["new", "known", "twice", "twice"])
    lake.execute(
        "insert into alerts by name select 'c-x' as customer_id, 'late' as trigger_id,"
        " now() - interval 2 hour as fired_at, now() - interval 1 hour as expires_at,"
        " '#c' as channel, 'w' as words union all"
        " select 'c-y', 'old', now() - interval 2 hour, null, '#c', 'w' union all"
        " select null, 'nobody', now(), null, '#c', 'w'"
    )
    known = {"action_key": action_key("slack__alert", "c-known", "known"), "state": "unknown"}
    began = NOW - timedelta(minutes=30)
    found = plan(lake, message_spec(), [known], began_at=began)
    assert found.counts == {
        "message": 2, "known": 1, "expired": 1, "suppressed": 1, "skipped": 1
    }  # fmt: skip
    (old,) = found.rows("suppressed")
    assert (old["trigger_id"], old["reason"]) == ("old", "fired before this ledger began")


def test_expires_after_counts_from_the_trigger(lake: duckdb.DuckDBPyConnection) -> None:
    alerts(lake, ["a"])
    spec = message_spec(policies=Policies(expires_after=timedelta(minutes=5)))
    (row,) = plan(lake, spec).rows("message")
    assert row["expires_at"] - row["event_at"] == timedelta(minutes=5)


def test_blast_limit(lake: duckdb.DuckDBPyConnection) -> None:
    spec = contacts_spec(max_change_ratio=0.2)
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(200)})
    first = plan(lake, spec)
    assert first.blocked is None
    contacts(lake, {f"{n}@x.example": 0.1 if n >= 40 else 0.9 for n in range(200)})
    assert plan(lake, spec, remembered(first)).blocked is None
    contacts(lake, {f"{n}@x.example": 0.1 if n >= 41 else 0.9 for n in range(200)})
    blocked = plan(lake, spec, remembered(first)).blocked
    assert blocked is not None
    assert "41 of 200" in blocked and "signalbox sync hubspot__health --approve" in blocked


def test_a_model_that_was_not_built(lake: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(PlanError, match="health"):
        plan(lake, contacts_spec())
    contacts(lake, {})
    with pytest.raises(PlanError, match="no column score2"):
        plan(lake, contacts_spec(columns=("email", "score2")))


def test_consent_is_the_newest_word(lake: duckdb.DuckDBPyConnection) -> None:
    lake.execute(
        "create table customer_consents as select * from (values"
        " ('a', 'sales', true, timestamptz '2026-01-01'),"
        " ('b', 'sales', true, timestamptz '2026-01-01'),"
        " ('b', 'sales', false, timestamptz '2026-02-01'),"
        " ('c', 'marketing', true, timestamptz '2026-01-01'))"
        " t (customer_id, purpose, granted, changed_at)"
    )
    read = LakeFacts(lake.cursor, "main")
    everyone = [Recipient(name, name) for name in ("a", "b", "c", "d")]
    assert read(Policies(consent="sales"), everyone).consented == {"a"}


def test_control_columns_are_never_sent(lake: duckdb.DuckDBPyConnection) -> None:
    alerts(lake, ["a"])
    (row,) = plan(lake, message_spec()).rows("message")
    assert not any(f'"{column}"' in row["payload"] for column in CONTROL)


def mirrored(rows: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    return [row | changes for row in rows]


def test_a_mirror_has_its_rows_join_and_leave(lake: duckdb.DuckDBPyConnection) -> None:
    spec = contacts_spec(mode="mirror")
    contacts(lake, {"a@x.example": 0.1, "b@x.example": 0.2})
    members = remembered(plan(lake, spec))
    contacts(lake, {"a@x.example": 0.1})
    assert plan(lake, spec, members).counts == {"leave": 1, "unchanged": 1}
    # Planned and never sent: nothing to take back. Sent, and who knows: it may be there.
    assert plan(lake, spec, mirrored(members, state="planned", held=False, was_delivered=False)
                ).counts == {"gone": 1, "waiting": 1}  # fmt: skip
    uncertain = mirrored(members, state="retrying", delivered_hash=None, was_delivered=False)
    assert plan(lake, spec, uncertain).counts == {"leave": 1, "waiting": 1}
    contacts(lake, {"b@x.example": 0.2})
    leaving = [row | {"payload_hash": None, "leave": True} for row in members]
    planned = mirrored(leaving, state="planned")
    assert plan(lake, spec, planned).counts == {"revert": 1, "waiting": 1}, "not sent yet"
    tried = mirrored(leaving, state="retrying", delivered_hash=None)
    assert plan(lake, spec, tried).counts == {"update": 1, "waiting": 1}
    left = mirrored(leaving, held=False, was_delivered=False, delivered_hash=None)
    assert plan(lake, spec, left).counts == {"create": 1}, "who left may join again"


def test_who_withdraws_consent_leaves_the_mirror(lake: duckdb.DuckDBPyConnection) -> None:
    spec = contacts_spec(mode="mirror", policies=Policies(consent="marketing"))
    contacts(lake, {f"{name}@x.example": 0.1 for name in "abc"})
    facts(lake, granted=[f"c-{name}@x.example" for name in "ab"])
    first = plan(lake, spec, schema="main")
    assert first.counts == {"create": 2, "no_consent": 1}
    lake.execute(
        "insert into customer_consents values ('c-a@x.example', 'marketing', false,"
        " now() + interval 1 second)"
    )
    again = plan(lake, spec, remembered(first), schema="main")
    assert again.counts == {"leave": 1, "no_consent": 1, "unchanged": 1}
    with pytest.raises(PlanError, match="consent"):
        plan(lake, spec)


def test_blast_limit_of_a_mirror_counts_who_leaves(lake: duckdb.DuckDBPyConnection) -> None:
    spec = contacts_spec(mode="mirror", max_change_ratio=0.2)
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(200)})
    members = remembered(plan(lake, spec))
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(20, 220)})
    assert plan(lake, spec, members).blocked is None
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(21, 221)})
    assert "42 of 200" in (plan(lake, spec, members).blocked or "")


@pytest.mark.parametrize(("rows", "words"), [(0, "has 0 rows, far fewer than the 300"),
                                             (149, "far fewer"), (451, "far more"),
                                             (150, None), (450, None)])  # fmt: skip
def test_a_sudden_change_of_the_number_of_rows_is_asked_about(
    rows: int, words: str | None, lake: duckdb.DuckDBPyConnection
) -> None:
    contacts(lake, {f"{n}@x.example": 0.1 for n in range(rows)})
    blocked = plan(lake, contacts_spec(), usual=300).blocked
    assert blocked is None if words is None else words in (blocked or "")
    assert plan(lake, contacts_spec(), usual=None).blocked is None
    assert plan(lake, contacts_spec(), usual=300, only="0@x.example").blocked is None


def test_full_and_only(lake: duckdb.DuckDBPyConnection) -> None:
    contacts(lake, {"a@x.example": 0.1, "b@x.example": 0.2})
    known = remembered(plan(lake, contacts_spec()))
    assert plan(lake, contacts_spec(), known, full=True).counts == {"resend": 2}
    assert plan(lake, contacts_spec(), [], only="c-b@x.example").counts == {"create": 1}
    alerts(lake, ["a"])
    messages = plan(lake, message_spec())
    sent = [{"action_key": row["action_key"], "state": "delivered"} for row in messages.rows()]
    assert plan(lake, message_spec(), sent, full=True).counts == {"known": 1}


def test_what_the_destination_has_already_is_not_sent(lake: duckdb.DuckDBPyConnection) -> None:
    spec = contacts_spec(columns=("email", "score", "band", "seen"))
    lake.execute(
        "create table health as select name || '@x.example' as email, 0.5::double as score,"
        " '07' as band, timestamptz '2026-01-01 12:00:00+02' as seen"
        " from unnest(['equal', 'spelt', 'text', 'other', 'partly']) t(name)"
    )
    theirs = {
        "equal": '{"score": "0.5", "band": "07", "seen": "2026-01-01T10:00:00.000Z"}',
        "SPELT": '{"score": "0.50", "band": "07", "seen": "2026-01-01T10:00:00Z"}',
        "text": '{"score": "0.5", "band": "7", "seen": "2026-01-01T10:00:00Z"}',
        "other": '{"score": "0.6", "band": "07", "seen": "2026-01-01T10:00:00Z"}',
        "partly": '{"score": "0.5", "band": "07"}',
    }
    lake.execute("create table crm (key varchar, fields varchar, read_at timestamptz)")
    for name, fields in theirs.items():
        lake.execute("insert into crm values (?, ?, ?)", [f"{name}@x.example", fields, NOW])
    options = {"read_back": "select * from crm"}
    found = plan(lake, spec, **options)
    there = {row["row_key"] for row in found.rows("already_there")}
    assert there == {"equal@x.example", "spelt@x.example"}
    assert found.count("create") == 3
    assert plan(lake, spec, **options, full=True).count("create") == 5
    # It was read before our last word on the row: that may have overwritten it.
    older = [row | {"payload_hash": None, "delivered_hash": None} for row in remembered(found)]
    later = {"updated_at": NOW + timedelta(seconds=1)}
    assert plan(lake, spec, mirrored(older, **later), **options).count("already_there") == 2
    known = remembered(plan(lake, spec))
    stale = [row | {"payload_hash": None, "delivered_hash": None} | later for row in known]
    assert plan(lake, spec, stale, **options).counts == {"update": 5}


def identities(lake: duckdb.DuckDBPyConnection, **customers: str) -> None:
    """Ids by the customer they belong to; each alone would be the customer of its own name."""
    lake.execute(
        "create or replace table identity_map (id_key varchar, customer_id varchar,"
        " solo_customer_id varchar, is_shared boolean);"
        "create or replace table identity_edges (id_key varchar, other_id_key varchar)"
    )
    for name, customer in customers.items():
        row = [f"id:{name}", customer, name, name.startswith("shared")]
        lake.execute("insert into identity_map values (?, ?, ?, ?)", row)


def messages_of(lake: duckdb.DuckDBPyConnection, *rows: tuple[str, str]) -> None:
    alerts(lake, ["nobody's"])
    lake.execute("delete from alerts")
    for customer, trigger in rows:
        lake.execute(
            "insert into alerts values (?, ?, now() + interval 1 second, now() + interval 1 hour,"
            " '#c', 'w')",
            [customer, trigger],
        )


def acted_on(*rows: tuple[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "action_key": action_key("slack__alert", customer, trigger),
            "state": "delivered",
            "customer_id": customer,
            "trigger_id": trigger,
        }
        for customer, trigger in rows
    ]


def test_customers_who_merge_get_no_message_twice(lake: duckdb.DuckDBPyConnection) -> None:
    identities(lake, anon="user", user="user", other="other")
    messages_of(lake, ("user", "cart-1"), ("user", "cart-2"), ("other", "cart-1"))
    known = acted_on(("anon", "cart-1"), ("gone", "cart-2"))
    found = plan(lake, message_spec(), known, schema="main")
    # The same trigger of somebody else is another matter.
    assert {(row["customer_id"], row["trigger_id"]) for row in found.rows("message")} == {
        ("user", "cart-2"), ("other", "cart-1")
    }  # fmt: skip
    assert plan(lake, message_spec(), known).count("message") == 3, "without identities"


def test_what_became_known_since_is_no_message_any_more(lake: duckdb.DuckDBPyConnection) -> None:
    identities(lake, anon="user", user="user")
    messages_of(lake, ("user", "cart-1"), ("user", "cart-2"), ("user", "cart-3"))
    found = plan(lake, message_spec(), acted_on(("user", "cart-3")), schema="main")
    assert found.counts == {"known": 1, "message": 2}
    by_now = acted_on(("user", "cart-3"), ("user", "cart-2"), ("anon", "cart-1"))
    found.look_again(ledger_rows(by_now))
    assert found.counts == {"known": 3}
    assert list(found.rows()) == []


def test_customers_who_part_get_no_message_twice(lake: duckdb.DuckDBPyConnection) -> None:
    # Through a device of many, ann and ben were one customer, called ann; ben's cart was acted on.
    identities(lake, ann="ann", ben="ben", eve="eve", shared="shared")
    lake.execute("insert into identity_edges values ('id:shared', 'id:ann'), "
                 "('id:ben', 'id:shared')")  # fmt: skip
    messages_of(lake, ("ben", "cart-1"), ("eve", "cart-1"), ("ann", "day-2"), ("ben", "day-2"))
    known = acted_on(("ann", "cart-1"), ("ann", "day-2"))
    found = plan(lake, message_spec(), known, schema="main")
    # Ann still has day-2 of her own, so ben's is another; eve shares nothing.
    assert {(row["customer_id"], row["trigger_id"]) for row in found.rows("message")} == {
        ("eve", "cart-1"), ("ben", "day-2")
    }  # fmt: skip


def test_customers_who_are_split_by_hand_get_no_message_twice(
    lake: duckdb.DuckDBPyConnection,
) -> None:
    # The edge between ben and the kiosk was split; once all were ann, whose phone is the kiosk's.
    identities(lake, ann="ann", phone="ann", kiosk="ann", ben="ben", eve="eve")
    lake.execute("insert into identity_edges values ('id:kiosk', 'id:ben'), "
                 "('id:kiosk', 'id:ann'), ('id:phone', 'id:ann')")  # fmt: skip
    messages_of(lake, ("ben", "cart-1"), ("eve", "cart-1"))
    found = plan(lake, message_spec(), acted_on(("ann", "cart-1")), schema="main")
    assert [row["customer_id"] for row in found.rows("message")] == ["eve"]
