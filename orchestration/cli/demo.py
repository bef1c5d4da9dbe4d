"""`signalbox demo`: everything up, with a simulated company's history and live traffic."""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestration.cli.console import Json, UserError, console, print_json, table
from orchestration.cli.run import bring_models_up, running, stop_on_signals, where_to_look

if TYPE_CHECKING:
    from orchestration.demo import DemoState, LiveTraffic, StoryEntry
    from orchestration.demo.watch import Happening, StoryWatch
    from orchestration.settings import Settings

# Nobody who looks at a demo waits half an hour for a cart to count as abandoned.
SHORTENED = {
    "SIGNALBOX_CART_ABANDONED_MINUTES": "0.2",
    "SIGNALBOX_SOURCE_REFRESH_SECONDS": "60",
}
STORIES_PER_ROUND = 8
ROUND_SECONDS = 20.0
GRACE_SECONDS = 90.0


def demo(
    check: Annotated[
        bool, typer.Option("--check", help="Run without a person: verify each stage, then end.")
    ] = False,
    customers: Annotated[int, typer.Option(min=200, help="Simulated customers.")] = 3000,
    days: Annotated[int, typer.Option(min=1, max=90, help="Days of history.")] = 90,
    seed: Annotated[int, typer.Option(help="The simulated world; the same seed, the same.")] = 7,
    rate: Annotated[float, typer.Option(min=0, help="Ordinary live messages per second.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="With --check: rounds of stories.")] = 2,
    as_json: Json = False,
) -> None:
    """Play a shop and SaaS company: its history first, then live traffic, with everything up.

    Example: [bold]signalbox demo[/], and in a second terminal [bold]signalbox status[/]
    """
    shortened = {name: os.environ.setdefault(name, value) for name, value in SHORTENED.items()}
    from orchestration import activate
    from orchestration.demo import DemoState
    from orchestration.settings import load_settings

    console.quiet = as_json
    settings = load_settings()
    if live := [name for name in activate.destinations() if activate.is_live(settings, name)]:
        raise UserError(
            f"Credentials are set for {', '.join(live)}, and made-up customers must not reach a "
            "real account. Run the demo without them (move .env away, unset SIGNALBOX_*)."
        )
    state_file = settings.home / "demo" / "state.json"
    if not state_file.exists() and _has_data(settings):
        raise UserError(
            f"{settings.home} holds events that are not the demo's. Run the demo in a home of its "
            "own: SIGNALBOX_HOME=.signalbox-demo signalbox demo"
        )
    state = DemoState.open(state_file, seed=seed, customers=customers)
    console.print(
        f"Demo of [bold]Lumen & Loop[/], a simulated shop and SaaS: {state.customers:,} customers, "
        f"seed {state.seed}. For the demo a cart counts as abandoned after "
        f"{float(shortened['SIGNALBOX_CART_ABANDONED_MINUTES']) * 60:.0f} s instead of 30 min."
    )
    with running(
        settings, with_sandbox=True, prepare=lambda: _prepare(settings, state, days)
    ) as up:
        where_to_look(settings, with_sandbox=True)
        stop = stop_on_signals()
        watching = threading.Thread(target=up.watch, args=(stop,), daemon=True)
        watching.start()
        result = _play(settings, state, rate, stop, rounds if check else None)
        stop.set()
        watching.join()
        report = _report(settings, result) if check else None
    if report is not None:
        _finish(report, as_json=as_json)


def _has_data(settings: Settings) -> bool:
    from orchestration import ingest

    return ingest.open_reader(settings).end() > 0


def _prepare(settings: Settings, state: DemoState, days: int) -> None:
    """First start only: the past goes in through the same doors as the present."""
    done = settings.home / "demo" / "prepared"
    if done.exists():
        bring_models_up(settings)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from orchestration import activate, ingest, lake
    from orchestration.assets import models
    from orchestration.demo import seed_sandbox

    columns = (TextColumn("{task.description:<44}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:

        def step(text: str) -> Any:
            return progress.add_task(text, total=None)

        def finish(task: Any, text: str) -> None:
            progress.update(task, description=text, total=1, completed=1)

        task = step(f"playing {days} days of history")
        world = state.world()
        path = settings.home / "demo" / "history.jsonl.gz"
        messages = world.write_history(path, days)
        finish(task, f"history: {messages:,} messages")

        task = step("importing it through contract and event log")
        imported = ingest.import_file(settings, path, None, "import")
        finish(task, f"imported {imported.accepted:,}, quarantined {imported.quarantined:,}")

        task = step("giving CRM and help desk what they know")
        seeded = seed_sandbox(world, settings.sandbox_url)
        finish(task, f"CRM: {seeded['contacts']:,} contacts, help desk: {seeded['tickets']:,}")

        with lake.writer(settings, "demo"):
            task = step("loading into the lake with dlt")
            ingest.loader(settings).ensure_tables()
            for source in ingest.refreshable(settings, with_sandbox=True):
                ingest.refresh(settings, source)
            loaded = ingest.loader(settings).load()
            finish(task, f"loaded {loaded.events:,} events in {loaded.seconds:.1f} s")

            task = step("building the models with dbt")
            nodes = 0
            # Unit tests check the SQL, not the data, and whoever edits it runs them.
            args = ["--exclude", models.AFTER_SYNC, "--exclude-resource-type", "unit_test"]
            for event in models.build(args, settings):
                if event["data"].get("node_info") and event["info"]["name"] == "LogStartLine":
                    nodes += 1
                    name = event["data"]["node_info"]["node_name"]
                    progress.update(task, description=f"dbt: {name[:38]}")
            finish(task, f"built and tested {nodes} dbt nodes")

        task = step("first sync: the CRM learns its scores")
        reports = activate.run_syncs(settings)
        finish(task, "first sync: " + activate.one_line(reports))
    path.unlink()
    done.touch()


class _Played:
    """The traffic, what it caused, and which stories are waited for: those of the first rounds."""

    def __init__(self, traffic: LiveTraffic, watch: StoryWatch, rounds: int | None) -> None:
        self.traffic = traffic
        self.watch = watch
        self._awaited = (rounds or 0) * STORIES_PER_ROUND

    @property
    def awaited(self) -> list[StoryEntry]:
        return self.traffic.story_log[: self._awaited]

    @property
    def complete(self) -> bool:
        enough = len(self.traffic.story_log) >= self._awaited
        return enough and not self.watch.missing(self.awaited)


def _play(
    settings: Settings,
    state: DemoState,
    rate: float,
    stop: threading.Event,
    rounds: int | None,
) -> _Played:
    from orchestration import activate
    from orchestration.demo import LiveTraffic
    from orchestration.demo.watch import StoryWatch

    key = next(iter(settings.write_keys.values()))
    watch = StoryWatch(settings.sandbox_url)
    held_out = activate.held_out(settings)
    if held_out:
        console.print(
            f"\n{len(held_out):,} customers are held out of a sync, to measure what its messages "
            "bring; the stories are about others.",
            style="dim",
        )
    traffic = LiveTraffic(
        state.world(),
        settings.collector_url,
        key,
        state=state,
        rate=rate,
        story_every=ROUND_SECONDS,
        left_out=held_out,
    )
    played = _Played(traffic, watch, rounds)
    sending = threading.Thread(target=traffic.run, args=(stop,), daemon=True)
    sending.start()
    console.print("\nLive traffic runs. What it causes:", style="dim")
    deadline = time.monotonic() + (rounds or 0) * ROUND_SECONDS + GRACE_SECONDS
    while not stop.wait(0.5):
        for happening in watch.poll(list(traffic.story_log)):
            _tell(happening)
        if rounds and (played.complete or time.monotonic() > deadline):
            stop.set()
    sending.join(timeout=30)
    return played


WHAT_HAPPENED = {
    "leaving": "asked to cancel",
    "cart": "left a cart",
    "ticket": "opened a ticket",
    "merge": "logged in on a new device",
    "purchase": "bought",
    "fraud": "paid on two continents at once",
    "bill": "could not pay a bill",
    "browse": "looked at a product again and again",
}


def _tell(happening: Happening) -> None:
    entry = happening.entry
    console.print(
        f"[dim]{time.strftime('%H:%M:%S')}[/] {entry.name} {WHAT_HAPPENED[entry.story]} → "
        f"[bold]{happening.destination}[/] after {happening.seconds:.1f} s",
        highlight=False,
    )


def _report(settings: Settings, played: _Played) -> dict[str, Any]:
    from orchestration import report

    state = report.status(settings)
    times: dict[str, list[float]] = {}
    for happening in played.watch.happenings:
        times.setdefault(happening.destination, []).append(happening.seconds)
    missing = [
        f"{entry.story} of {entry.name} did not reach {destination}"
        for entry, destination in played.watch.missing(played.awaited)
    ]
    stages = {"accepted": state["accepted"], **state["stages"]}
    missing += [f"nothing in {name}" for name, count in stages.items() if not count]
    if played.traffic.failed:
        missing.append(f"{played.traffic.failed} live messages failed: {played.traffic.last_error}")
    return {
        "stages": stages,
        "live_messages": played.traffic.sent,
        "deliveries": state["deliveries"],
        "event_to_action_seconds": {
            destination: {
                "count": len(seconds),
                "median": round(statistics.median(seconds), 2),
                "p95": round(_quantile(seconds, 0.95), 2),
            }
            for destination, seconds in sorted(times.items())
        },
        "missing": missing,
    }


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _finish(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        stages = table("Stages", "stage", "rows", right=("rows",))
        for name, count in result["stages"].items():
            stages.add_row(name.replace("_", " "), f"{count or 0:,}")
        console.print(stages)
        synced = table("Deliveries", "sync", "state", "actions", right=("actions",))
        for sync, counts in result["deliveries"].items():
            for state, count in counts.items():
                synced.add_row(sync, state, f"{count:,}")
        console.print(synced)
        times = table(
            "From event to action", "destination", "actions", "median s", "p95 s",
            right=("actions", "median s", "p95 s"),
        )  # fmt: skip
        for name, figures in result["event_to_action_seconds"].items():
            times.add_row(name, *(str(figures[key]) for key in ("count", "median", "p95")))
        console.print(times)
        for line in result["missing"]:
            console.print(f"[red]✗[/] {line}")
        if not result["missing"]:
            console.print("[green]✓[/] every stage happened")
    if result["missing"]:
        sys.exit(1)
