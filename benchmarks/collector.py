"""How many events a second the collector takes, what durability costs, and whether memory grows.

    python -m benchmarks.collector [--seconds 10] [--connections 64] [--soak 10000000] [--json]

A server process and a client process share this machine over loopback. Each connection sends its
next request when the last one is answered (closed loop), so latencies are those at full load.
Beside the collector stand the same app over a log that stores nothing (what durability costs) and
what people write in an afternoon: parse, append a line to a file, answer, with nothing checked and
nothing synced. `fdatasync` alone and parsing alone say what this machine could do at best.
`--soak` sends that many events in batches and watches the server's memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import psutil
import uvicorn
import uvloop
from rich.console import Console

from benchmarks import support
from ingestion.contract import Contracts
from ingestion.http_api import create_app
from ingestion.log import EventLog

MESSAGE = {
    "type": "track",
    "event": "Product Viewed",
    "messageId": "6f6d0c1e-6c1f-4a44-9b3f-0c7f3b2a9d11",
    "userId": "customer-1842",
    "anonymousId": "2a4c0d9e-53b0-41d8-9a39-2f7f7f2b1c55",
    "timestamp": "2026-03-01T12:00:00.000Z",
    "properties": {"product_id": "SKU-7", "name": "Lamp", "price": 29.9, "currency": "EUR"},
    "context": {"library": {"name": "bench", "version": "1"}, "page": {"path": "/lamps"}},
}


KINDS = ("durable", "no log", "JSONL append")


class NoLog:
    """Takes everything and keeps nothing."""

    recovered_bytes = 0

    def __init__(self) -> None:
        self._end = 0

    def append(self, records: Sequence[bytes]) -> range:
        start, self._end = self._end, self._end + len(records)
        return range(start, self._end)

    def end(self) -> int:
        return self._end

    def problem(self) -> str | None:
        return None


class Lines:
    """The afternoon's app: no contract, no checksum, no sync; a crash loses what was answered."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        for event in json.loads(body)["batch"]:
            self._file.write(json.dumps(event) + "\n")
        self._file.flush()
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


def serve(kind: str, directory: str, ready: Connection) -> None:
    """Process: one of KINDS on a free port, until it is terminated."""
    with contextlib.ExitStack() as stack:
        app: Any
        if kind == "JSONL append":
            app = Lines(Path(directory) / "events.jsonl")
        else:
            durable = kind == "durable"
            log = stack.enter_context(EventLog(Path(directory))) if durable else NoLog()
            app = create_app(log, Contracts.load(), {"bench": "bench"})
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        config = uvicorn.Config(app, loop="uvloop", log_config=None, access_log=False)
        ready.send(listener.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listener])


def drive(port: int, batch: int, connections: int, seconds: float, result: Connection) -> None:
    """Process: send requests of `batch` messages and report their latencies in seconds."""
    body = json.dumps({"batch": [MESSAGE] * batch, "sentAt": "2026-03-01T12:00:01.000Z"}).encode()
    request = (
        f"POST /v1/batch HTTP/1.1\r\nHost: localhost\r\nX-Write-Key: bench\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    result.send(uvloop.run(_drive(port, request, connections, seconds)))


async def _drive(port: int, request: bytes, connections: int, seconds: float) -> list[float]:
    latencies: list[float] = []
    stop_at = time.perf_counter() + seconds

    async def sender() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.perf_counter()) < stop_at:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
            latencies.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(sender() for _ in range(connections)))
    return latencies


