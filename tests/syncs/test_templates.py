from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncs import templates
from syncs.destinations.slack import escape
from syncs.results import Fatal, Rejected

CHURN: dict[str, Any] = {
    "channel": "#care",
    "customer_name": "Ann <!channel> Example",
    "email": "ann@shop.example",
    "company": "Shop & Sons",
    "plan": "team",
    "churn_score": 0.734,
    "churn_band": "high",
    "churn_score_before": 0.21,
    "session_minutes_recent": None,
    "session_minutes_usual": None,
    "days_since_core_feature": None,
    "cancellation_page_seen_at": None,
    "reason_1": "Support tickets opened in 30 days: 3",
    "reason_2": "Not seen for 21 days; a usual gap is 3 days",
    "reason_3": None,
    "mrr": 499,
    "customer_since": "2025-03-04T00:00:00.000Z",
    "subscription_expires_in_days": 12,
    "lifetime_value": 1234.5,
    "last_seen_at": "2026-01-02T03:04:05.000Z",
    "open_tickets": 3,
}
CART: dict[str, Any] = {
    "to_email": "ann@shop.example",
    "customer_name": "Ann Example",
    "cart_total": 30,
    "currency": "EUR",
    "items": json.dumps([{"name": "<b>Tea</b>", "quantity": 2, "price": 15}, {"product_id": "p1"}]),
}
CARD: dict[str, Any] = {"amount": 99, "currency": "EUR", "merchant": "Corner Bakery"}


def test_churn_message_tells_account_reasons_and_what_to_do() -> None:
    text = templates.render("churn_risk_rose", CHURN, escape=escape).text
    assert (
        text
        == """\
:rotating_light: *Churn risk rose: Ann &lt;!channel&gt; Example* (Shop &amp; Sons)
Risk of leaving: *73 %*, high; a week ago it was as low as 21 %

*Account*
• Plan *team*, 499.00 a month, ends in 12 days
• Customer since 4 Mar 2025, 1,234.50 lifetime value
• Last seen 2 Jan 2026, 3 open tickets
• ann@shop.example

*Why*
1. Support tickets opened in 30 days: 3
2. Not seen for 21 days; a usual gap is 3 days

*Suggested approach: solve before you sell*
Read the open ticket first, bring its owner into the call, and promise a date.
> Hi Ann, I saw that something has been in your way and that we have not solved it yet. I have \
taken it on myself: may I call you today, and tell you by when it will work?"""
    )


ADVICE = {
    "silence": "reopen the conversation",
    "long_absence": "reopen the conversation",
    "no_recent_purchase": "ask, do not push",
    "fewer_visits": "reopen the conversation",
    "shorter_visits": "reopen the conversation",
    "core_feature_left": "show value",
    "payment_failed": "remove the friction",
    "fewer_purchases": "ask, do not push",
    "cancellation_page": "call today",
    "tickets": "solve before you sell",
    "subscription_ends": "remove the friction",
    "unmoved_by_email": "change the channel",
}


def rules() -> list[tuple[str, str]]:
    """Every rule that may make someone leave, with its words."""
    file = Path(__file__).parents[2] / "dbt_project" / "seeds" / "churn_rules.csv"
    with file.open(newline="") as lines:
        found = list(csv.DictReader(lines))
    return [(row["rule"], row["reason"]) for row in found if float(row["points"]) > 0]


@pytest.mark.parametrize(("rule", "reason"), [*rules(), ("none", "Something else"), ("none", None)])
def test_the_script_follows_the_first_reason(rule: str, reason: str | None) -> None:
    values = CHURN | {"reason_1": reason, "reason_2": None, "customer_name": None}
    text = templates.render("churn_risk_rose", values, escape=escape).text
    assert f"*Suggested approach: {ADVICE.get(rule, 'listen first')}*" in text
    assert "> Hi there," in text


def test_signs_are_told_first_and_pick_the_script() -> None:
    signs = {
        "session_minutes_recent": 2.5,
        "session_minutes_usual": 11.0,
        "days_since_core_feature": 21,
        "cancellation_page_seen_at": "2026-01-02T03:04:05.000Z",
    }
    text = templates.render("churn_risk_rose", CHURN | signs | {"churn_score_before": None}).text
    assert (
        "1. Looked at the page to cancel at on 2 Jan 2026; visits of 2.5 minutes, usually 11.0; "
        "core feature unused for 21 days\n2. Support tickets opened in 30 days: 3\n" in text
    )
    assert "*Suggested approach: call today*" in text
    assert "a week ago" not in text


