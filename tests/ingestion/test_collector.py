"""The collector over real HTTP: a server process, Segment's own client, and hostile input."""

from __future__ import annotations

import asyncio
import base64
import gzip
import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from collector_process import LOGIN, UNKNOWN, Server, basic, start, stop
from segment.analytics.client import Client

from ingestion.client import Proxies
from ingestion.collector import CollectorError, run
from ingestion.contract import Contracts
from ingestion.envelope import Limits
from ingestion.http_api import Collector, create_app
from ingestion.log import EventLog, LogUnavailable


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(tmp_path_factory.mktemp("collector") / "log")
    yield running
    assert stop(running) == 0


@pytest.mark.parametrize("zipped", [False, True])
def test_segments_own_client(server: Server, zipped: bool) -> None:
    before = server.end()
    errors: list[Any] = []
    client = Client(
        "wk_web", host=server.url, gzip=zipped, on_error=lambda e, _: errors.append(e), timeout=10
    )
    client.identify("u1", {"email": "ada@example.com"})
    client.track("u1", "Purchase Completed", {"order_id": "1", "total": 9.5, "currency": "EUR"})
    client.track("u1", "Purchase Completed", {"order_id": "2"})
    client.page("u1", None, "Home", {"path": "/"})
    client.screen("u1", None, "Home")
    client.group("u1", "g1", {"plan": "team"})
    client.alias("a1", "u1")
    client.shutdown()
    assert errors == []
    records = server.since(before)
    assert [r.type for r in records] == [
        "identify",
        "track",
        "track",
        "page",
        "screen",
        "group",
        "alias",
    ]
    assert [r.reason for r in records if r.kind == "quarantine"] == ["missing_field"]
    assert {r.source for r in records} == {"web"}
    good = records[1]
    assert (good.event, good.event_version, good.user_id) == ("Purchase Completed", 1, "u1")
    assert good.sent_at and good.original_timestamp and not good.message_id_generated
    assert json.loads(good.payload)["properties"]["total"] == 9.5


def test_one_bad_message_costs_only_itself(server: Server) -> None:
    before = server.end()
    bad: list[Any] = [
        UNKNOWN,
        7,
        {**LOGIN, "properties": {"method": 1}},
        {**LOGIN, "x": "y" * 40_000},
    ]
    answer = server.batch(LOGIN, *bad, LOGIN)
    assert answer.status == 200
    assert answer.json["success"] is True
    assert (answer.json["accepted"], answer.json["quarantined"]) == (2, 4)
    assert [(p["index"], p["reason"]) for p in answer.json["problems"]] == [
        (1, "unknown_event"),
        (2, "invalid_envelope"),
        (3, "wrong_type"),
        (4, "too_large"),
    ]
    records = server.since(before)
    assert [r.kind for r in records] == ["event", *["quarantine"] * 4, "event"]
    assert json.loads(records[4].payload) == bad[3]


def test_json_that_is_not_by_the_book_costs_only_its_message(server: Server) -> None:
    before = server.end()
    bad = [b'{"a":NaN}', b'{"userId":"\\ud800"}', b'{"userId":"a\\u0000"}', b'{"a":"\xff"}']
    good = json.dumps(LOGIN).encode()
    for message in bad:
        body = b'{"batch":[' + good + b"," + message + b"," + good + b"]}"
        answer = server.post("/v1/batch", body)
        assert (answer.json["accepted"], answer.json["quarantined"]) == (2, 1)
    reasons = [r.reason for r in server.since(before) if r.kind == "quarantine"]
    assert reasons == ["invalid_json", "invalid_text", "invalid_text", "invalid_text"]


@pytest.mark.parametrize(
    ("path", "type_"),
    [(f"/v1/{t}", t) for t in ("track", "identify", "page", "screen", "group", "alias")]
    + [(f"/v1/{t[0]}", t) for t in ("track", "identify", "page", "screen", "group", "alias")]
    + [("/api/s/page", "page"), ("/api/s/s2s/page", "page"), ("/v1/track/", "track")],
)
def test_single_messages_by_address(server: Server, path: str, type_: str) -> None:
    before = server.end()
    message = {"event": "Logged In", "userId": "u", "groupId": "g", "previousId": "p"}
    answer = server.post(path, message, **{"Content-Type": "text/plain"})
    assert (answer.status, answer.json["accepted"]) == (200, 1)
    [record] = server.since(before)
    assert (record.type, record.message_id_generated) == (type_, True)


