"""The hot lane: accepted → arrived at the destination, cost of a batch, time to catch up.

    python -m benchmarks.hot [--seconds 20] [--rates 100,500,2000] [--alone] [--json]
    python -m benchmarks.hot --batches 100000,1000000,10000000
    python -m benchmarks.hot --restart 600

Latency: events are sent over HTTP at scheduled moments, whether or not the one before was answered
(open loop), one in `--every` is a support ticket, and the sandbox notes when its webhook arrives.
Counted is from the scheduled moment to the arrival, so every queue between counts: the sender's,
the collector's, the lane's, the destination's. Everything runs (`signalbox up`, and an analyst who
queries the lake without a pause); `--alone` runs collector, lane and sandbox only.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import hot_batch, support

PORTS = ("COLLECTOR_PORT", "DAGSTER_PORT", "SANDBOX_PORT", "SANDBOX_SMTP_PORT")
TICK = 0.02  # seconds between requests
REQUEST = 400  # messages at most
CUSTOMERS = 20_000
ACTS = "Support Ticket Opened"
CLI = [sys.executable, "-m", "orchestration.cli"]
SETTLE_SECONDS = 20.0
ANALYST = (
    "select customer_id, count(*), max(event_at) from customer_timeline group by 1 order by 2 desc",
    "select event, event_date, count(*) from stg_events group by all order by 3 desc",
)


def main() -> None:
    parser = support.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of load at each rate")
    parser.add_argument("--rates", default="100,500,2000", help="events a second")
    parser.add_argument("--every", type=int, default=100, help="one event in so many acts")
    parser.add_argument("--alone", action="store_true", help="without Dagster and the analyst")
    parser.add_argument("--batches", help="cost of a batch, by events in the history")
    parser.add_argument("--repeats", type=int, default=7, help="of each batch")
    parser.add_argument("--restart", type=float, help="seconds of downtime at 500 events a second")
    options = parser.parse_args()
    if options.batches:
        _show_batches(options)
    elif options.restart:
        _show_restart(options)
    else:
        _show_latency(options)


def _show_latency(options: argparse.Namespace) -> None:
    rates = [int(rate) for rate in options.rates.split(",")]
    with home() as path, running(path, alone=options.alone):
        rows = [latency(path, rate, options.seconds, options.every) for rate in rates]
    if options.json:
        support.print_json({"alone": options.alone, "rates": rows})
        return
    support.print_table(
        "Scheduled → arrived at the destination, "
        + ("collector, hot lane and sandbox" if options.alone else "everything running"),
        ["events/s", "sent/s", "actions", "missing", "p50 ms", "p95 ms", "p99 ms", "max ms"]
        + ["core speed"],
        [
            [f"{row['rate']:,}", f"{row['sent_per_second']:,}", f"{row['actions']:,}"]
            + [str(row["missing"])]
            + [f"{row[name]:,.0f}" for name in ("p50", "p95", "p99", "max")]
            + [" / ".join(map(str, row["core_speed"]))]
            for row in rows
        ],
    )


def latency(home: Path, rate: int, seconds: float, every: int) -> dict[str, Any]:
    """Send for so many seconds, wait for the actions; milliseconds."""
    run, speed = f"{rate}-{int(time.time())}", support.core_speed()
    asked, took = asyncio.run(send(schedule(run, rate, seconds, every)))
    deadline = time.monotonic() + SETTLE_SECONDS
    while len(found := _arrivals(home, run)) < len(asked) and time.monotonic() < deadline:
        time.sleep(0.2)
    return figures(rate, asked, found) | {
        "sent_per_second": round(rate * seconds / took),
        "core_speed": [speed, support.core_speed()],
    }


def figures(rate: int, asked: dict[str, float], found: dict[str, float]) -> dict[str, Any]:
    """From when each action was scheduled and when it arrived; milliseconds."""
    latencies = sorted((found[key] - asked[key]) * 1000 for key in asked if key in found)

    def at(share: float) -> float:
        return round(latencies[min(int(share * len(latencies)), len(latencies) - 1)], 1)

    return {
        "rate": rate,
        "actions": len(latencies),
        "missing": len(asked) - len(latencies),
        **({"p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": at(1.0)} if latencies else {}),
    }


#: Key of the action that an event shall cause, or ""; its moment, seconds since 1970; its message.
Event = tuple[str, float, dict[str, Any]]


async def send(coming: Iterator[Event]) -> tuple[dict[str, float], float]:
    """Open loop: a request each TICK with what is due; returns when each action was scheduled."""
    asked: dict[str, float] = {}
    tasks: set[asyncio.Task[None]] = set()
    connections: asyncio.Queue[Any] = asyncio.Queue()
    began = time.time()
    key, scheduled, message = next(coming)
    left = True
    while left:
        batch = []
        while left and scheduled <= time.time() and len(batch) < REQUEST:
            if key:
                asked[key] = scheduled
            batch.append(message)
            key, scheduled, message = next(coming, ("", 0.0, {}))
            left = bool(message)
        if batch:
            task = asyncio.create_task(post(connections, batch))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(TICK if len(batch) < REQUEST else 0)
    took = time.time() - began
    await asyncio.gather(*tasks)
    return asked, took


def schedule(run: str, rate: int, seconds: float, every: int) -> Iterator[Event]:
    """One in `every` is a ticket, and acts; the others are looks at a product."""
    rnd = random.Random(rate)
    began = time.time()
    for number in range(int(rate * seconds)):
        key, person = f"{run}-{number}", rnd.randrange(CUSTOMERS)
        moment = began + number / rate
        if number % every:
            yield "", moment, _view(key, person)
        else:
            yield key, moment, _ticket(key, person)


async def post(connections: asyncio.Queue[Any], batch: list[dict[str, Any]]) -> None:
    body = msgspec.json.encode({"batch": batch})
    port = int(os.environ["SIGNALBOX_COLLECTOR_PORT"])
    key = base64.b64encode(b"wk_server:").decode()
    head = (
        f"POST /v1/batch HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Basic {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        reader, writer = connections.get_nowait()
    except asyncio.QueueEmpty:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + body)
    status = await reader.readline()
    if b" 200 " not in status:
        sys.exit(f"the collector answered {status.decode().strip()}")
    length = 0
    while line := (await reader.readline()).strip():
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    await reader.readexactly(length)
    connections.put_nowait((reader, writer))


def _view(key: str, person: int) -> dict[str, Any]:
    properties = {"product_id": f"p_{person % 97}", "name": "Lamp", "price": 9.5, "currency": "EUR"}
    return message_of(key, person, "Product Viewed", properties)


def _ticket(key: str, person: int) -> dict[str, Any]:
    properties = {"ticket_id": f"T-{key}", "subject": "Help", "priority": "normal"}
    return message_of(key, person, ACTS, properties)


def message_of(key: str, person: int, event: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "track",
        "event": event,
        "messageId": key,
        "userId": f"u_{person}",
        "properties": properties,
    }


def _arrivals(home: Path, run: str) -> dict[str, float]:
    """When each action arrived, in seconds since 1970."""
    found: dict[str, float] = {}
    file = home / "sandbox" / "effects.jsonl"
    mark = f"T-{run}-"
    for line in file.read_text().splitlines() if file.exists() else []:
        at = line.find(mark)
        if at >= 0 and '"destination":"webhook"' in line:
            number = line[at + len(mark) :].split('"')[0].split("\\")[0]
            moment = datetime.fromisoformat(json.loads(line)["at"])
            found.setdefault(f"{run}-{number}", moment.timestamp())
    return found


@contextlib.contextmanager
def home() -> Iterator[Path]:
    """A home on free ports, with models and a short history."""
    home = support.new_home()
    os.environ["SIGNALBOX_HOME"] = str(home)
    for name in PORTS:
        os.environ[f"SIGNALBOX_{name}"] = str(free_port())
    history = home / "history.jsonl"
    rnd = random.Random(7)
    with history.open("w") as file:
        for number in range(5 * CUSTOMERS):
            moment = datetime.fromtimestamp(time.time() - rnd.random() * 60 * 86400, UTC)
            message = _view(f"h{number}", number % CUSTOMERS) | {"timestamp": moment.isoformat()}
            file.write(json.dumps(message) + "\n")
    for command in (["import", str(history)], ["load"], ["build", "--no-tests"]):
        done = subprocess.run([*CLI, *command], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{command[0]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    yield home


@contextlib.contextmanager
def running(home: Path, *, alone: bool) -> Iterator[None]:
    started: list[subprocess.Popen[bytes]] = []
    stop = threading.Event()
    try:
        with (home / "bench.log").open("ab") as log:
            for command in ["sandbox", "collect", "hot"] if alone else ["up"]:
                started.append(subprocess.Popen([*CLI, command], stdout=log, stderr=log))
        _until(lambda: _state(home).get("pid") is not None, home, 240)
        _until(lambda: _answers("COLLECTOR_PORT") and _answers("SANDBOX_PORT"), home, 60)
        if not alone:
            threading.Thread(target=_analyse, args=(stop,), daemon=True).start()
        time.sleep(3)
        yield
    finally:
        stop.set()
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()


def _analyse(stop: threading.Event) -> None:
    """Somebody who asks the lake one question after the other."""
    from orchestration import lake
    from orchestration.settings import load_settings

    with lake.connect(load_settings()) as connection:
        connection.execute("set threads = 1")
        while not stop.wait(0.5):
            for query in ANALYST:
                connection.execute(query).fetchall()


def _show_restart(options: argparse.Namespace) -> None:
    """Events come while the lane is down; how long until it has run over all of them."""
    with home() as path:
        events = int(500 * options.restart)
        with _running_collector():
            asyncio.run(_fill(events))
        began = time.monotonic()
        process = subprocess.Popen([*CLI, "hot"])
        try:
            _until(lambda: _caught_up(path), path, 600)
            seconds = time.monotonic() - began
        finally:
            process.terminate()
            process.wait(60)
    result = {"events": events, "down_seconds": options.restart, "caught_up_seconds": seconds}
    if options.json:
        support.print_json(result)
    else:
        print(f"{events:,} events in {options.restart:.0f} s of downtime: ", end="")
        print(f"caught up {seconds:.1f} s after the start")


async def _fill(events: int) -> None:
    connections: asyncio.Queue[Any] = asyncio.Queue()
    rnd = random.Random(3)
    for first in range(0, events, 400):
        batch = [
            _ticket(f"f{n}", rnd.randrange(CUSTOMERS))
            if n % 1000 == 0
            else _view(f"f{n}", rnd.randrange(CUSTOMERS))
            for n in range(first, min(first + 400, events))
        ]
        await post(connections, batch)


@contextlib.contextmanager
def _running_collector() -> Iterator[None]:
    process = subprocess.Popen([*CLI, "collect"], stdout=subprocess.DEVNULL)
    try:
        while not _answers("COLLECTOR_PORT"):
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _caught_up(home: Path) -> bool:
    state = _state(home)
    return bool(state.get("events")) and not (
        state["behind"]
        or state["customers_waiting"]
        or any(sync["waiting"] for sync in state["syncs"].values())
    )


def _state(home: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((home / "hot" / "state.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return state


def _until(condition: Any, home: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            log = home / "bench.log"
            sys.exit("it did not come up:\n" + (log.read_text()[-3000:] if log.exists() else ""))
        time.sleep(0.1)


def _answers(port: str) -> bool:
    with contextlib.suppress(OSError):
        address = ("127.0.0.1", int(os.environ[f"SIGNALBOX_{port}"]))
        socket.create_connection(address, timeout=0.5).close()
        return True
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _show_batches(options: argparse.Namespace) -> None:
    histories = [int(events) for events in options.batches.split(",")]
    rows = hot_batch.costs(histories, options.repeats)
    if options.json:
        support.print_json(rows)
        return
    parts = ("stage_ms", "quick_ms", "all_ms")
    support.print_table(
        "Milliseconds of a batch (median), each event of another customer",
        ["history / events", *(f"{kind} {part}" for kind in ("cold", "warm") for part in parts)],
        [
            [f"{row['history']:,} / {row['events']}"]
            + [f"{row[kind][part]:,.1f}" for kind in ("cold", "warm") for part in parts]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
