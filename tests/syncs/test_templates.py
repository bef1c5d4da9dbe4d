from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from syncs import templates
from syncs.destinations.slack import escape
from syncs.results import Fatal, Rejected

CHURN: dict[str, Any] = {
    "channel": "#care",
    "customer_name": "Ann <!channel> Example",
    "email": "ann@shop.example",
    "company": "Shop & Sons",
    "plan": "pro",
    "churn_score": 0.734,
    "churn_band": "high",
    "reason_1": "3 open support tickets",
    "reason_2": "No login for 21 days",
    "reason_3": None,
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


def test_churn_message_tells_account_reasons_and_what_to_do() -> None:
    text = templates.render("churn_risk_rose", CHURN, escape=escape).text
    assert "*Churn risk rose: Ann &lt;!channel&gt; Example* (Shop &amp; Sons)" in text
    assert "73 % (high)" in text and "1,234.50" in text and "2026-01-02" in text
    assert "1. 3 open support tickets\n2. No login for 21 days\n\n" in text
    assert "Solve before you sell" in text and "> Hi Ann," in text


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("No login for 21 days", "Reopen the conversation"),
        ("Subscription expires in 5 days", "Remove the friction"),
        ("Uses fewer features than before", "Show value"),
        ("Orders came every week, the last one 40 days ago", "Ask, do not push"),
        ("Does not open our emails", "Change the channel"),
        ("Something else", "Listen first"),
        (None, "Listen first"),
    ],
)
def test_the_script_follows_the_first_reason(reason: str | None, advice: str) -> None:
    values = CHURN | {"reason_1": reason, "reason_2": None, "customer_name": None}
    text = templates.render("churn_risk_rose", values, escape=escape).text
    assert advice in text
    assert "> Hi there," in text


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


def test_a_field_that_is_missing_is_an_error() -> None:
    with pytest.raises(Fatal, match="block text: 'churn_score' is undefined"):
        templates.render("churn_risk_rose", {k: v for k, v in CHURN.items() if k != "churn_score"})


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