def test_batches_by_every_address(server: Server) -> None:
    for path in ("/v1/batch", "/v1/b", "/v1/import", "/beacon/v1/batch"):
        assert server.post(path, {"batch": [LOGIN]}).json["accepted"] == 1
    assert server.batch().json == {
        "success": True,
        "accepted": 0,
        "quarantined": 0,
        "rejected": [],
        "problems": [],
    }


def test_the_key_may_stand_in_many_places(server: Server) -> None:
    each = {"batch": [{**LOGIN, "writeKey": "wk_web"}, {**LOGIN, "writeKey": "wk_web"}]}
    assert server.post("/v1/batch", each, None).status == 200
    mixed = {"batch": [{**LOGIN, "writeKey": "wk_web"}, {**LOGIN, "writeKey": "wk_open"}]}
    assert server.post("/v1/batch", mixed, None).status == 401
    assert server.post("/beacon/v1/batch?writeKey=wk_web", {"batch": [LOGIN]}, None).status == 200
    oauth = {"Authorization": "Bearer of.something"}
    assert server.post("/v1/t", {**LOGIN, "writeKey": "wk_web"}, None, **oauth).status == 200
    assert server.batch(LOGIN).status == 200
    assert server.post("/v1/track", {**LOGIN, "writeKey": "wk_web"}, None).status == 200
    assert server.post("/v1/b", {"batch": [LOGIN], "writeKey": "wk_web"}, None).status == 200
    assert server.post("/v1/track", LOGIN, None, **{"X-Write-Key": "wk_web"}).status == 200


@pytest.mark.parametrize(
    ("key", "headers", "content"),
    [
        (None, {}, LOGIN),
        ("wrong", {}, {**LOGIN, "writeKey": "wk_web"}),
        ("", {}, LOGIN),
        (None, {"Authorization": "Basic !!!"}, LOGIN),
        (None, {"Authorization": "Bearer wk_web"}, LOGIN),
        (None, {"X-Write-Key": "wk_"}, LOGIN),
        (None, {}, {**LOGIN, "writeKey": 7}),
        (None, {}, {**LOGIN, "writeKey": "é"}),
    ],
)
def test_a_wrong_key_is_refused(
    server: Server, key: str | None, headers: dict[str, str], content: Any
) -> None:
    before = server.end()
    headers = {**headers, **(basic(key) if key is not None else {})}
    answer = server.post("/v1/track", content, None, **headers)
    assert answer.status == 401
    assert answer.json["code"] == "invalid_write_key"
    assert "Basic auth" in answer.json["message"]
    assert server.end() == before


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/batch", b'{"batch":[', 400, "invalid_json"),
        ("/v1/batch", b"", 400, "invalid_json"),
        ("/v1/track", b"\x00\x01\x02", 400, "invalid_json"),
        ("/v1/batch", b"[]", 400, "invalid_request"),
        ("/v1/batch", b'{"a":NaN}', 400, "invalid_request"),
        ("/v1/batch", b'{"batch":NaN}', 400, "invalid_request"),
        ("/v1/batch", b'{"batch":{}}', 400, "invalid_request"),
        ("/v1/track", b"[NaN]", 400, "invalid_request"),
        ("/v1/batch", b'{"batch":[' + b"[" * 200_000 + b"]" * 200_000 + b"]}", 400, "too_deep"),
        ("/v1/batch", b'{"a":NaN,"b":' + b"[" * 9000 + b"]" * 9000 + b"}", 400, "too_deep"),
        ("/v1/batch", b'{"batch":[' + b"1," * 2_500 + b"1]}", 413, "too_many_messages"),
        ("/v1/batch", b" " * 512_001, 413, "too_large"),
        ("/v1/batch", b" " * 3_000_000, 413, "too_large"),
        ("/v1/batch", gzip.compress(b" " * 50_000_000), 413, "too_large"),
        ("/v1/batch", gzip.compress(b"{}", mtime=0)[:-4], 400, "invalid_gzip"),
        ("/v1/batch", b"\x1f\x8bnonsense", 400, "invalid_gzip"),
        ("/v1/batch", gzip.compress(b"") * 1000, 400, "invalid_gzip"),
    ],
)
def test_bodies_that_are_refused(
    server: Server, path: str, body: bytes, status: int, code: str
) -> None:
    before = server.end()
    answer = server.post(path, body)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.json["message"]
    assert server.end() == before


