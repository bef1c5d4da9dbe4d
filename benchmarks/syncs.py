"""A million customers of whom one in a hundred changed: what a sync plans, sends, and takes.

    python -m benchmarks.syncs [--customers 1000000] [--peer] [--json]

The rows stand in a DuckDB file, the ledger in the embedded Postgres, and the destination is an HTTP
server of this machine that counts what it gets in HubSpot's form. Beside our changed-only sync
stands the naive one, which reads every row and posts it. `--peer` installs drt-core, an
open-source tool for the same job, into an environment of its own and sends the same rows to the
same server.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import duckdb
import requests
import uvicorn
from rich.console import Console

from benchmarks import support
from orchestration import postgres
from orchestration.settings import Settings
from syncs import destinations
from syncs.ledger import Ledger
from syncs.plan import CHANGES, plan_sync
from syncs.push import Pusher
from syncs.spec import SyncSpec, load_specs

PEER = "drt-core==1.2.1"
#: Rows per request, and how many rows are sent so (a tenth of the customers at most).
BATCH_SIZES = {1: 2_000, 10: 10_000, 100: 20_000, 1000: 20_000}

NODE = {
    "resource_type": "model",
    "name": "sync_hubspot__health",
    "relation_name": "warehouse.health",
    "columns": {name: {} for name in ("customer_id", "email", "score", "band", "segment")},
    "config": {
        "meta": {
            "sync": {
                "destination": "hubspot",
                "object": "contacts",
                "mode": "upsert",
                "key": "email",
            }
        }
    },
}


async def counting_app(scope: Any, receive: Any, send: Any) -> None:
    """Counts rows in `counting_app.rows`; GET answers the count and forgets it."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    if scope["method"] == "GET":
        answer = json.dumps({"rows": counting_app.rows}).encode()  # type: ignore[attr-defined]
        counting_app.rows = 0  # type: ignore[attr-defined]
    else:
        counting_app.rows += len(json.loads(body)["inputs"])  # type: ignore[attr-defined]
        answer = b'{"status":"COMPLETE","results":[]}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


counting_app.rows = 0  # type: ignore[attr-defined]


