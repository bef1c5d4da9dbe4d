"""Clients that are broken, slow or hostile, against a server process: right answers, never a 500,
bounded memory, and nobody else is kept waiting."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psutil
import pytest
import uvicorn
from collector_process import LOGIN, Server, start, stop

from ingestion.collector import _listen
from ingestion.contract import Contracts
from ingestion.envelope import Limits
from ingestion.http_api import Collector, create_app
from ingestion.protocol import Protocol

HEAD_SECONDS, BODY_SECONDS, CONNECTIONS = 1.0, 1.5, 120


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("abuse")
    with (directory / "stderr").open("w+") as errors:
        running = start(
            directory / "log",
            errors=errors,
            head_seconds=HEAD_SECONDS,
            body_seconds=BODY_SECONDS,
            connections=CONNECTIONS,
        )
        yield running
        assert stop(running) == 0
        errors.seek(0)
        assert errors.read() == ""  # no client can fill a disk with words of ours


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def statuses(server: Server, data: bytes) -> list[int]:
    """The statuses of all answers to some bytes, until the server closes the connection."""
    with connect(server) as connection:
        connection.sendall(data)
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", read(connection))]


def read(connection: socket.socket) -> bytes:
    answer = b""
    while chunk := connection.recv(65536):
        answer += chunk
    return answer


BODY = json.dumps({"batch": [LOGIN]})
CHUNKS = f"{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"
CLOSE = "Connection: close\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"


def request(
    headers: str = CLOSE,
    body: str = BODY,
    line: str = "POST /v1/batch HTTP/1.1",
    length: int | None = -1,
) -> bytes:
    """A request byte by byte; `length` None leaves Content-Length out."""
    stated = len(body) if length == -1 else length
    size = "" if stated is None else f"Content-Length: {stated}\r\n"
    return f"{line}\r\nHost: x\r\nX-Write-Key: wk_web\r\n{headers}{size}\r\n{body}".encode()


WELL_FORMED = {
    "http 1.0": request(line="POST /v1/batch HTTP/1.0"),
    "http 1.0 without a host": request(line="POST /v1/batch HTTP/1.0").replace(b"Host: x\r\n", b""),
    "chunked": request(CHUNKED + CLOSE, CHUNKS, length=None),
    "chunked, with an extension": request(
        CHUNKED + CLOSE, CHUNKS.replace("\r\n", ";a=b\r\n", 1), length=None
    ),
    "absolute address": request(line="POST http://x/v1/batch HTTP/1.1"),
    "escaped address": request(line="POST /v1/%62atch HTTP/1.1"),
    "text outside ASCII in a header": request("X-A: é\r\n" + CLOSE),
    "offers HTTP/2, as Java's client does": request(
        "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAA\r\n"
    ),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_what_is_unusual_but_right_is_taken(server: Server, name: str) -> None:
    before = server.end()
    assert statuses(server, WELL_FORMED[name]) == [200]
    assert server.end() == before + 1


def bad_chunks(body: str) -> bytes:
    return request(CHUNKED, body, length=None)


# Two servers that see the end of a request in different places can be made to see two requests
# where one was sent, so nothing of the kind is guessed at.
MALFORMED = {
    "length and chunks": request(CHUNKED, CHUNKS),
    "chunks and length": request("Content-Length: 5\r\n" + CHUNKED, CHUNKS, length=None),
    "two lengths": request("Content-Length: 3\r\n"),
    "the same length twice": request(f"Content-Length: {len(BODY)}\r\n"),
    "a list of lengths": request(f"Content-Length: {len(BODY)}, {len(BODY)}\r\n", length=None),
    "a signed length": request(f"Content-Length: +{len(BODY)}\r\n", length=None),
    "a negative length": request(length=-2),
    "a hexadecimal length": request("Content-Length: 0x10\r\n", length=None),
    "a length beyond all bounds": request(length=10**30),
    "chunks twice": request(CHUNKED + CHUNKED, CHUNKS, length=None),
    "no final chunked": request("Transfer-Encoding: chunked, gzip\r\n", CHUNKS, length=None),
    "an unknown encoding": request("Transfer-Encoding: xchunked\r\n", CHUNKS, length=None),
    "a space before the colon": request("Transfer-Encoding : chunked\r\n", CHUNKS, length=None),
    "a control character": request("Transfer-Encoding: \x0bchunked\r\n", CHUNKS, length=None),
    "a folded header": request("Transfer-Encoding:\r\n chunked\r\n", CHUNKS, length=None),
    "a chunk of no size": bad_chunks("zz\r\nabc\r\n0\r\n\r\n"),
    "a chunk of endless size": bad_chunks("ffffffffffffffffff\r\nabc"),
    "a chunk of negative size": bad_chunks("-1\r\nabc\r\n0\r\n\r\n"),
    "chunks between bare line feeds": bad_chunks(CHUNKS.replace("\r\n", "\n")),
    "a trailer that states a length": bad_chunks(
        CHUNKS.removesuffix("\r\n") + "Content-Length: 5\r\n\r\n"
    ),
    "bare line feeds": request().replace(b"\r\n", b"\n"),
    "bare carriage returns": request("X-A: b\rX-B: c\r\n"),
    "NUL in a header": request("X-A: \0\r\n"),
    "no colon": request("nonsense\r\n"),
    "no name": request(": value\r\n"),
    "a name with a space": request("X A: value\r\n"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3.7": request(line="POST /v1/batch HTTP/3.7"),
    "a method that is none": request(line="BREW /v1/batch HTTP/1.1"),
    "a tunnel": b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "an address outside ASCII": request(line="POST /v1/é HTTP/1.1"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_refused_and_ends_the_connection(server: Server, name: str) -> None:
    before = server.end()
    with connect(server) as connection:
        connection.sendall(MALFORMED[name])
        head, _, body = read(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in head
    assert json.loads(body)["code"] == "malformed_request"
    assert server.end() == before


@pytest.mark.parametrize(
    "data",
    [
        request("".join(f"x{n}: 1\r\n" for n in range(200))),
        request("x: " + "y" * 100_000 + "\r\n"),
        request(line=f"POST /v1/batch?{'y' * 100_000} HTTP/1.1"),
        b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 150,
    ],
    ids=["many headers", "a long header", "a long address", "a head that does not end"],
)
def test_a_flood_in_the_head_is_refused(server: Server, data: bytes) -> None:
    assert statuses(server, data) == [431]


def test_a_head_that_never_ends_is_cut_off(server: Server) -> None:
    with connect(server) as connection, pytest.raises(OSError):
        connection.sendall(b"GET /health HTTP/1.1\r\nX-Long: ")
        for _ in range(10_000):
            connection.sendall(b"x" * 10_000)


def test_pipelined_requests_are_answered_in_order_up_to_a_depth(server: Server) -> None:
    one = request("")
    assert statuses(server, one * 3 + request()) == [200] * 4
    before = server.end()
    deep = statuses(server, one * 1_000)
    assert set(deep) == {200}
    assert len(deep) == server.end() - before < 20  # the rest is not looked at, nor answered
    # What went before a broken request is answered, the broken one ends it.
    assert statuses(server, one + b"JUNK\r\n\r\n") == [200]
    assert statuses(server, one + bad_chunks("zz\r\nabc")) == [200]


HUGE = "9" * 5_000
EVENT = '{"type":"track","event":"Logged In","userId":"u1",'
ODD: dict[str, tuple[str | bytes, str | None]] = {
    "an id beyond 64 bits": ('{"type":"page","userId":%s}' % ("9" * 30), None),
    "an id of 5,000 digits": (f'{{"type":"page","userId":{HUGE}}}', "invalid_envelope"),
    "a number of 5,000 digits": (EVENT + f'"properties":{{"a":{HUGE}}}}}', "invalid_envelope"),
    "more than a double": (EVENT + '"properties":{"a":1e999}}', "invalid_envelope"),
    "half a surrogate pair in a text": (EVENT + '"traits":{"a":"\\ud800"}}', "invalid_text"),
    "half a surrogate pair in a key": (EVENT + '"\\udc00":1}', "invalid_text"),
    "NUL in a key": (EVENT + '"traits":{"a\\u0000":1}}', "invalid_text"),
    "bytes that are not UTF-8": (EVENT.encode() + b'"traits":{"a":"\xff"}}', "invalid_text"),
    "overlong UTF-8": (EVENT.encode() + b'"traits":{"a":"\xc0\xaf"}}', "invalid_text"),
    "a surrogate in UTF-8": (EVENT.encode() + b'"traits":{"a":"\xed\xa0\x80"}}', "invalid_text"),
    "NaN": (EVENT + '"traits":{"a":NaN}}', "invalid_json"),
    "a key of 31 KB": (EVENT + '"traits":{"%s":1}}' % ("k" * 31_000), None),
    "a key of 33 KB": (EVENT + '"traits":{"%s":1}}' % ("k" * 33_000), "too_large"),
    "thousands of keys": (
        EVENT + '"traits":{"a":1' + "".join(f',"{n}":1' for n in range(3_000)) + "}}",
        None,
    ),
    "keys twice": (EVENT + '"traits":{"a":1,"a":2},"traits":{"b":1}}', None),
    "60 levels": (EVENT + '"traits":' + '{"a":' * 60 + "1" + "}" * 61, None),
    "70 levels": (EVENT + '"traits":{"a":' + "[" * 70 + "]" * 70 + "}}", "too_deep"),
    "sentAt of 100 levels": (EVENT + '"sentAt":' + "[" * 100 + "]" * 100 + "}", "too_deep"),
    "a type that is a list": ('{"type":["track"],"userId":"u"}', "invalid_envelope"),
    "a write key that is an object": (EVENT + '"writeKey":{}}', None),
    "a year beyond all calendars": (
        EVENT + '"timestamp":"99999-01-01T00:00:00Z"}',
        "invalid_timestamp",
    ),
    "nothing": ("{}", "missing_field"),
    "no object": ("7", "invalid_envelope"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("device", [False, True], ids=["server", "device"])
def test_an_odd_message_costs_only_itself(server: Server, name: str, device: bool) -> None:
    """It is taken or quarantined, and what is taken can be read by everybody downstream."""
    message, reason = ODD[name]
    raw = message.encode() if isinstance(message, str) else message
    before = server.end()
    agent = {"User-Agent": "Mozilla/5.0"} if device else {}
    good = json.dumps(LOGIN).encode()
    body = b'{"batch":[' + good + b"," + raw + b"," + good + b"]}"
    answer = server.post("/v1/batch", body, **agent)
    assert answer.status == 200
    assert [problem["reason"] for problem in answer.json["problems"]] == [reason] * bool(reason)
    records = server.since(before)
    assert [record.reason for record in records] == [None, reason, None]
    for record in records:
        if record.kind == "event":
            json.dumps(json.loads(record.payload), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (gzip.compress(b" " * 400_000) * 15, 413, "too_large"),
        (gzip.compress(b" " * 100_000_000), 413, "too_large"),
        (gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), 400, "invalid_json"),
        (gzip.compress(b"") * 20_000, 400, "invalid_gzip"),
        (gzip.compress(b"{}", mtime=0)[:-8] + bytes(8), 400, "invalid_gzip"),
        (b'{"batch":[' + b"[" * 240_000 + b"]" * 240_000 + b"]}", 400, "too_deep"),
        (b'{"batch":' * 50_000 + b"1" + b"}" * 50_000, 400, "invalid_request"),
        (b'{"batch":[],"sentAt":' + b"9" * 450_000 + b"}", 400, "invalid_request"),
    ],
    ids=["members", "bomb", "nested", "empty members", "checksum", "lists", "objects", "digits"],
)
def test_a_body_that_would_swell_is_refused_at_once(
    server: Server, body: bytes, status: int, code: str
) -> None:
    began = time.monotonic()
    answer = server.post("/v1/batch", body)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert time.monotonic() - began < 2


SLOW: dict[str, tuple[bytes, bytes, list[int]]] = {
    "says nothing": (b"", b"", []),
    "drips its head": (b"POST /v1/batch HTTP/1.1\r\nX: ", b"y", [408]),
    "drips empty lines": (b"\r\n", b"\r\n", []),
    "drips its body": (request(length=100_000), b" ", [408]),
    "drips its chunks": (bad_chunks(CHUNKS[:-5]), b"1\r\n \r\n", [408]),
    "promises more than it sends": (request(length=10**10), b"", [408]),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_client_is_waited_for_only_so_long(server: Server, name: str) -> None:
    first, drip, expected = SLOW[name]
    began = time.monotonic()
    answer = b""
    with connect(server) as connection:
        connection.settimeout(0.1)
        connection.sendall(first)
        while time.monotonic() - began < 8:
            try:
                chunk = connection.recv(65536)
            except TimeoutError:
                connection.sendall(drip)
            except ConnectionResetError:  # what was dripped meanwhile met a closed socket
                break
            else:
                answer += chunk
                if not chunk:
                    break
    assert time.monotonic() - began < HEAD_SECONDS + BODY_SECONDS + 1.5
    assert [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)] == expected


@pytest.mark.parametrize(
    "first", [b"", b"POST /v1/batch HTTP/1.1\r\nX: ", request(length=100_000)[:-3]]
)
def test_hundreds_of_slow_clients_keep_nobody_out(server: Server, first: bytes) -> None:
    """More of them than connections are taken, and they come back as soon as they are cut off."""
    done = threading.Event()

    def besiege() -> None:
        with ExitStack() as held:
            while not done.is_set():
                try:
                    connection = held.enter_context(connect(server))
                    connection.sendall(first)
                except OSError:
                    continue
                time.sleep(0.002)

    besiegers = [threading.Thread(target=besiege) for _ in range(3)]
    for thread in besiegers:
        thread.start()
    try:
        time.sleep(0.5)  # by now all places are taken
        for _ in range(40):
            assert server.batch(LOGIN).status == 200
    finally:
        done.set()
        for thread in besiegers:
            thread.join()


def test_a_client_that_does_not_read_is_let_go(server: Server) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", server.port))
        with pytest.raises(OSError):
            for _ in range(50_000):
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
                time.sleep(0.002)


def attack(server: Server, data: list[bytes], times: int) -> None:
    """Open many connections, keep all open while each sends its part."""
    with ExitStack() as held:
        connections = [held.enter_context(connect(server)) for _ in range(times)]
        for number, connection in enumerate(connections):
            try:
                connection.sendall(data[number % len(data)])
            except OSError:
                continue
        time.sleep(0.3)


def test_memory_stays_bounded_under_every_attack(server: Server) -> None:
    process = psutil.Process(server.process.pid)
    server.batch(LOGIN)
    before = peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    bomb = gzip.compress(b" " * 100_000_000, 9)
    inherited = {"batch": [{}] * 200, "context": {"a": "x" * 30_000}}
    key = b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nX-Write-Key: wk_web\r\nContent-Length: "
    try:
        attack(server, [b"GET / HTTP/1.1\r\nX: " + b"y" * 60_000], 110)
        attack(server, [b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 95 + b"X: " + b"y" * 60_000], 110)
        attack(server, [key + b"500000\r\n\r\n" + b" " * 499_000], 110)
        attack(server, [key + b"9000000\r\n\r\n" + b" " * 2_000_000], 30)
        attack(server, [key + b"%d\r\n\r\n" % len(bomb) + bomb], 110)
        attack(server, [b"GET /health HTTP/1.1\r\n\r\n" * 5_000], 60)
        attack(server, [b"GET /health HTTP/1.1\r\nX: " + b"y" * 250_000], 110)
        deep = b'{"batch":[' + b"[" * 240_000 + b"]" * 240_000 + b"]}"
        wide = b'{"batch":[' + b"[]," * 160_000 + b"NaN]}"
        for body in (deep, wide, json.dumps(inherited).encode()):
            for _ in range(3):
                assert server.post("/v1/batch", body).status in (200, 400, 413)
    finally:
        done.set()
        watcher.join()
    assert server.batch(LOGIN).status == 200
    # 64 MB of bodies may wait, and 64 MB of records for the disk.
    assert (peak - before) / 1e6 < 200


def test_bodies_that_wait_beyond_the_bound_are_told_to_come_again() -> None:
    app = create_app(Nowhere(), Contracts.load(), {"k": "web"}, Limits(waiting_bytes=1_000))
    half = asyncio.Event()

    async def both() -> tuple[int, int]:
        slow = asyncio.create_task(call(app, [BODY.encode() + b" " * 700, half, b""]))
        await asyncio.sleep(0.01)
        refused = await call(app, [BODY.encode() + b" " * 700])
        half.set()
        return await slow, refused

    assert asyncio.run(both()) == (200, 503)
    assert asyncio.run(call(app, [BODY.encode()])) == 200  # nothing is left counted


class Nowhere:
    """A log that takes a while and keeps nothing."""

    def append(self, records: Any) -> range:
        time.sleep(0.2)
        return range(len(records))

    def end(self) -> int:
        return 0


async def call(app: Collector, parts: list[bytes | asyncio.Event]) -> int:
    """The status of a batch whose body comes in parts; an event is waited for."""
    sent: list[Any] = []
    left = list(parts)

    async def receive() -> dict[str, Any]:
        part = left.pop(0)
        if isinstance(part, asyncio.Event):
            await part.wait()
            part = b""
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"x-write-key", b"k")]
    scope = {"type": "http", "method": "POST", "path": "/v1/batch", "headers": headers}
    await app({**scope, "query_string": b""}, receive, send)
    if sent[0]["status"] == 503:
        assert (b"retry-after", b"1") in sent[0]["headers"]
    return int(sent[0]["status"])


def test_requests_cut_off_by_a_stop_are_told_to_come_again() -> None:
    """uvicorn cancels what is still running when its patience ends, and would answer 500."""

    async def cancelled() -> int:
        app = create_app(Nowhere(), Contracts.load(), {"k": "web"})
        task = asyncio.create_task(call(app, [BODY.encode()]))
        await asyncio.sleep(0.05)
        task.cancel()
        return await task

    assert asyncio.run(cancelled()) == 503


def test_small_answers_are_not_held_back() -> None:
    """Nagle's algorithm and delayed acknowledgements would add up to 40 ms to an answer."""
    options: list[int] = []

    class Watched(Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            accepted = transport.get_extra_info("socket")
            options.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    async def app(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None: ...

    listener = _listen("127.0.0.1", 0)
    config = uvicorn.Config(app, loop="uvloop", http=Watched, lifespan="off", log_config=None)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not running.started:
            time.sleep(0.01)
        with socket.create_connection(listener.getsockname(), timeout=10):
            while not options:
                time.sleep(0.01)
    finally:
        running.should_exit = True
        thread.join()
    assert options == [1]