def test_bodies_that_only_look_odd(server: Server) -> None:
    body = json.dumps({"batch": [LOGIN]}).encode()
    halves = gzip.compress(body[:10]) + gzip.compress(body[10:])
    for odd in (b"\xef\xbb\xbf" + body, gzip.compress(body), halves, b" \n" + body + b"\n"):
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert server.post("/v1/batch", odd, **form).json["accepted"] == 1
    fits = b'{"batch":[]' + b" " * (512_000 - 12) + b"}"
    assert server.post("/v1/batch", fits).status == 200


def test_unknown_events_follow_the_policy_of_the_key(server: Server) -> None:
    before = server.end()
    assert server.batch(UNKNOWN, key="wk_open").json["accepted"] == 1
    assert server.batch(UNKNOWN, key="wk_web").json["quarantined"] == 1
    assert [r.kind for r in server.since(before)] == ["event", "quarantine"]
    refused = server.batch(UNKNOWN, key="wk_strict")
    assert (refused.status, refused.json["code"]) == (400, "unknown_event")
    assert "Sock Lost" in refused.json["message"]
    assert server.end() == before + 2
    mixed = server.batch(UNKNOWN, LOGIN, key="wk_strict")
    assert (mixed.json["accepted"], mixed.json["quarantined"]) == (1, 1)


def test_the_browser_gets_its_settings_and_may_send(server: Server) -> None:
    page = {"Origin": "https://shop.example"}
    answer = server.ask("GET", "/v1/projects/wk_web/settings", headers=page)
    segment = answer.json["integrations"]["Segment.io"]
    assert segment["apiKey"] == "wk_web"
    assert (segment["protocol"], segment["apiHost"]) == ("http", f"127.0.0.1:{server.port}/v1")
    assert server.ask("GET", "/v1/projects/nope/settings").status == 404
    asked = {"Access-Control-Request-Headers": "authorization, x-of-my-own"}
    preflight = server.ask("OPTIONS", "/v1/t", headers={**page, **asked})
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.headers["access-control-allow-headers"] == "authorization, x-of-my-own"
    refused = server.post("/v1/t", LOGIN, "wrong", **page)
    for cross_site in (answer, preflight, refused):  # also with credentials, also errors
        assert cross_site.headers["access-control-allow-origin"] == "https://shop.example"
        assert cross_site.headers["access-control-allow-credentials"] == "true"
        assert cross_site.headers["vary"] == "origin"
    assert "access-control-allow-origin" not in server.ask("GET", "/health").headers


def test_a_page_of_the_public_web_gets_no_way_into_a_private_network(server: Server) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Private-Network": "true"}
    preflight = server.ask("OPTIONS", "/v1/t", headers=asked)
    assert "access-control-allow-private-network" not in preflight.headers


@pytest.mark.parametrize("path", ["/v1/pixel/track", "/pixel/v1/track"])
def test_an_image_carries_a_message(server: Server, path: str) -> None:
    before = server.end()
    content = json.dumps({**LOGIN, "writeKey": "wk_web"}).encode()
    flat = "userId=u1&event=Logged+In&properties.method=sso&writeKey=wk_web"
    for query in (
        "data=" + base64.urlsafe_b64encode(content).decode().rstrip("="),
        "data=" + quote(base64.b64encode(content).decode()),
        "data=" + quote(content.decode()),
        flat,
    ):
        answer = server.ask("GET", f"{path}?{query}")
        assert (answer.status, answer.headers["content-type"]) == (200, "image/gif")
        assert answer.body.startswith(b"GIF89a")
    records = server.since(before)
    assert [(r.kind, r.type, r.event) for r in records] == [("event", "track", "Logged In")] * 4
    assert json.loads(records[3].payload)["properties"] == {"method": "sso"}
    unknown = server.ask("GET", f"{path}?userId=u1&event=Logged+In")
    assert (unknown.status, unknown.body[:3]) == (401, b"GIF")


