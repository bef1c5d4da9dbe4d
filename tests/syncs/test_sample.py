"""A look at what one customer would be sent, which neither sends nor writes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from syncs_support import (
    Reply,
    Vendor,
    alerts,
    contacts,
    contacts_spec,
    facts,
    make_pusher,
    message_spec,
    webhook_spec,
)

from syncs.ledger import Ledger
from syncs.policies import Cap, Policies
from syncs.push import Pusher
from syncs.results import Fatal
from syncs.rules import Paused

Lake = duckdb.DuckDBPyConnection


def test_a_message_before_and_after_it_left(
    pusher: Pusher, ledger: Ledger, vendor: Vendor, lake: Lake, plain_template: str
) -> None:
    policies = Policies(consent="marketing", cap=Cap(1, timedelta(days=1)))
    spec = message_spec(template=plain_template, policies=policies)
    alerts(lake, ["a", "b"])
    reader = facts(lake, granted=["c-a"])
    (sample,) = pusher.samples(spec, lake, "c-a", facts=reader)
    assert (sample.verdict, sample.text, sample.ledger) == ("send", "words a", None)
    assert sample.fields == {"channel": "#care", "words": "words a"}
    (held,) = pusher.samples(spec, lake, "c-b", facts=reader)
    assert (held.verdict, held.policy) == ("suppressed", "consent")
    assert vendor.requests == [] and ledger.counts() == {}, "a look changes nothing"
    with pytest.raises(Paused):
        pusher.samples(spec, lake, "c-a")
    vendor.play(Reply(body={"ok": True}))
    pusher.run(spec, lake, facts=reader)
    (sample,) = pusher.samples(spec, lake, "c-a", facts=reader)
    assert sample.verdict == "settled" and sample.ledger is not None
    assert sample.ledger["state"] == "delivered"
    # The next one is judged with what has left: the cap is reached.
    lake.execute("update alerts set trigger_id = 'z' where customer_id = 'c-a'")
    (sample,) = pusher.samples(spec, lake, "c-a", facts=reader)
    assert (sample.verdict, sample.policy) == ("suppressed", "cap")
    assert pusher.samples(spec, lake, "nobody's", facts=reader) == []


def test_a_message_too_late(pusher: Pusher, lake: Lake) -> None:
    alerts(lake, ["a"], lifetime="-1 second")
    (sample,) = pusher.samples(webhook_spec(), lake, "c-a")
    assert (sample.verdict, sample.policy) == ("expired", "expiry")


def test_fields_of_a_record(pusher: Pusher, vendor: Vendor, lake: Lake) -> None:
    spec = contacts_spec()
    contacts(lake, {"a@x.example": 0.1, "b@x.example": 0.2})
    (sample,) = pusher.samples(spec, lake, "c-a@x.example")
    assert (sample.verdict, sample.fields) == ("send", {"email": "a@x.example", "score": 0.1})
    pusher.run(spec, lake)
    (sample,) = pusher.samples(spec, lake, "c-a@x.example")
    assert sample.verdict == "unchanged"
    contacts(lake, {"a@x.example": 0.9})
    (sample,) = pusher.samples(spec, lake, "c-a@x.example")
    assert sample.verdict == "send"


def test_a_mail_with_its_headers(ledger: Ledger, lake: Lake) -> None:
    now = datetime.now(UTC)
    lake.execute(
        "create table carts as select 'c' as customer_id, 't' as trigger_id, $now as fired_at,"
        " $later as expires_at, 'ann@x.example' as to_email, 'Ann' as customer_name,"
        " 9.5 as cart_total, 'EUR' as currency, '[]' as items",
        {"now": now + timedelta(seconds=1), "later": now + timedelta(hours=1)},
    )
    columns = "customer_id trigger_id fired_at expires_at to_email customer_name cart_total"
    spec = message_spec(
        name="smtp_email__cart", model="sync_smtp_email__cart", relation="carts",
        destination="smtp_email", object="message", key="to_email", template="cart_abandoned",
        columns=(*columns.split(), "currency", "items"),
        policies=Policies(channel="email", address="to_email"),
    )  # fmt: skip
    pusher = make_pusher(ledger, "http://127.0.0.1:1", "127.0.0.1:1")
    reader = facts(lake, listed=[("email", "ann@x.example", None, "bounced")])
    (sample,) = pusher.samples(spec, lake, "c", facts=reader)
    assert sample.reason == "on the suppression list: bounced"
    assert sample.headers["To"] == "ann@x.example"
    assert sample.headers["List-Unsubscribe"].startswith("<mailto:hello@signalbox.example")
    assert sample.subject == "Ann, you left something in your cart"
    assert sample.text is not None and "unsubscribe" in sample.text
    assert sample.html is not None and sample.html.startswith("<!doctype html>")
    lake.execute("update carts set to_email = 'ann at home'")
    (sample,) = pusher.samples(spec, lake, "c", facts=facts(lake))
    assert sample.verdict == "rejected" and "not a single e-mail address" in str(sample.reason)


def test_a_broken_template_says_what_is_wrong(
    pusher: Pusher, lake: Lake, plain_template: str, tmp_path: Path
) -> None:
    (tmp_path / f"{plain_template}.j2").write_text("{% block text %}{{ word }}{% endblock %}")
    alerts(lake, ["a"])
    with pytest.raises(Fatal, match=r"plain: block text: 'word' is undefined; there are: .*words"):
        pusher.samples(message_spec(template=plain_template), lake, "c-a")
