"""What `signalbox status` and `signalbox doctor` know, as data, and how a person sees it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orchestration import dbt, ingest, lake, lanes, postgres, warehouse
from orchestration.settings import Settings
from orchestration.supervisor import port_answers

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from rich.console import Console

DISK_NOTE_BYTES = 2 * 1024**3

STAGES = {
    "raw_events": "select count(*) from raw.events",
    "quarantined": "select count(*) from raw.quarantine",
    # Without what Signalbox itself says of ids, which is in nobody's timeline.
    "events": "select count(*) from stg_events where coalesce(source, '') <> 'signalbox'",
    "timeline": "select count(*) from customer_timeline",
    "customers": "select count(*) from customers",
    "scored": "select count(*) from churn_scores",
    "signals": "select count(*) from signals",
}


def status(settings: Settings) -> dict[str, Any]:
    """Counts per stage, backlog, freshness, deliveries by state, and the present writer."""
    from ingestion.sources import refreshed

    postgres.start(settings)
    warehouse.ensure(settings)
    log = ingest.log_facts(settings)
    accepted = log["end"] if log else ingest.open_reader(settings).end()
    position = ingest.loader(settings).position()
    with lake.connect(settings) as connection:
        tables = {
            source.table: f"select count(*) from raw.{source.table}" for source in refreshed()
        }
        stages = {name: _scalar(connection, query) for name, query in (STAGES | tables).items()}
        built = _scalar(connection, "select max(built_at) from build_watermarks")
        newest = _scalar(connection, "select max(received_at) from stg_events")
    return {
        "home": str(settings.home),
        "accepted": accepted,
        "waiting_to_load": accepted - position,
        "log": log,
        "sources": ingest.source_reports(settings),
        "stages": stages,
        "newest_event_received_at": newest,
        "last_build_at": built,
        "seconds_since_build": _age(built),
        "lanes": {"micro_batch": lanes.micro_batch(settings)},
        "writer": lake.current_writer(settings),
        "deliveries": ledger_counts(settings),
        "hot": hot_state(settings),
        "serving": {
            "collector": port_answers(settings.host, settings.collector_port),
            "dagster": port_answers(settings.host, settings.dagster_port),
            "sandbox": port_answers(settings.host, settings.sandbox_port),
        },
    }


def hot_state(settings: Settings) -> dict[str, Any] | None:
    """How the hot lane is, how fast it was, and its troubles in words; None if it never ran."""
    from orchestration.hot.reporting import read_state, troubles

    state = read_state(settings)
    return state and state | {"troubles": troubles(state)}


def ledger_counts(settings: Settings) -> dict[str, dict[str, int]]:
    """Actions per sync and state."""
    import psycopg2

    connection = psycopg2.connect(postgres.start(settings).ledger)
    try:
        with connection.cursor() as cursor:
            cursor.execute("select sync, state, count(*) from actions group by 1, 2 order by 1, 2")
            counts: dict[str, dict[str, int]] = {}
            for sync, state, count in cursor.fetchall():
                counts.setdefault(sync, {})[state] = count
            return counts
    finally:
        connection.close()


def print_status(state: dict[str, Any], console: Console) -> None:
    """The status for a person."""
    from orchestration.cli.console import table

    stages = table("Pipeline", "stage", "rows", right=("rows",))
    stages.add_row("accepted (event log)", f"{state['accepted']:,}")
    for name, count in state["stages"].items():
        stages.add_row(
            name.replace("_", " "), "[dim]not built[/]" if count is None else f"{count:,}"
        )
    console.print(stages)
    if state["deliveries"]:
        states = sorted({name for counts in state["deliveries"].values() for name in counts})
        syncs = table("Deliveries", "sync", *states, right=tuple(states))
        for sync, counts in state["deliveries"].items():
            syncs.add_row(sync, *(f"{counts[name]:,}" if name in counts else "" for name in states))
        console.print(syncs)
    if state["hot"]:
        _print_hot(state["hot"], console)
    _print_sources(state["sources"], console)
    _print_lanes(state["lanes"], console)
    age = state["seconds_since_build"]
    console.print(
        f"{state['waiting_to_load']:,} records wait to be loaded; "
        + ("nothing was built yet" if age is None else f"models built {age:,.0f} s ago")
        + (f"; {state['writer']} is writing" if state["writer"] else "")
        + "."
    )
    up = [name for name, serving in state["serving"].items() if serving]
    if log := state["log"]:
        console.print(
            f"The event log keeps {log['end'] - log['first']:,} records in {log['segments']} "
            f"segments, {log['bytes'] / 1e6:,.0f} MB; {log['free_bytes'] / 1e9:,.0f} GB are free."
        )
        if log["writer"] not in ("ok", "none"):
            console.print(f"[red]It takes nothing: {log['writer']}[/]")
        if log["recovered_bytes"]:
            console.print(
                f"{log['recovered_bytes']} bytes of a torn tail were cut at the collector's start."
            )
    console.print(f"Serving: {', '.join(up) or 'nothing; signalbox up starts everything'}.")


_SHARES = ("p50", "p95", "p99")


def _print_lanes(measured: dict[str, dict[str, Any]], console: Console) -> None:
    from orchestration.cli.console import table

    for lane, stages in measured.items():
        title = f"{lane.replace('_', '-').capitalize()}, seconds in the last hour"
        shown = table(title, "from … to …", "count", *_SHARES, right=("count", *_SHARES))
        named = {name.replace("_", " "): one for name, one in stages.items() if name != "messages"}
        named |= {f"fired to {sync}": one for sync, one in stages["messages"].items()}
        for name, found in named.items():
            if found["count"]:
                cells = (f"{found[share]:.2f}" for share in _SHARES)
                shown.add_row(name, f"{found['count']:,}", *cells)
        if shown.row_count:
            console.print(shown)


def _print_hot(hot: dict[str, Any], console: Console) -> None:
    from orchestration.cli.console import table
    from orchestration.hot.reporting import age, signals_and_destination

    title = "Hot lane, seconds from accepted to sent in the last hour"
    shown = table(title, "signal", "to", "sent", *_SHARES, right=("sent", *_SHARES))
    rows = [(*signals_and_destination(sync, one), sync) for sync, one in hot["syncs"].items()]
    for signal, destination, sync in [*sorted(rows), ("all", "", "")]:
        found = hot["latency"].get(sync)
        cells = (f"{found[share]:.2f}" if found else "" for share in _SHARES)
        shown.add_row(signal, destination, f"{found['count'] if found else 0:,}", *cells)
    console.print(shown)
    if hot["running"]:
        console.print(
            f"The hot lane runs: {hot['behind']:,} records unread, "
            f"{hot['customers_waiting']:,} customers to run, the oldest for "
            f"{age(hot['lag_seconds'])}; {_sum(hot, 'waiting'):,} actions to send; "
            f"{hot['timers']:,} timers; {hot['rows']:,} events of {hot['customers']:,} customers "
            "in memory."
        )
    console.print(
        f"Since its start {_sum(hot, 'expired'):,} expired and were dropped, "
        f"{_sum(hot, 'left'):,} were left to the micro-batch."
    )
    for trouble in hot["troubles"]:
        console.print(trouble, style="red", highlight=False, markup=False)
    for model, reason in hot["refused"].items():
        console.print(f"{model} does not run hot: it {reason}.", highlight=False, markup=False)


def _sum(hot: dict[str, Any], name: str) -> int:
    return sum(counts[name] for counts in hot["syncs"].values())


def _print_sources(reports: list[dict[str, Any]], console: Console) -> None:
    from orchestration.cli.console import table

    brokers = [report for report in reports if report["kind"] == "pull"]
    if not brokers:
        return
    numbers = ("received", "waiting", "acknowledged", "lag")
    shown = table("Brokers", "source", "state", *numbers, right=numbers)
    for report in brokers:
        state = "connected" if report["connected"] else report.get("error") or "the relay is off"
        shown.add_row(
            report["source"],
            state,
            *("" if report.get(name) is None else f"{report[name]:,}" for name in numbers),
        )
    console.print(shown)


def doctor(settings: Settings, *, offline: bool = False) -> list[dict[str, str]]:
    """Each check as `{check, state, result}`; state is ok, note or wrong.

    Destinations with credentials are called, harmlessly, unless `offline`.
    """
    checks: list[dict[str, str]] = []

    def check(name: str, work: Callable[[], str | tuple[str, str]]) -> None:
        try:
            outcome = work()
        except Exception as error:
            outcome = ("wrong", str(error).splitlines()[0])
        state, result = outcome if isinstance(outcome, tuple) else ("ok", outcome)
        checks.append({"check": name, "state": state, "result": result})

    check("home", lambda: _home(settings))
    check("disk", lambda: _disk(settings))
    check("postgres", lambda: postgres.start(settings).lake.split("@")[-1])
    check("lake", lambda: _lake(settings))
    check("dbt project", lambda: f"{len(dbt.manifest(settings)['nodes'])} nodes parse")
    check("contracts", lambda: ingest.check_contracts())
    check("event log", lambda: ingest.check_log(settings))
    check("write keys", lambda: _write_keys(settings))
    for source in sorted({*settings.sources, *ingest.tables(settings)}):
        check(
            f"source {source}",
            lambda name=source: ingest.check_source(settings, name),  # type: ignore[misc]
        )
    for name, port in (
        ("collector", settings.collector_port),
        ("dagster", settings.dagster_port),
        ("sandbox", settings.sandbox_port),
    ):
        check(name, lambda port=port: _port(settings, port))  # type: ignore[misc]
    from orchestration import activate

    for found in activate.check_destinations(settings, offline=offline):
        version = f"; API {found.api_version}" if found.state == "ok" and not found.sandbox else ""
        name, result = f"destination {found.name}", found.result + version
        checks.append({"check": name, "state": found.state, "result": result})
    return checks


def _home(settings: Settings) -> str:
    settings.home.mkdir(parents=True, exist_ok=True)
    probe = settings.home / ".writable"
    probe.touch()
    probe.unlink()
    return str(settings.home)


def _disk(settings: Settings) -> tuple[str, str]:
    free = shutil.disk_usage(settings.home).free
    state = "ok" if free > DISK_NOTE_BYTES else "wrong"
    return state, f"{free / 1024**3:.0f} GiB free"


def _lake(settings: Settings) -> str:
    warehouse.ensure(settings)
    with lake.connect(settings) as connection:
        version = _scalar(connection, "select version()")
        if settings.lake_storage is not None:
            connection.execute("from glob($files) limit 1", {"files": f"{settings.lake_path}*"})
    return f"DuckDB {version}, {settings.lake_path}"


def _write_keys(settings: Settings) -> tuple[str, str]:
    if set(settings.write_keys.values()) & {"wk_web", "wk_server"}:
        return "note", "the defaults are in use; set SIGNALBOX_WRITE_KEYS before you go public"
    return "ok", ", ".join(settings.write_keys)


def _port(settings: Settings, port: int) -> str:
    return f"port {port}: {'serving' if port_answers(settings.host, port) else 'free'}"


def _scalar(connection: DuckDBPyConnection, query: str) -> Any:
    import duckdb

    try:
        row = connection.execute(query).fetchone()
    except duckdb.CatalogException:
        return None  # not built yet
    return row[0] if row else None


def _age(moment: datetime | None) -> float | None:
    return (datetime.now(UTC) - moment).total_seconds() if moment else None