def test_a_spike_and_a_private_address_are_told() -> None:
    spike = {
        "customer_name": "Ann Example", "email": "ann@shop.example", "company": "Shop",
        "plan": "team", "sessions_7d": 12, "sessions_usual": 2.5, "pricing_page_visits_30d": 1,
        "feature_uses_30d": 0, "lifetime_value": 1234.5,
    }  # fmt: skip
    text = templates.render("engagement_spike", spike, escape=escape).text
    assert "*12 visits* in a week; 2.5 are usual." in text
    assert "no new features tried, 1 look at the prices" in text
    assert "they compare prices" in text
    assert "ask what is new" in templates.render("engagement_spike", dict.fromkeys(spike)).text

    contact = {
        "customer_name": "Ann <b>", "email": "ann@web.example",
        "previous_email": "ann@shop.example", "previous_domain": "shop.example",
        "account_name": "Shop", "mrr": 499, "other_members": 1,
    }  # fmt: skip
    text = templates.render("contact_changed_to_personal", contact, escape=escape).text
    assert "*Ann &lt;b&gt; now uses a private address*\nann@shop.example → ann@web.example" in text
    assert "Account *Shop*, 499.00 a month, 1 other contact known" in text
    alone = templates.render("contact_changed_to_personal", dict.fromkeys(contact)).text
    assert "Account" not in alone
    assert "a company may leave" in alone


def test_nothing_known_still_makes_a_message() -> None:
    text = templates.render("churn_risk_rose", dict.fromkeys(CHURN)).text
    assert "A customer" in text and "None" not in text


def test_cart_mail() -> None:
    message = templates.render("cart_abandoned", CART)
    assert message.subject == "Ann, you left something in your cart"
    assert "2 x <b>Tea</b>  15.00 EUR" in message.text and "1 x p1" in message.text
    assert "Total: 30.00 EUR" in message.text
    assert message.html is not None
    assert "2 × &lt;b&gt;Tea&lt;/b&gt;" in message.html and "30.00 EUR" in message.html
    assert "Back to your cart" not in message.html
    linked = templates.render("cart_abandoned", CART | {"cart_url": "https://x.example/c"})
    assert "https://x.example/c" in linked.text and "https://x.example/c" in str(linked.html)
    nameless = templates.render("cart_abandoned", CART | {"customer_name": "ann@shop.example"})
    assert nameless.subject == "You left something in your cart"
    assert nameless.text.startswith("Hello,")
    crooked = templates.render("cart_abandoned", CART | {"cart_url": "javascript:alert(1)"})
    assert "javascript" not in str(crooked.html)


def test_mail_about_a_failed_payment() -> None:
    fields = {
        "customer_name": "Ann Example", "amount": 49.0, "currency": "EUR", "billing_url": None,
        "next_attempt_at": "2026-12-04T00:00:00+00:00",
    }  # fmt: skip
    message = templates.render("payment_failed", fields)
    assert "your payment of 49.00 EUR did not go through" in message.text
    assert "We try again on 4 Dec 2026" in message.text and "4 Dec 2026" in str(message.html)
    last = templates.render("payment_failed", dict.fromkeys(fields) | {"billing_url": "https://p"})
    assert "again" not in last.text and "None" not in last.text + str(last.html)
    assert "Your payment details: https://p" in last.text


def test_mail_about_a_product_that_was_only_looked_at() -> None:
    fields = {
        "customer_name": "Ann Example", "product_name": "Arc <Lamp>", "price": 189.0,
        "currency": "EUR", "complement_name": "Bulb",
    }  # fmt: skip
    message = templates.render("browsed_not_bought", fields)
    assert message.subject == "Still thinking about Arc <Lamp>?"
    assert "you looked at Arc <Lamp>, 189.00 EUR." in message.text
    assert "also took Bulb" in message.text and "Arc &lt;Lamp&gt;" in str(message.html)
    alone = templates.render("browsed_not_bought", fields | {"complement_name": None})
    assert "also took" not in alone.text + str(alone.html)


