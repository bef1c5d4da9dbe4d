"""Vendors' own ways to refuse, and what a destination makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from syncs_support import Reply, Vendor
from test_destinations import cases_of, earlier, push

from syncs import destinations
from syncs.destinations import Sandbox, aim, sandbox_target
from syncs.destinations.teams import escape
from syncs.destinations.webhook import sign
from syncs.http import Http
from syncs.results import Fatal, Message, Rejected, Retryable, Row, Unanswered


@pytest.fixture
def http() -> Iterator[Http]:
    client = Http(timeouts=(2.0, 0.5))
    yield client
    client.close()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, 21211, Rejected),  # no number
        (403, 21408, Rejected),  # a country that is not allowed
        (400, 21606, Fatal),  # the sender cannot send SMS
        (400, 21611, Retryable),  # the sender's queue is full
        (401, 20003, Fatal),
    ],
)
def test_twilio_codes(status: int, code: int, kind: type, vendor: Vendor, http: Http) -> None:
    vendor.play(Reply(status, {"code": code, "message": "no"}))
    with pytest.raises(kind, match=str(code)) as caught:
        push("twilio", vendor, http)
    assert type(caught.value) is kind


def test_twilio_names_a_service_or_a_number(
    vendor: Vendor, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = "MG" + "0" * 32
    destination, (case,) = destinations.load("twilio"), cases_of("twilio")
    target = sandbox_target(destination, Sandbox(vendor.url))
    settings = target.settings.model_copy(update={"sender": service})
    vendor.play(Reply(body=case.SUCCESS))
    destination.push(case.ROWS, destinations.replace(target, settings=settings), http)
    assert vendor.requests[0].json["MessagingServiceSid"] == service
    assert "From" not in vendor.requests[0].json


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(400, 190, Fatal), (400, 80003, Retryable), (403, 4, Retryable), (400, 100, Rejected)],
)
def test_meta_codes(status: int, code: int, kind: type, vendor: Vendor, http: Http) -> None:
    vendor.play(Reply(status, {"error": {"code": code, "message": "said so"}}))
    with pytest.raises(kind, match="said so") as caught:
        push("meta_audiences", vendor, http)
    assert type(caught.value) is kind


def test_meta_counts_invalid_entries_and_the_engine_halves(vendor: Vendor, http: Http) -> None:
    case = cases_of("meta_audiences")[0]
    rows = [Row("k1", "a@x.example", {"email": "a@x.example"}), Row("k2", " ", {"email": " "})]
    vendor.play(Reply(body=case.SUCCESS))
    results = push("meta_audiences", vendor, http, rows, case)
    assert [result.outcome for result in results] == ["delivered", "rejected"]
    assert len(vendor.requests) == 1
    vendor.play(Reply(body=case.MIXED))
    with pytest.raises(Rejected, match="cannot use"):
        push("meta_audiences", vendor, http, [rows[0], rows[0]], case)


@pytest.mark.parametrize("name", ["meta_audiences", "google_customer_match"])
def test_columns_that_identify_nobody_are_refused(name: str, vendor: Vendor, http: Http) -> None:
    row = Row("k1", "a@x.example", {"email": "a@x.example", "churn_score": 0.5})
    with pytest.raises(Fatal, match="column churn_score"):
        push(name, vendor, http, [row])
    assert vendor.requests == []


def test_google_says_who_manages_and_that_all_agreed(vendor: Vendor, http: Http) -> None:
    destination, case = (
        destinations.load("google_customer_match"),
        cases_of("google_customer_match")[0],
    )
    target = aim(sandbox_target(destination, Sandbox(vendor.url)), object_name="77", key="email")
    update = {"login_customer_id": "99-1", "consent": "granted"}
    target = destinations.replace(target, settings=target.settings.model_copy(update=update))
    vendor.play(*earlier(case), Reply(body=case.SUCCESS))
    destination.push(case.ROWS, target, http)
    body = vendor.requests[1].json
    account = body["destinations"][0]["loginAccount"]
    assert account == {"accountType": "GOOGLE_ADS", "accountId": "991"}
    granted = {"adUserData": "CONSENT_GRANTED", "adPersonalization": "CONSENT_GRANTED"}
    assert body["consent"] == granted


def test_a_refresh_token_that_was_withdrawn_needs_a_person(vendor: Vendor, http: Http) -> None:
    vendor.play(Reply(400, {"error": "invalid_grant", "error_description": "expired or revoked"}))
    with pytest.raises(Fatal, match="expired or revoked"):
        push("google_customer_match", vendor, http)


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("1", "delivered"),
        ("Webhook message delivery failed with error: HTTP error 413", "rejected"),
        ("Webhook message delivery failed with error: HTTP error 429", Retryable),
        ("something else", Unanswered),
    ],
)
def test_older_webhooks_of_teams(said: str, outcome: Any, vendor: Vendor, http: Http) -> None:
    vendor.play(Reply(200, said))
    if isinstance(outcome, str):
        assert push("teams", vendor, http)[0].outcome == outcome
    else:
        with pytest.raises(outcome):
            push("teams", vendor, http)


def test_a_card_that_is_too_large_is_not_sent(vendor: Vendor, http: Http) -> None:
    row = Row("k1", "t1", {}, message=Message(None, "x" * 29_000, None))
    assert push("teams", vendor, http, [row])[0].outcome == "rejected"
    assert vendor.requests == []


def test_no_name_becomes_a_link_in_a_card() -> None:
    assert escape("[a](https://x)") == r"\[a\]\(https://x\)"


def test_companies_are_not_found_by_their_domain(vendor: Vendor, http: Http) -> None:
    case = destinations.replace(cases_of("hubspot")[1], KEY="domain")
    with pytest.raises(Fatal, match="does not keep the domain of companies unique"):
        push("hubspot", vendor, http, case=case)


def test_a_secret_that_is_being_replaced_signs_beside_its_successor() -> None:
    old, new = "whsec_b2xk", "whsec_bmV3"
    both = sign(f"{old} {new}", "id", "1", b"{}")
    assert both.split() == [sign(old, "id", "1", b"{}"), sign(new, "id", "1", b"{}")]
