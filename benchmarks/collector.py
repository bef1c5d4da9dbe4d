"""How many events a second the collector takes, and what their durability costs.

    python -m benchmarks.collector [--seconds 10] [--connections 64] [--json]

A server process and a client process share this machine over loopback. Each connection sends its
next request when the last one is answered (closed loop), so latencies are those at full load. The
same app over a log that stores nothing shows what durability costs; `fdatasync` alone on the same
disk shows what it could cost at best without group commit.
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
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

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


class NoLog:
    """Takes everything and keeps nothing."""

    def __init__(self) -> None:
        self._end = 0

    def append(self, records: Sequence[bytes]) -> range:
        start, self._end = self._end, self._end + len(records)
        return range(start, self._end)

    def end(self) -> int:
        return self._end


def serve(directory: str | None, ready: Connection) -> None:
    """Process: the collector on a free port, until it is terminated."""
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(EventLog(Path(directory))) if directory else NoLog()
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        app = create_app(log, Contracts.load(), {"bench": "bench"})
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


def measure(durable: bool, batch: int, connections: int, seconds: float) -> dict[str, Any]:
    """One server, one client, one row of the table."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-") as directory:
        port_in, port_out = spawn.Pipe(duplex=False)
        server = spawn.Process(target=serve, args=(directory if durable else None, port_out))
        server.start()
        try:
            result_in, result_out = spawn.Pipe(duplex=False)
            arguments = (port_in.recv(), batch, connections, seconds, result_out)
            client = spawn.Process(target=drive, args=arguments)
            client.start()
            result_out.close()  # so that a client that fails ends the wait
            latencies = sorted(result_in.recv())
            client.join()
        finally:
            server.terminate()
            server.join()
    return {
        "log": "fdatasync" if durable else "none",
        "messages_per_request": batch,
        "events_per_second": round(len(latencies) * batch / seconds),
        "requests_per_second": round(len(latencies) / seconds),
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 2),
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1000, 2),
    }


def raw_syncs(seconds: float) -> int:
    """Appends of 700 bytes a second, each with its own fdatasync."""
    with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix="bench-") as file:
        count, stop_at = 0, time.perf_counter() + seconds
        while time.perf_counter() < stop_at:
            os.write(file.fileno(), b"x" * 700)
            os.fdatasync(file.fileno())
            count += 1
    return round(count / seconds)


def main() -> None:
    """Measure and print."""
    parser = support.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="per measurement")
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    console = Console(stderr=True)
    rows = []
    for durable in (True, False):
        for batch in (1, 100):
            with console.status(f"{batch} per request, {'durable' if durable else 'no log'}"):
                rows.append(measure(durable, batch, options.connections, options.seconds))
    syncs = raw_syncs(min(options.seconds, 3.0))
    if options.json:
        support.print_json({"cpus": os.cpu_count(), "fdatasync_per_second": syncs, "rows": rows})
        return
    support.print_table(
        f"Collector, {options.connections} connections, {os.cpu_count()} CPUs",
        [name.replace("_", " ") for name in rows[0]],
        [[f"{v:,}" if isinstance(v, int | float) else v for v in row.values()] for row in rows],
        caption=f"fdatasync alone: {syncs:,} a second",
    )


if __name__ == "__main__":
    main()