def test_rudderstacks_browser_library_gets_its_settings(server: Server) -> None:
    answer = server.ask("GET", "/sourceConfig/?p=npm&writeKey=wk_web")
    assert answer.json["source"]["enabled"] is True
    assert answer.json["source"]["destinations"] == []
    assert server.ask("GET", "/sourceConfig/", headers=basic("wk_web")).status == 200
    assert server.ask("GET", "/sourceConfig/?writeKey=nope").status == 401


def test_what_a_batch_says_holds_for_its_messages_and_they_win(server: Server) -> None:
    before = server.end()
    own = {"device": {"id": "d1"}, "locale": "de-DE"}
    body = {
        "batch": [{**LOGIN, "context": own, "integrations": {"A": False}}, LOGIN],
        "context": {"device": {"id": "d0", "type": "phone"}, "app": {"version": 1.10}},
        "integrations": {"All": True, "A": True},
    }
    assert server.post("/v1/batch", body).json["accepted"] == 2
    first, second = (json.loads(r.payload) for r in server.since(before))
    assert first["context"] == {
        "device": {"id": "d1", "type": "phone"},
        "locale": "de-DE",
        "app": {"version": 1.1},
    }
    assert first["integrations"] == {"A": False, "All": True}
    assert second == {**LOGIN, "context": body["context"], "integrations": body["integrations"]}


def test_what_a_batch_says_is_judged_like_a_message(server: Server) -> None:
    before = server.end()
    for context, status in (
        ({"a": "x" * 40_000}, 413),
        ({"a": "\x00"}, 400),
        (json.loads("[" * 70 + "]" * 70), 200),  # PHP writes an empty object as a list: ignored
        ({"a": json.loads("[" * 70 + "]" * 70)}, 400),
    ):
        answer = server.post("/v1/batch", {"batch": [LOGIN], "context": context})
        assert answer.status == status, context
    large = {"batch": [{}] * 2_500, "context": {"a": "x" * 30_000}}
    assert server.post("/v1/batch", large).status == 413  # 75 MB, once merged
    assert server.end() == before + 1


CHROME = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/130", "Origin": "https://a.example"}
NEAR = {**CHROME, "X-Forwarded-For": "6.6.6.6, 203.0.113.77, 10.0.0.9"}


@pytest.mark.parametrize(
    ("key", "headers", "context"),
    [
        ("wk_web", {"User-Agent": "analytics-python/2.4"}, None),  # a server is no customer
        ("wk_web", CHROME, {"ip": "127.0.0.1", "userAgent": CHROME["User-Agent"]}),
        ("wk_web", NEAR, {"ip": "203.0.113.77", "userAgent": CHROME["User-Agent"]}),
        ("wk_masked", NEAR, {"ip": "203.0.113.0", "userAgent": CHROME["User-Agent"]}),
        (
            "wk_masked",
            {**CHROME, "X-Forwarded-For": "[2001:db8:1:2::3]:99"},
            {"ip": "2001:db8:1::"},
        ),
        ("wk_silent", NEAR, None),
        ("wk_web", {**CHROME, "X-Forwarded-For": "nonsense"}, {"ip": "127.0.0.1"}),
    ],
)
def test_a_devices_address_and_user_agent_go_into_the_context(
    server: Server, key: str, headers: dict[str, str], context: dict[str, str] | None
) -> None:
    before = server.end()
    own = {"context": {"ip": "1.2.3.4", "userAgent": None}, "messageId": "own"}
    assert server.post("/v1/t", LOGIN, key, **headers).status == 200
    assert server.post("/v1/t", {**LOGIN, **own}, key, **headers).status == 200
    filled, kept = (json.loads(r.payload) for r in server.since(before))
    assert filled.get("context", {}).items() >= (context or {}).items()
    assert ("context" in filled) == (context is not None)
    assert kept["context"] == own["context"]  # what a message says wins, even where it says null