def serve(ready: Connection) -> None:
    """Process: the counting destination on a free port, until it is terminated."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    ready.send(listener.getsockname()[1])
    config = uvicorn.Config(counting_app, loop="uvloop", log_config=None, access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


@contextlib.contextmanager
def destination() -> Iterator[str]:
    """The URL of a running destination."""
    spawn = multiprocessing.get_context("spawn")
    port_in, port_out = spawn.Pipe(duplex=False)
    server = spawn.Process(target=serve, args=(port_out,))
    server.start()
    try:
        yield f"http://127.0.0.1:{port_in.recv()}"
    finally:
        server.terminate()
        server.join()


def arrived(url: str) -> int:
    """Rows that the destination got since it was last asked."""
    return int(requests.get(url, timeout=20).json()["rows"])


def fill(warehouse: Path, customers: int) -> None:
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(
            "create table health as select 'c' || n as customer_id,"
            " 'person' || n || '@shop.example' as email, round(n % 1000 / 1000, 3) as score,"
            " ['low', 'medium', 'high'][n % 3 + 1] as band,"
            " ['regular', 'champions', 'at_risk'][n % 3 + 1] as segment,"
            " timestamp '2026-03-01' as updated_at"
            f" from range({customers}) as r(n)"
        )


def change(warehouse: Path, share: int, moment: str) -> int:
    """Give every `share`th customer another score; returns how many."""
    with duckdb.connect(str(warehouse)) as connection:
        row = connection.execute(
            "update health set score = score + 1, updated_at = cast($moment as timestamp)"
            f" where cast(customer_id[2:] as bigint) % {share} = 0",
            {"moment": moment},
        ).fetchone()
    return int(row[0]) if row else 0


class Ours:
    """Signalbox's engine over the benchmark's warehouse, ledger and destination."""

    def __init__(self, warehouse: Path, home: Path, url: str) -> None:
        server = postgres.start(Settings(home=home, postgres_url=None, _env_file=None))  # type: ignore[call-arg]
        self.ledger = Ledger(server.ledger)
        self.ledger.ensure()
        self.pusher = Pusher(self.ledger, sandbox=destinations.Sandbox(url), env_file=None)
        self.connection = duckdb.connect()
        self.connection.execute(f"attach '{warehouse}' as warehouse (read_only)")
        (self.spec,) = load_specs({"nodes": {"health": NODE}})

    def close(self) -> None:
        self.connection.close()
        self.ledger.close()

    def plan(self, spec: SyncSpec) -> tuple[float, int]:
        """Seconds that a plan takes, and how many changes it has."""
        started = time.monotonic()
        plan = plan_sync(
            self.connection,
            spec,
            self.ledger.known(spec, sandbox=True),
            now=datetime.now(UTC),
            began_at=self.ledger.began_at(),
        )
        with contextlib.closing(plan):
            return time.monotonic() - started, plan.count(*CHANGES)

    def send(self, batch_size: int = 100) -> tuple[float, float]:
        """Seconds of a whole run (plan, intents, requests, outcomes), and of its last two parts."""
        load, record = destinations.load, self.ledger.record
        recorded_at = 0.0

        def timed(*args: Any, **options: Any) -> int:
            nonlocal recorded_at
            touched = record(*args, **options)
            recorded_at = time.monotonic()
            return touched

        # The vendor's own pace would be all that is measured.
        destinations.load = lambda name: replace(load(name), rate=1e6, batch_size=batch_size)
        self.ledger.record = timed  # type: ignore[method-assign]
        try:
            started = time.monotonic()
            report = self.pusher.run(self.spec, self.connection)
            ended = time.monotonic()
        finally:
            destinations.load = load
            self.ledger.record = record  # type: ignore[method-assign]
        if report.status != "done":
            raise RuntimeError(f"{report.status}: {report.message}")
        return ended - started, ended - recorded_at


def naive(warehouse: Path, url: str) -> float:
    """Seconds to read every row and post it in hundreds, with no memory of what was sent."""
    started = time.monotonic()
    with duckdb.connect(str(warehouse), read_only=True) as connection, requests.Session() as http:
        found = connection.execute("select email, score, band, segment from health")
        while rows := found.fetchmany(100):
            inputs = [{"id": email, "properties": values} for email, *values in rows]
            http.post(url, json={"inputs": inputs}, timeout=20).raise_for_status()
    return time.monotonic() - started


class Peer:
    """drt-core in an environment and a project of its own, incremental by `updated_at`."""

    def __init__(self, directory: Path, warehouse: Path, url: str) -> None:
        self._directory, environment = directory, directory / "venv"
        tool = Path(sys.executable).parent / "uv"
        subprocess.run([tool, "venv", "--quiet", environment], check=True)
        self._drt = environment / "bin" / "drt"
        install = [tool, "pip", "install", "--quiet", "--python", environment / "bin" / "python"]
        subprocess.run([*install, PEER, f"duckdb=={duckdb.__version__}"], check=True)
        (directory / "syncs").mkdir()
        (directory / ".drt").mkdir()
        (directory / ".drt" / "profiles.yml").write_text(
            f"bench:\n  type: duckdb\n  database: {warehouse}\n"
        )
        (directory / "drt_project.yml").write_text('name: bench\nversion: "0.1"\nprofile: bench\n')
        sync = {
            "name": "health",
            "model": "select email, score, band, segment, updated_at from health",
            "destination": {
                "type": "rest_api",
                "url": url,
                "method": "POST",
                "headers": {"Content-Type": "application/json"},
                "body_mode": "batch",
                "max_records_per_request": 100,
                "batch_template": '{"inputs": [{% for row in rows %}{"id": "{{ row.email }}",'
                ' "properties": {"score": "{{ row.score }}", "band": "{{ row.band }}",'
                ' "segment": "{{ row.segment }}"}}{{ "," if not loop.last }}{% endfor %}]}',
            },
            "sync": {
                "mode": "incremental",
                "cursor_field": "updated_at",
                "batch_size": 1000,
                "rate_limit": {"requests_per_second": 1e6},
            },
        }
        # JSON is YAML.
        (directory / "syncs" / "health.yml").write_text(json.dumps(sync))

    def send(self) -> float:
        """Seconds that `drt run` takes."""
        started = time.monotonic()
        environment = os.environ | {"HOME": str(self._directory)}
        subprocess.run(
            [self._drt, "run"], cwd=self._directory, env=environment, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return time.monotonic() - started


def peak_mb() -> int:
    """The most memory this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Measure and print."""
    parser = support.parser(__doc__)
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--peer", action="store_true", help=f"also {PEER}, which is installed")
    options = parser.parse_args()
    console = Console(stderr=True)
    home = support.new_home()
    warehouse = home / "warehouse.duckdb"
    fill(warehouse, options.customers)
    rows: list[dict[str, Any]] = []

    def note(what: str, seconds: float, sent: int) -> None:
        pace = round(sent / seconds) if sent else 0
        rows.append({"what": what, "seconds": round(seconds, 2), "rows": sent, "rows_per_s": pace})

    with destination() as url:
        with console.status("naive: every row"):
            seconds = naive(warehouse, url)
            note("naive full push, 100 a request", seconds, arrived(url))
        ours = Ours(warehouse, home, url)
        with console.status("ours: the first sync, every row"):
            seconds, sending = ours.send()
            sent = arrived(url)
            note("ours: first sync, every row is new", seconds, sent)
            note("… of which requests and their outcomes", sending, sent)
        before = peak_mb()
        with console.status("ours: nothing changed"):
            seconds, changes = ours.plan(ours.spec)
            assert changes == 0
            note("ours: plan, nothing changed", seconds, 0)
        ours.connection.execute("detach warehouse")
        changed = change(warehouse, 100, "2026-03-02")
        ours.connection.execute(f"attach '{warehouse}' as warehouse (read_only)")
        with console.status("ours: one in a hundred"):
            seconds, changes = ours.plan(ours.spec)
            assert changes == changed
            note("ours: plan, 1 % changed", seconds, 0)
            seconds, _ = ours.send()
            note("ours: plan and send, 1 % changed", seconds, arrived(url))
        assert rows[-1]["rows"] == changed, "exactly the changed ones"
        memory = {"before_plans_mb": before, "after_plans_mb": peak_mb()}
        pages = []
        for number, (size, rows_sent) in enumerate(BATCH_SIZES.items()):
            ours.connection.execute("detach warehouse")
            change(warehouse, max(options.customers // rows_sent, 10), f"2026-03-{10 + number}")
            ours.connection.execute(f"attach '{warehouse}' as warehouse (read_only)")
            with console.status(f"ours: {size} a request"):
                _, sending = ours.send(size)
            pages.append({"rows_per_request": size, "rows_per_s": round(arrived(url) / sending)})
        ours.close()
        if options.peer:
            directory = home / "peer"
            directory.mkdir()
            with console.status(f"{PEER}: installing"):
                peer = Peer(directory, warehouse, url)
            with console.status(f"{PEER}: the first sync"):
                seconds = peer.send()
                note(f"{PEER}: first sync, 100 a request", seconds, arrived(url))
            change(warehouse, 100, "2026-04-01")
            with console.status(f"{PEER}: one in a hundred"):
                seconds = peer.send()
                note(f"{PEER}: 1 % changed, found by updated_at", seconds, arrived(url))
    if options.json:
        support.print_json({"rows": rows, "memory": memory, "by_batch_size": pages})
        return
    support.print_table(
        f"{options.customers:,} customers, {os.cpu_count()} CPUs",
        ["what", "seconds", "rows sent", "rows/s"],
        [[f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()] for row in rows],
        caption=f"peak memory of our process: {memory['before_plans_mb']} MB after the first "
        f"sync, {memory['after_plans_mb']} MB after the plans",
    )
    support.print_table(
        "Rows a second by batch size: requests and outcomes",
        ["rows per request", "rows/s"],
        [[str(page["rows_per_request"]), f"{page['rows_per_s']:,}"] for page in pages],
    )


if __name__ == "__main__":
    main()
