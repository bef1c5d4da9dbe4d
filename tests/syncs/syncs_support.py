"""What the tests of the syncs share: a vendor that records and answers, specs, rows."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

import duckdb

from syncs.destinations import Sandbox
from syncs.facts import LakeFacts
from syncs.http import Http
from syncs.ledger import Ledger
from syncs.push import Pusher
from syncs.results import Row
from syncs.sending import Pace
from syncs.spec import SyncSpec


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes
    method: str = "POST"

    @property
    def json(self) -> Any:
        """The body: JSON, or the fields of a form."""
        if "form-urlencoded" in self.headers.get("content-type", ""):
            return dict(parse_qsl(self.body.decode(), keep_blank_values=True))
        return json.loads(self.body) if self.body else None


@dataclass
class Reply:
    """A scripted answer. `drop` closes the connection after the request was read."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False


@dataclass(frozen=True)
class Case:
    """Rows for one object of a destination, and the exact request they become.

    `EARLIER` are the requests that come before it: method, path, body (None: none), answer.
    """

    OBJECT: str
    KEY: str
    ROWS: list[Row]
    PATH: str
    GOLDEN: Any
    SUCCESS: Any
    MIXED_STATUS: int
    MIXED: Any
    HEADERS: dict[str, str] = field(default_factory=dict)
    METHOD: str = "POST"
    EARLIER: tuple[tuple[str, str, Any, Any], ...] = ()


class Vendor:
    """A real HTTP server that records what it is sent and answers as `answer` says."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Request], Reply] = lambda request: Reply()
        vendor = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.path, headers, self.rfile.read(length), self.command)
                vendor.requests.append(request)
                reply = vendor.answer(request)
                if reply.drop:
                    self.close_connection = True
                    return
                body = json.dumps(reply.body).encode()
                self.send_response(reply.status)
                self.send_header("Content-Type", "application/json")
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *args: Any) -> None:
                """A client that left early is part of the tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def play(self, *replies: Reply) -> None:
        """Answer with these, one after the other; the last one for ever."""
        script = list(replies)
        self.answer = lambda request: script.pop(0) if len(script) > 1 else script[0]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


FAST = Pace(
    retry_base=0.005, retry_cap=0.02, rejected_base=3600, breaker_failures=4, breaker_cooldown=0.05
)


def make_pusher(ledger: Ledger, url: str, smtp: str = "127.0.0.1:1") -> Pusher:
    return Pusher(
        ledger,
        sandbox=Sandbox(url=url, smtp=smtp),
        env_file=None,
        http=Http(timeouts=(2.0, 2.0)),
        pace=FAST,
    )


def facts(
    lake: duckdb.DuckDBPyConnection,
    *,
    granted: Iterable[str] = (),
    purpose: str = "marketing",
    zones: Mapping[str, str] | None = None,
    listed: Iterable[tuple[str, str | None, str | None, str]] = (),
) -> LakeFacts:
    """The models that policies read, with these rows; `listed`: channel, address, customer,
    reason."""
    lake.execute(
        "create or replace table customer_consents (customer_id varchar, purpose varchar,"
        " granted boolean, changed_at timestamptz);"
        "create or replace table customers (customer_id varchar, timezone varchar);"
        "create or replace table suppressions (channel varchar, address varchar,"
        " customer_id varchar, reason varchar, since timestamptz)"
    )
    for customer in granted:
        lake.execute(
            "insert into customer_consents values (?, ?, true, now())", [customer, purpose]
        )
    for customer, zone in (zones or {}).items():
        lake.execute("insert into customers values (?, ?)", [customer, zone])
    for row in listed:
        lake.execute("insert into suppressions values (?, ?, ?, ?, now())", list(row))
    return LakeFacts(lake.cursor, "main")


CONTROL = ("customer_id", "trigger_id", "fired_at", "expires_at")


def contacts_spec(**changes: Any) -> SyncSpec:
    return SyncSpec(
        **{
            "name": "hubspot__health",
            "model": "sync_hubspot__health",
            "unique_id": "model.x.sync_hubspot__health",
            "relation": "health",
            "destination": "hubspot",
            "object": "contacts",
            "mode": "upsert",
            "key": "email",
            "columns": ("email", "score", "customer_id"),
        }
        | changes
    )


def club_spec(**changes: Any) -> SyncSpec:
    """A mirrored sync of the table `health` to toys/club.py."""
    names = {"name": "club__members", "destination": "club", "object": "members", "mode": "mirror"}
    return contacts_spec(**names | changes)


def webhook_spec(**changes: Any) -> SyncSpec:
    return message_spec(
        **{"destination": "webhook", "name": "webhook__ticket", "object": "ticket"} | changes
    )


def message_spec(**changes: Any) -> SyncSpec:
    """A Slack sync without a template's demands: the template `plain` of `plain_template`."""
    return SyncSpec(
        **{
            "name": "slack__alert",
            "model": "sync_slack__alert",
            "unique_id": "model.x.sync_slack__alert",
            "relation": "alerts",
            "destination": "slack",
            "object": "alert",
            "mode": "message",
            "key": "trigger_id",
            "columns": (*CONTROL, "channel", "words"),
        }
        | changes
    )


def contacts(lake: duckdb.DuckDBPyConnection, rows: dict[str, float]) -> None:
    """Replace the table `health` by one row per e-mail → score."""
    lake.execute(
        "create or replace table health (email varchar, score double, customer_id varchar)"
    )
    if rows:
        lake.executemany(
            "insert into health values (?, ?, ?)", [(k, v, f"c-{k}") for k, v in rows.items()]
        )


def alerts(
    lake: duckdb.DuckDBPyConnection, triggers: list[str], *, lifetime: str = "1 hour"
) -> None:
    """Replace the table `alerts` by one message per trigger, fired now."""
    lake.execute(
        "create or replace table alerts as"
        " select 'c-' || t as customer_id, t as trigger_id,"
        " now() + interval 1 second as fired_at,"
        f" now() + interval '{lifetime}' as expires_at, '#care' as channel, 'words ' || t as words"
        " from (select unnest($triggers) as t)",
        {"triggers": triggers},
    )