def test_every_mail_says_who_sends_it_and_how_to_get_no_more() -> None:
    added = {
        "sender_name": "Shop & Sons",
        "postal_address": "1 Main St",
        "unsubscribe_url": "https://shop.example/out?a=1&action=k",
    }
    message = templates.render("cart_abandoned", {**added, **CART})
    assert message.text.endswith(
        "--\nShop & Sons, 1 Main St\nNo more such mails: https://shop.example/out?a=1&action=k"
    )
    assert message.html is not None
    assert message.html.startswith("<!doctype html>") and message.html.endswith("</html>")
    assert "Shop &amp; Sons, 1 Main St" in message.html
    assert 'href="https://shop.example/out?a=1&amp;action=k"' in message.html
    assert message.html.count("<p>Hello Ann Example,</p>") == 1
    assert "No more" not in templates.render("cart_abandoned", CART).text


def test_a_card_is_frozen_in_one_sms() -> None:
    text = templates.render("card_frozen", CARD | {"card_last4": "1234"}).text
    assert text.startswith("Your card ending 1234 is frozen: 99.00 EUR at Corner Bakery looked")


@given(
    st.text(max_size=60) | st.none(),
    st.floats(-1e9, 1e9),
    st.text(max_size=12) | st.none(),
    st.sampled_from(["EUR", "JPY", None]),
)
def test_an_sms_has_160_letters_of_the_gsm_alphabet(
    merchant: str | None, amount: float, last4: str | None, currency: str | None
) -> None:
    values = {"merchant": merchant, "amount": amount, "card_last4": last4, "currency": currency}
    text = templates.render("card_frozen", values).text
    assert len(text) <= 160, len(text)
    # What the alphabet lacks would halve the room and more: 70 letters.
    assert not set(text) - set(templates._GSM)


@pytest.mark.parametrize(
    ("template", "values", "words"),
    [
        ("{{ 0.734 | percent }} {{ none | percent }}", {}, "73 % unknown"),
        ("{{ 1234.5 | money('EUR') }} {{ none | money }}", {}, "1,234.50 EUR unknown"),
        ("{{ a | date }} {{ b | date }} {{ none | date('never') }}",
         {"a": "2026-01-02T23:59:59.000Z", "b": "2026-11-30"}, "2 Jan 2026 30 Nov 2026 never"),
        ("{{ a | gsm }}", {"a": "Łódź Café €5 [x] 😀 Ω"}, "Lodz Café EUR5 (x) ? Ω"),
    ],
)  # fmt: skip
def test_filters(template: str, values: dict[str, Any], words: str, folder: Path) -> None:
    (folder / "own.j2").write_text("{% block text %}" + template + "{% endblock %}")
    assert templates.render("own", values).text == words


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(templates, "FOLDERS", [tmp_path])
    return tmp_path


def test_a_variable_that_is_missing_is_an_error_that_says_what_there_is() -> None:
    values = {k: v for k, v in CHURN.items() if k != "churn_score"}
    words = "churn_risk_rose: block text: 'churn_score' is undefined; there are: cancellation_page_"
    with pytest.raises(Fatal, match=words):
        templates.render("churn_risk_rose", values)


def test_a_layout_that_is_missing_is_an_error(folder: Path) -> None:
    (folder / "own.j2").write_text("{% extends 'layouts/none.j2' %}{% block text %}x{% endblock %}")
    with pytest.raises(Fatal, match="no template 'layouts/none"):
        templates.render("own", {})
    (folder / "own.j2").write_text("{% extends a %}{% block text %}x{% endblock %}")
    with pytest.raises(Fatal, match="name the layout as it is"):
        templates.render("own", {"a": "b"})


def test_values_that_do_not_fit_do_not_leak() -> None:
    with pytest.raises(Rejected) as caught:
        templates.render("cart_abandoned", CART | {"cart_total": "ann@shop.example"})
    assert "ann@" not in str(caught.value)


def test_templates_are_sandboxed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "FOLDERS", [tmp_path])
    (tmp_path / "evil.j2").write_text(
        "{% block text %}{{ ''.__class__.__mro__[1].__subclasses__() }}{% endblock %}"
    )
    with pytest.raises(Fatal):
        templates.render("evil", {})
    (tmp_path / "broken.j2").write_text("{% block text %}{{ ")
    with pytest.raises(Fatal, match="template broken"):
        templates.render("broken", {})