def test_forwarded_headers_count_only_from_trusted_proxies() -> None:
    scope = {
        "scheme": "http",
        "client": ("198.51.100.1", 1),
        "headers": [
            (b"host", b"collector:8080"),
            (b"x-forwarded-for", b"6.6.6.6"),
            (b"x-forwarded-for", b"203.0.113.77, ::ffff:10.0.0.1"),
            (b"x-forwarded-proto", b"https"),
            (b"x-forwarded-host", b"events.shop.example"),
        ],
    }
    nobody, some = Proxies(), Proxies(["198.51.100.0/24", "10.0.0.1"])
    assert str(nobody.client(scope)) == "198.51.100.1"
    assert nobody.origin(scope) == ("http", "collector:8080")
    assert str(some.client(scope)) == "203.0.113.77"
    assert some.origin(scope) == ("https", "events.shop.example")
    with pytest.raises(CollectorError, match=r"TRUSTED_PROXIES.*10\.0\.0\.0/8"):
        run(Path("/nowhere"), {"k": "web"}, trusted_proxies=["proxy.example"])


def test_a_source_over_its_rate_waits_and_loses_nothing(server: Server) -> None:
    before = server.end()
    first = server.batch(*[{**LOGIN, "messageId": f"r{n}"} for n in range(30)], key="wk_limited")
    assert first.status == 200  # a batch is taken whole
    refused = server.batch(LOGIN, key="wk_limited")
    assert (refused.status, refused.json["code"]) == (429, "rate_limited")
    wait = int(refused.headers["retry-after"])
    assert 1 <= wait <= 2
    assert refused.headers["x-ratelimit-reset"] == str(wait)
    assert server.post("/v1/t", {**LOGIN, "writeKey": "wk_limited"}, None).status == 429
    assert server.batch(LOGIN).status == 200  # others are not concerned
    time.sleep(wait)
    assert server.batch(LOGIN, key="wk_limited").status == 200
    assert server.end() == before + 32


def test_an_id_does_not_depend_on_where_a_message_came_from(server: Server) -> None:
    """A retry over another network is still the same message."""
    before = server.end()
    message = {"event": "Logged In", "userId": "u"}
    for ip in ("203.0.113.1", "203.0.113.2"):
        assert server.post("/v1/t", message, **CHROME, **{"X-Forwarded-For": ip}).status == 200
    first, second = server.since(before)
    assert first.message_id == second.message_id
    assert first.payload != second.payload


def test_addresses_and_methods_that_do_not_exist(server: Server) -> None:
    assert server.ask("GET", "/").status == 404
    assert server.ask("POST", "/v1/nothing").status == 404
    assert server.ask("GET", "/v1/batch").status == 405
    assert server.ask("POST", "/health").status == 405


def test_health_counts(server: Server) -> None:
    before = server.ask("GET", "/health").json
    server.batch(LOGIN, UNKNOWN)
    after = server.ask("GET", "/health").json
    assert after["log_end"] == before["log_end"] + 2 == server.end()
    assert after["accepted"] == before["accepted"] + 1
    assert after["quarantined"] == before["quarantined"] + 1


def test_everything_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    server = start(tmp_path / "log")
    acknowledged: list[str] = []

    def send(sender: int) -> None:
        number = 0
        while True:
            ids = [f"{sender}-{number}-{n}" for n in range(3)]
            try:
                answer = server.batch(*({**LOGIN, "messageId": i} for i in ids))
            except (OSError, http.client.HTTPException):
                return
            assert answer.status == 200
            acknowledged.extend(ids)
            number += 1

    senders = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for sender in senders:
        sender.start()
    while len(acknowledged) < 300:
        threading.Event().wait(0.01)
    assert stop(server, signal.SIGKILL) == -signal.SIGKILL
    for sender in senders:
        sender.join()
    with EventLog(tmp_path / "log"):
        pass
    stored = [r.message_id for r in server.since(0)]
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored))


