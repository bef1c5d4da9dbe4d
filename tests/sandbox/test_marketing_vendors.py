"""Destinations against their stand-ins: joining, leaving, limits, refusals in their words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from syncs import destinations
from syncs.destinations import Sandbox, aim, salesforce, sandbox_target
from syncs.http import Http
from syncs.results import Fatal, Message, Rejected, Retryable, Row, RowResult
from syncs.sandbox.server import background

from .conftest import Client

MOMENT = "2026-01-02T03:04:05Z"
#: The key column, and an object for each kind of sync.
STATE = {
    "braze": ("email", "users"),
    "customerio": ("email", "people"),
    "intercom": ("email", "contacts"),
    "iterable": ("email", "users"),
    "klaviyo": ("email", "profiles"),
    "mailchimp": ("email_address", "lists/a1"),
    "salesforce": ("Email", "Contact"),
    "sendgrid": ("email", "contacts"),
}
LISTS = {
    "customerio": "segments/7",
    "iterable": "lists/42",
    "klaviyo": "lists/Xy1",
    "mailchimp": "lists/a1/tags/9",
    "sendgrid": "lists/l-1",
}
#: Vendors that refuse a whole request for one bad row; the engine halves it.
WHOLE = {"intercom", "sendgrid"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One sandbox for all: each test uses addresses of its own."""
    with background(tmp_path_factory.mktemp("vendors") / "sandbox") as address:
        client = Client(address)
        for name in STATE:
            client.post("/sandbox/limits", json={"vendor": name, "enabled": False})
        yield client
        client.session.close()


@pytest.fixture
def send(place: Client) -> Iterator[Any]:
    http = Http(timeouts=(2.0, 5.0))

    def push(name: str, object_name: str, rows: list[Row], mode: str = "upsert") -> list[RowResult]:
        destination = destinations.load(name)
        target = sandbox_target(destination, Sandbox(place.url))
        key = STATE[name][0]
        return destination.push(
            rows, aim(target, object_name=object_name, key=key, mode=mode), http
        )

    yield push
    http.close()


def state(name: str, email: str, **fields: Any) -> Row:
    given = {STATE[name][0]: email, **fields}
    if name == "mailchimp":
        given["status"] = "subscribed"
    return Row(f"k-{email}", email, given)


def outcomes(results: list[RowResult]) -> list[str]:
    return [result.outcome for result in results]


def actions(place: Client, name: str, key: str) -> list[str]:
    return [e["action"] for e in place.effects(destination=name, limit=5000) if e["key"] == key]


@pytest.mark.parametrize("name", STATE)
def test_state_is_written_once_and_a_repetition_changes_nothing(
    name: str, place: Client, send: Any
) -> None:
    email = f"Ann-{name}@shop.example"
    _, kind = STATE[name]
    for score in (0.25, 0.25, 0.75):
        assert outcomes(send(name, kind, [state(name, email, score=score)])) == ["delivered"]
    found = [e for e in place.effects(destination=name, limit=5000) if e["key"] == email]
    assert [e["action"] for e in found] == [
        "contact_created", "contact_unchanged", "contact_updated",
    ]  # fmt: skip
    (change,) = found[-1]["changes"].values()
    assert change == ["0.25", "0.75"]


@pytest.mark.parametrize("name", STATE)
def test_a_refused_row_does_not_cost_its_neighbour(name: str, place: Client, send: Any) -> None:
    good, bad = f"good-{name}@shop.example", f"bad-{name}@shop.example"
    place.fault(path=f"/{name}", kind="reject_rows", match="bad-")
    rows = [state(name, good), state(name, bad)]
    if name in WHOLE:
        with pytest.raises(Rejected, match="refuse this row"):
            send(name, STATE[name][1], rows[1:])
    elif name == "klaviyo":  # it tells in its job's list of errors alone
        assert outcomes(send(name, STATE[name][1], rows)) == ["delivered"] * 2
    else:
        results = send(name, STATE[name][1], rows)
        assert outcomes(results) == ["delivered", "rejected"]
        assert results[1].reason
    place.call("DELETE", "/sandbox/faults")
    assert actions(place, name, bad) == []


@pytest.mark.parametrize("name", LISTS)
def test_audiences_are_joined_and_left(name: str, place: Client, send: Any) -> None:
    stays, leaves = f"stays-{name}@shop.example", f"leaves-{name}@shop.example"
    rows = [state(name, email) for email in (stays, leaves)]
    if name in ("mailchimp", "customerio"):
        send(name, STATE[name][1], rows)
    joined = send(name, LISTS[name], rows, "mirror")
    left = [replace(rows[1], leave=True)]
    assert outcomes(joined) == ["delivered"] * 2
    for _ in range(2):  # leaving twice is harmless
        assert outcomes(send(name, LISTS[name], left, "mirror")) == ["delivered"]
    assert actions(place, name, stays)[-1] == "contact_joined"
    assert [a for a in actions(place, name, leaves.lower()) if a in ("contact_left",)] == [
        "contact_left"
    ]
    strangers = [Row("k", f"nobody-{name}@shop.example", {}, leave=True)]
    if name != "mailchimp":
        assert outcomes(send(name, LISTS[name], strangers, "mirror")) == ["delivered"]
    else:
        (result,) = send(name, LISTS[name], strangers, "mirror")
        assert (result.outcome, result.reason) == ("rejected", "Email address is not on the list.")


