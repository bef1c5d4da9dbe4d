"""The collector over real HTTP: a server process, Segment's own client, and hostile input."""

from __future__ import annotations

import asyncio
import base64
import gzip
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from segment.analytics.client import Client

from ingestion.collector import CollectorError, run
from ingestion.contract import Contracts
from ingestion.envelope import Limits, LogRecord, decode_record
from ingestion.http_api import Collector, create_app
from ingestion.log import EventLog, LogReader, LogUnavailable

SERVER = """
import sys
from pathlib import Path
from ingestion.collector import SourcePolicy, run
keys = {"wk_web": "web", "wk_open": SourcePolicy("open", "allow"),
        "wk_strict": SourcePolicy("strict", "reject")}
run(Path(sys.argv[1]), keys, port=0, on_ready=lambda port: print(port, flush=True))
"""
LOGIN = {"type": "track", "event": "Logged In", "userId": "u1", "messageId": "m1"}
UNKNOWN = {**LOGIN, "event": "Sock Lost", "messageId": "m2"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    directory: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def post(self, path: str, content: Any, key: str | None = "wk_web", **headers: str) -> Answer:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.ask("POST", path, body, {**(basic(key) if key else {}), **headers})

    def batch(self, *messages: Any, key: str = "wk_web") -> Answer:
        return self.post("/v1/batch", {"batch": list(messages)}, key)

    def end(self) -> int:
        return LogReader(self.directory).end()

    def since(self, start: int) -> list[LogRecord]:
        return [decode_record(raw) for _, raw in LogReader(self.directory).read(start, 100_000)]


def basic(key: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()}


def start(directory: Path) -> Server:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return Server(process, int(process.stdout.readline()), directory)


def stop(server: Server, with_signal: signal.Signals = signal.SIGTERM) -> int:
    server.process.send_signal(with_signal)
    code = server.process.wait(timeout=30)
    assert server.process.stdout is not None
    server.process.stdout.close()
    return code


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
    + [("/api/s/page", "page"), ("/v1/track/", "track")],
)
def test_single_messages_by_address(server: Server, path: str, type_: str) -> None:
    before = server.end()
    message = {"event": "Logged In", "userId": "u", "groupId": "g", "previousId": "p"}
    answer = server.post(path, message, **{"Content-Type": "text/plain"})
    assert (answer.status, answer.json["accepted"]) == (200, 1)
    [record] = server.since(before)
    assert (record.type, record.message_id_generated) == (type_, True)


def test_batches_by_every_address(server: Server) -> None:
    for path in ("/v1/batch", "/v1/b", "/v1/import"):
        assert server.post(path, {"batch": [LOGIN]}).json["accepted"] == 1
    assert server.batch().json == {
        "success": True,
        "accepted": 0,
        "quarantined": 0,
        "problems": [],
    }


def test_the_key_may_stand_in_three_places(server: Server) -> None:
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
        ("/v1/batch", gzip.compress(b"{}")[:-4], 400, "invalid_gzip"),
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
    answer = server.ask("GET", "/v1/projects/wk_web/settings")
    assert answer.headers["access-control-allow-origin"] == "*"
    segment = answer.json["integrations"]["Segment.io"]
    assert segment["apiKey"] == "wk_web"
    assert (segment["protocol"], segment["apiHost"]) == ("http", f"127.0.0.1:{server.port}/v1")
    assert server.ask("GET", "/v1/projects/nope/settings").status == 404
    preflight = server.ask("OPTIONS", "/v1/t")
    assert (preflight.status, preflight.body) == (204, b"")
    allowed = preflight.headers["access-control-allow-headers"]
    assert {"authorization", "content-type", "x-retry-count"} <= set(allowed.split(", "))


def test_addresses_and_methods_that_do_not_exist(server: Server) -> None:
    assert server.ask("GET", "/").status == 404
    assert server.ask("POST", "/v1/nothing").status == 404
    assert server.ask("GET", "/v1/batch").status == 405
    assert server.ask("POST", "/health").status == 405


def test_a_head_that_never_ends_is_cut_off(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nX-Long: ")
        with pytest.raises(OSError):
            for _ in range(10_000):
                connection.sendall(b"x" * 10_000)


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

    def __init__(self, error: Exception) -> None:
        self.error = error

    def append(self, records: Sequence[bytes]) -> range:
        raise self.error

    def end(self) -> int:
        return 0


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
    assert app.accepted == 0
    assert "ada@x.org" not in caplog.text


class SlowLog:
    """A log whose first append takes until it is released."""

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


def test_a_body_that_never_ends_means_408(tmp_path: Path) -> None:
    app = create_app(
        BrokenLog(ValueError()), Contracts.load(), {"k": "web"}, Limits(body_seconds=0.05)
    )
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/b", "headers": [(b"x-write-key", b"k")]}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408