@contextlib.contextmanager
def serving(kind: str) -> Iterator[tuple[int, psutil.Process, Path]]:
    """A server process: its port, itself, the directory it writes to."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-") as directory:
        port_in, port_out = spawn.Pipe(duplex=False)
        server = spawn.Process(target=serve, args=(kind, directory, port_out))
        server.start()
        try:
            yield port_in.recv(), psutil.Process(server.pid), Path(directory)
        finally:
            server.terminate()
            server.join()


def load(port: int, batch: int, connections: int, seconds: float) -> list[float]:
    """Latencies of one client process, ascending, in seconds."""
    spawn = multiprocessing.get_context("spawn")
    result_in, result_out = spawn.Pipe(duplex=False)
    client = spawn.Process(target=drive, args=(port, batch, connections, seconds, result_out))
    client.start()
    result_out.close()  # so that a client that fails ends the wait
    latencies: list[float] = sorted(result_in.recv())
    client.join()
    return latencies


def measure(kind: str, batch: int, connections: int, seconds: float) -> dict[str, Any]:
    """One server, one client, one row of the table."""
    with serving(kind) as (port, server, _):
        latencies = load(port, batch, connections, seconds)
        memory = server.memory_info().rss
    return {
        "server": kind,
        "messages_per_request": batch,
        "events_per_second": round(len(latencies) * batch / seconds),
        "requests_per_second": round(len(latencies) / seconds),
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 2),
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1000, 2),
        "memory_mb": round(memory / 1e6),
    }


def soak(events: int, connections: int) -> list[dict[str, Any]]:
    """The server's memory as it takes `events` events in batches of 100, in ten steps."""
    steps = []
    with serving("durable") as (port, server, directory):
        sent = 0
        while sent < events:
            latencies = load(port, 100, connections, 5.0)
            sent += len(latencies) * 100
            # What is on disk says nothing about memory, and ten million events are ten gigabytes.
            for segment in sorted(directory.glob("*.log"))[:-1]:
                segment.unlink()
            if sent >= events * (len(steps) + 1) / 10:
                rss = round(server.memory_info().rss / 1e6)
                steps.append({"events": sent, "memory_mb": rss})
    return steps


def raw_syncs(seconds: float) -> int:
    """Appends of 700 bytes a second, each with its own fdatasync."""
    with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix="bench-") as file:
        count, stop_at = 0, time.perf_counter() + seconds
        while time.perf_counter() < stop_at:
            os.write(file.fileno(), b"x" * 700)
            os.fdatasync(file.fileno())
            count += 1
    return round(count / seconds)


def raw_parses(seconds: float) -> int:
    """Messages a second that one core can parse into plain values, and nothing else."""
    decode, body = msgspec.json.Decoder().decode, json.dumps(MESSAGE).encode()
    count, stop_at = 0, time.perf_counter() + seconds
    while time.perf_counter() < stop_at:
        for _ in range(1000):
            decode(body)
        count += 1000
    return round(count / seconds)


def main() -> None:
    """Measure and print."""
    parser = support.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="per measurement")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--soak", type=int, default=0, metavar="EVENTS", help="watch the memory")
    options = parser.parse_args()
    console = Console(stderr=True)
    rows = []
    for kind in KINDS:
        for batch in (1, 100):
            with console.status(f"{kind}, {batch} per request"):
                rows.append(measure(kind, batch, options.connections, options.seconds))
    limits = {"fdatasync_per_second": raw_syncs(3.0), "parses_per_second": raw_parses(2.0)}
    memory = []
    if options.soak:
        with console.status(f"{options.soak:,} events"):
            memory = soak(options.soak, options.connections)
    if options.json:
        support.print_json({"cpus": os.cpu_count(), **limits, "rows": rows, "soak": memory})
        return
    support.print_table(
        f"Collector, {options.connections} connections, {os.cpu_count()} CPUs",
        [name.replace("_", " ") for name in rows[0]],
        [[f"{v:,}" if isinstance(v, int | float) else v for v in row.values()] for row in rows],
        caption="alone, a second: "
        + ", ".join(f"{limits[name]:,} {name.split('_')[0]}" for name in limits),
    )
    if memory:
        support.print_table(
            "Memory of the server",
            ["events taken", "MB"],
            [[f"{step['events']:,}", str(step["memory_mb"])] for step in memory],
        )


if __name__ == "__main__":
    main()