def test_sigterm_finishes_what_is_in_flight(tmp_path: Path) -> None:
    server = start(tmp_path / "log")
    body = json.dumps({"batch": [LOGIN]}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        head = (
            "POST /v1/batch HTTP/1.1",
            "Host: x",
            "X-Write-Key: wk_web",
            f"Content-Length: {len(body)}",
            "Expect: 100-continue",
        )
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        assert b"100 Continue" in connection.recv(1000)  # the request has begun
        server.process.send_signal(signal.SIGTERM)
        connection.sendall(body)
        assert b"200 OK" in connection.recv(10_000)
    assert server.process.wait(timeout=30) == 0
    assert server.process.stdout is not None
    server.process.stdout.close()
    assert len(server.since(0)) == 1


def test_what_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(CollectorError, match="SIGNALBOX_WRITE_KEYS"):
        run(tmp_path, {})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CollectorError, match=f"127.0.0.1:{port} .*in use"):
            run(tmp_path, {"k": "web"}, port=port)


class BrokenLog:
    """A log whose disk is full, or that fails in a way nobody foresaw."""

    recovered_bytes = 0

    def __init__(self, error: Exception) -> None:
        self.error = error

    def append(self, records: Sequence[bytes]) -> range:
        raise self.error

    def end(self) -> int:
        return 0

    def problem(self) -> str | None:
        return str(self.error)


async def call(app: Collector, body: bytes, *, path: str = "/v1/batch") -> tuple[int, Any, Any]:
    """Call the ASGI app without a server, for faults that no client can cause."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"x-write-key", b"k")]}
    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), json.loads(sent[1]["body"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LogUnavailable("disk full"), "log_unavailable"),
        (RuntimeError("ada@x.org"), "internal_error"),
    ],
)
def test_a_log_that_fails_means_503(
    error: Exception, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(BrokenLog(error), Contracts.load(), {"k": "web"})
    body = json.dumps({"batch": [LOGIN]}).encode()
    status, headers, answer = asyncio.run(call(app, body))
    assert (status, headers[b"retry-after"], answer["code"]) == (503, b"1", code)
    assert app.counters.totals()["accepted"] == 0
    assert "ada@x.org" not in caplog.text


class SlowLog:
    """A log whose first append takes until it is released."""

    recovered_bytes = 0

    def __init__(self) -> None:
        self.started = threading.Event()
        self.released = threading.Event()
        self.groups: list[int] = []

    def append(self, records: Sequence[bytes]) -> range:
        self.groups.append(len(records))
        self.started.set()
        assert self.released.wait(30)
        return range(len(records))

    def end(self) -> int:
        return sum(self.groups)

    def problem(self) -> str | None:
        return None


def test_requests_that_wait_share_one_append() -> None:
    log = SlowLog()
    app = create_app(log, Contracts.load(), {"k": "web"})
    body = json.dumps({"batch": [LOGIN]}).encode()

    async def all_at_once() -> list[int]:
        first = asyncio.create_task(call(app, body))
        await asyncio.to_thread(log.started.wait)
        others = [asyncio.create_task(call(app, body)) for _ in range(20)]
        await asyncio.sleep(0)  # every one of them runs up to where it waits
        assert not first.done()
        log.released.set()
        return [status for status, _, _ in await asyncio.gather(first, *others)]

    assert asyncio.run(all_at_once()) == [200] * 21
    assert log.groups == [1, 20]


def test_a_full_queue_means_503(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        app = create_app(log, Contracts.load(), {"k": "web"}, Limits(waiting_bytes=1_000))
        small = json.dumps({"batch": [LOGIN]}).encode()
        large = json.dumps({"batch": [LOGIN] * 5}).encode()

        async def both() -> list[int]:
            return [(await call(app, body))[0] for body in (small, large, small)]

        assert asyncio.run(both()) == [200, 503, 200]