@pytest.mark.parametrize("name", STATE)
def test_a_check_says_whose_account_it_is(name: str, place: Client) -> None:
    destination, http = destinations.load(name), Http()
    target = sandbox_target(destination, Sandbox(place.url))
    assert destination.check(target, http)
    wrong = {"api_key", "token", "access_token"} & set(type(target.settings).model_fields)
    secret = type(getattr(target.settings, next(iter(wrong))))("guess")
    bad = target.settings.model_copy(update={next(iter(wrong)): secret})
    with pytest.raises(Fatal, match="401"):
        destination.check(replace(target, settings=bad), http)
    http.close()


@pytest.mark.parametrize(
    ("name", "requests_in_a_row"),
    [("mailchimp", 10), ("klaviyo", 10), ("iterable", 5), ("sendgrid", 3)],
)
def test_the_vendors_rate_limit_asks_to_wait(
    name: str, requests_in_a_row: int, place: Client, send: Any
) -> None:
    place.post("/sandbox/limits", json={"vendor": name, "enabled": True})
    row = state(name, f"limit-{name}@shop.example")
    with pytest.raises(Retryable) as caught:
        for _ in range(requests_in_a_row + 1):
            send(name, STATE[name][1], [row])
    assert caught.value.retry_after and caught.value.retry_after >= 1
    place.post("/sandbox/limits", json={"vendor": name, "enabled": False})


@pytest.mark.parametrize(
    ("name", "limit"), [("salesforce", 200), ("mailchimp", 500), ("braze", 75)]
)
def test_the_declared_batch_is_the_vendors_limit(
    name: str, limit: int, place: Client, send: Any
) -> None:
    assert destinations.load(name).of(STATE[name][1]).batch_size == limit
    rows = [state(name, f"n{n}-{name}@shop.example") for n in range(limit + 1)]
    assert set(outcomes(send(name, STATE[name][1], rows[:limit]))) == {"delivered"}
    with pytest.raises(Rejected, match=str(limit)):
        send(name, STATE[name][1], rows)


def test_events_are_told_and_a_repeated_one_shows(place: Client, send: Any) -> None:
    event = Row("k1", "t1", {"email": "ev@shop.example", "name": "Risk rose", "n": 1}, "c", MOMENT)
    for name in ("braze", "customerio"):
        for _ in range(2):
            assert outcomes(send(name, "events", [event], "message")) == ["delivered"]
    told = {
        name: [
            e["duplicate"]
            for e in place.effects(destination=name, limit=5000)
            if e["key"] == "ev@shop.example"
        ]
        for name in ("braze", "customerio")
    }
    # Customer.io drops what it has seen; with Braze the ledger is what keeps it from happening.
    assert told == {"braze": [False, True], "customerio": [False]}


def test_update_only_makes_no_stranger(place: Client, send: Any) -> None:
    for name, kind in (("braze", "users"), ("intercom", "contacts")):
        email = f"stranger-{name}@shop.example"
        assert outcomes(send(name, kind, [state(name, email)], "update_only")) == ["delivered"]
        assert actions(place, name, email) == []


def test_sendgrid_mails_and_marks_a_repetition(place: Client, send: Any) -> None:
    message = Message("Your cart", "plain words", "<p>rich words</p>")
    mail = Row("k9", "t9", {"to_email": "cart@shop.example"}, "c", MOMENT, message)
    assert outcomes(send("sendgrid", "mail", [mail], "message") * 2) == ["delivered"] * 2
    send("sendgrid", "mail", [mail], "message")
    first, again = (
        e
        for e in place.effects(destination="sendgrid", limit=5000)
        if e["key"] == "cart@shop.example"
    )
    assert (first["action"], first["duplicate"], again["duplicate"]) == ("email_sent", False, True)
    assert first["detail"]["list_unsubscribe"].startswith("<mailto:hello@signalbox.example")


def test_salesforce_gets_a_token_and_a_new_one_when_it_has_run_out(place: Client) -> None:
    base_url = f"{place.url}/salesforce"

    def login(client_id: str, secret: str) -> Any:
        values: dict[str, Any] = {"client_id": client_id, "client_secret": secret}
        return salesforce.Settings(_env_file=None, base_url=base_url, **values)

    destination, http = destinations.load("salesforce"), Http()
    target = aim(sandbox_target(destination, Sandbox(place.url)), object_name="Lead", key="Email")
    target = replace(target, settings=login("app", "sandbox"))
    row = Row("k", "lead@shop.example", {"Email": "lead@shop.example"})
    assert outcomes(destination.push([row], target, http)) == ["delivered"]
    account = (base_url, "app")
    assert salesforce._tokens[account] == "sandbox"
    salesforce._tokens[account] = "run out"
    assert outcomes(destination.push([row], target, http)) == ["delivered"]
    with pytest.raises(Fatal, match="invalid client"):
        destination.push([row], replace(target, settings=login("other", "guess")), http)
    http.close()


def test_state_survives_a_restart(tmp_path: Path) -> None:
    directory = tmp_path / "sandbox"
    row = Row("k", "ann@shop.example", {"email": "ann@shop.example", "plan": "pro"})
    seen = []
    for _ in range(2):
        with background(directory) as address:
            destination, http = destinations.load("braze"), Http()
            target = sandbox_target(destination, Sandbox(address.url))
            destination.push([row], aim(target, object_name="users", key="email"), http)
            http.close()
            seen = requests.get(f"{address.url}/sandbox/effects", timeout=20).json()
    assert [effect["action"] for effect in seen] == ["contact_created", "contact_unchanged"]
