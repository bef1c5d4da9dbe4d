from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from lakes import query

from ingestion import rest_api, sources
from ingestion.destination import Lake
from ingestion.load import Loader
from ingestion.refresh import SourceResult, refresh
from ingestion.sources import Link, RefreshSource, SourceError, crm, support

TOKEN = "pat-secret"


class Vendor(ThreadingHTTPServer):
    """A CRM and a help desk with pages of two."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.contacts: list[dict[str, Any]] = []
        self.tickets: list[dict[str, Any]] = []
        self.users: list[dict[str, Any]] = []  # whom Zendesk lists beside the tickets
        self.answers: list[tuple[int, dict[str, str], bytes]] = []  # given before any other
        self.requests: list[dict[str, str]] = []


class Handler(BaseHTTPRequestHandler):
    server: Vendor

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.server.requests.append(asked)
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._answer(401, {}, b"{}")
        if self.server.answers:
            return self._answer(*self.server.answers.pop(0))
        if url.path == "/crm/v3/objects/contacts":
            start = int(asked.get("after", "0"))
            body: dict[str, Any] = {"results": self.server.contacts[start : start + 2]}
            if start + 2 < len(self.server.contacts):
                body["paging"] = {"next": {"after": str(start + 2)}}
        else:
            since = asked.get("updated_since", "")
            found = [t for t in self.server.tickets if t["updated_at"] >= since]
            start = int(asked.get("page[after]", "0"))
            body = {"tickets": found[start : start + 2]}
            if asked.get("include") == "users":
                body["users"] = self.server.users
            more = start + 2 < len(found)
            body["meta"] = {"has_more": more, "after_cursor": str(start + 2)}
        return self._answer(200, {}, json.dumps(body).encode())

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def load(
    name: str, lake: Lake, url: str, *, full: bool = False, on_links: Any = None, **own: str
) -> SourceResult:
    source = sources.load(name)
    assert isinstance(source, RefreshSource)
    settings = source.settings(url=url, token=TOKEN, **own)
    return refresh(lake, source, settings, full=full, on_links=on_links)


def contacts(url: str, token: str = TOKEN) -> list[dict[str, Any]]:
    return list(crm.rows(crm.Settings(url=url, token=token)))


def contact(number: int, **properties: str | None) -> dict[str, Any]:
    return {
        "id": str(number),
        "properties": {"email": f"c{number}@example.com", **properties},
        "createdAt": "2026-01-01T00:00:00.000Z",
        "updatedAt": "2026-01-02T00:00:00.000Z",
        "archived": False,
    }


def ticket(number: int, updated_at: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "subject": "Où est ma commande ?",
        "status": "open",
        "priority": "high",
        "requester_email": f"c{number}@example.com",
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": updated_at,
        **changes,
    }


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    server = Vendor()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(rest_api, "sleep", waited.append)
    return waited


@pytest.fixture
def raw(lake: Lake, tmp_path: Any) -> Lake:
    loader = Loader(lake.catalog_url, lake.data_path, tmp_path / "log", lake.pipelines_dir)
    loader.ensure_tables()
    loader.close()
    return lake


def test_contacts_are_replaced_as_a_whole(raw: Lake, vendor: Vendor) -> None:
    vendor.contacts = [contact(1, churn_band="low"), contact(2), contact(3), contact(4), contact(5)]
    assert load("crm", raw, vendor.url + "/").rows == 5
    assert load("crm", raw, vendor.url).rows == 5
    assert query(raw, "select count(*), count(distinct contact_id) from raw.crm_contacts") == [
        (5, 5)
    ]
    vendor.contacts = [contact(1, churn_band="high", email=None)]
    load("crm", raw, vendor.url)
    ((row),) = query(
        raw,
        "select contact_id, email, properties ->> 'churn_band', updated_at::varchar, archived, "
        "_dlt_load_id is not null from raw.crm_contacts",
    )
    assert row == ("1", None, "high", "2026-01-02 00:00:00+00", False, True)
    assert "churn_band" in vendor.requests[0]["properties"]

    vendor.contacts = []
    assert load("crm", raw, vendor.url).rows == 0
    assert query(raw, "select * from raw.crm_contacts") == []


def test_tickets_are_merged(raw: Lake, vendor: Vendor) -> None:
    assert load("support", raw, vendor.url).rows == 0
    vendor.tickets = [ticket(n, f"2026-01-0{n}T00:00:00Z") for n in (1, 2, 3)]
    assert load("support", raw, vendor.url).rows == 3
    assert "updated_since" not in vendor.requests[-1]
    # The newest is answered again; one changes, one is answered twice while it changes.
    vendor.tickets = [
        vendor.tickets[1],
        ticket(4, "2026-01-05T00:00:00Z", status="open"),
        ticket(1, "2026-01-04T00:00:00Z", status="solved"),
        ticket(4, "2026-01-06T00:00:00Z", status="pending"),
        vendor.tickets[2],
    ]
    vendor.requests.clear()
    assert load("support", raw, vendor.url).rows == 4
    assert vendor.requests[0]["updated_since"] == "2026-01-03T00:00:00Z"
    expected = [("1", "solved"), ("2", "open"), ("3", "open"), ("4", "pending")]
    statuses = "select ticket_id, status from raw.support_tickets order by 1"
    assert query(raw, statuses) == expected
    assert load("support", raw, vendor.url, full=True).rows == 5
    assert query(raw, statuses) == expected
    assert query(
        raw,
        "select requester_email, subject, payload ->> 'priority' from raw.support_tickets "
        "where ticket_id = '1'",
    ) == [("c1@example.com", "Où est ma commande ?", "high")]


def test_records_tell_which_ids_they_hold_of_a_person(raw: Lake, vendor: Vendor) -> None:
    vendor.contacts = [
        contact(1, our_id="u_1", hs_merged_object_ids="7;8", hs_additional_emails="one@x.example"),
        contact(2),
        contact(3, email=None),
    ]
    told: list[Link] = []
    load("crm", raw, vendor.url, on_links=told.extend, user_id_property="our_id")
    assert "our_id" in vendor.requests[0]["properties"].split(",")
    merged = (("crm_contact_id", "7"), ("crm_contact_id", "8"))
    emails = (("email", "c1@example.com"), ("email", "one@x.example"))
    assert told == [
        Link("crm_contact", "1", (("user_id", "u_1"), *emails, *merged)),
        Link("crm_contact", "2", (("email", "c2@example.com"),)),
    ]

    # Zendesk lists the people beside the tickets; a desk that does not names them inside.
    vendor.users = [{"id": 71, "name": "Ann", "email": "ann@example.com", "external_id": "u_1"}]
    known = ticket(1, "2026-01-01T00:00:00Z", requester_id=71)
    del known["requester_email"]
    inside = {"requester_id": 72, "requester": {"email": "ben@example.com", "external_id": 5}}
    vendor.tickets = [known, ticket(2, "2026-01-02T00:00:00Z", **inside, requester_email=None)]
    vendor.tickets.append(ticket(3, "2026-01-03T00:00:00Z"))
    told.clear()
    load("support", raw, vendor.url, on_links=told.extend)
    assert told == [
        Link("support_user", "71", (("user_id", "u_1"), ("email", "ann@example.com"))),
        Link("support_user", "72", (("user_id", "5"), ("email", "ben@example.com"))),
    ]
    assert query(
        raw, "select requester_email from raw.support_tickets where ticket_id <> '3' order by 1"
    ) == [("ann@example.com",), ("ben@example.com",)]


def test_a_vendor_is_read_before_the_lake_is_held(raw: Lake, vendor: Vendor) -> None:
    vendor.contacts = [contact(n) for n in range(4)]
    asked: list[int] = []

    @contextmanager
    def writer() -> Iterator[None]:
        asked.append(len(vendor.requests))
        yield
        asked.append(len(vendor.requests))

    source = sources.load("crm")
    assert isinstance(source, RefreshSource)
    refresh(raw, source, source.settings(url=vendor.url, token=TOKEN), writer=writer)
    assert len(vendor.requests) > 1
    assert asked == [len(vendor.requests)] * 2


def test_a_failure_midway_leaves_the_table(raw: Lake, vendor: Vendor, waits: list[float]) -> None:
    vendor.contacts = [contact(n) for n in range(4)]
    load("crm", raw, vendor.url)
    first_page = json.dumps({"results": [contact(9)], "paging": {"next": {"after": "1"}}})
    vendor.answers = [(200, {}, first_page.encode()), *[(500, {}, b"")] * rest_api.ATTEMPTS]
    with pytest.raises(SourceError, match="answered 500 5 times"):
        load("crm", raw, vendor.url)
    assert query(raw, "select count(*) from raw.crm_contacts") == [(4,)]
    vendor.contacts = vendor.contacts[:1]
    load("crm", raw, vendor.url)
    assert query(raw, "select count(*) from raw.crm_contacts") == [(1,)]


def test_retry_after_is_honoured(vendor: Vendor, waits: list[float]) -> None:
    vendor.contacts = [contact(1)]
    vendor.answers = [
        (429, {"Retry-After": "7"}, b""),
        (503, {"Retry-After": formatdate(4102444800, usegmt=True)}, b""),
    ]
    with pytest.raises(SourceError, match="asks to be left alone"):
        contacts(vendor.url)
    assert waits == [7.0]
    vendor.answers = [(429, {}, b""), (429, {"Retry-After": "soon"}, b"")]
    assert len(contacts(vendor.url)) == 1
    assert waits == [7.0, 0.5, 1.0]


def test_a_contact_that_moves_between_pages_comes_once(vendor: Vendor) -> None:
    vendor.contacts = [contact(1), contact(2), contact(2), contact(3)]
    assert [row["contact_id"] for row in contacts(vendor.url)] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, {}, b""), "answered 404"),
        ((200, {}, b"<html>"), "not a JSON object"),
        ((200, {}, b"[]"), "not a JSON object"),
        ((200, {}, b'{"results": 3}'), "does not understand"),
        ((200, {}, b'{"results": [{"properties": {}}]}'), "does not understand"),
    ],
)
def test_nonsense_is_refused(
    vendor: Vendor, answer: tuple[int, dict[str, str], bytes], message: str
) -> None:
    vendor.answers = [answer]
    with pytest.raises(SourceError, match=message):
        contacts(vendor.url)


def test_errors_keep_the_token_secret(vendor: Vendor, waits: list[float]) -> None:
    with pytest.raises(SourceError, match=r"refused the token.*SIGNALBOX_SUPPORT_TOKEN") as caught:
        list(support.rows(support.Settings(url=vendor.url, token="wrong-secret")))
    assert "wrong-secret" not in str(caught.value)
    vendor.server_close()
    with pytest.raises(SourceError, match="does not answer") as caught:
        contacts(f"http://127.0.0.1:{vendor.server_port}")
    assert TOKEN not in str(caught.value)
