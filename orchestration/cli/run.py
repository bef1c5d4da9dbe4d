"""Commands that keep running: up, collect, relay, sandbox."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from orchestration.cli.console import Json, UserError, console, print_json
from orchestration.settings import Settings, load_settings

if TYPE_CHECKING:
    from orchestration.supervisor import Supervisor


def up(
    sandbox: Annotated[
        bool,
        typer.Option(help="Also run the vendors' stand-ins, for destinations without credentials."),
    ] = True,
) -> None:
    """Run everything: collector, Dagster's UI and daemon, and the sandbox.

    Example: [bold]signalbox up[/]
    """
    settings = load_settings()
    with running(settings, with_sandbox=sandbox) as supervised:
        where_to_look(settings, with_sandbox=sandbox)
        stop = stop_on_signals()
        supervised.watch(stop)


class running:  # noqa: N801 - reads as what it is: `with running(settings):`
    """Everything up for the length of the block, in the order in which it is needed."""

    def __init__(
        self,
        settings: Settings,
        *,
        with_sandbox: bool,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        from orchestration import services
        from orchestration.supervisor import Supervisor

        self._settings = settings
        self._with_sandbox = with_sandbox
        self._prepare = prepare or (lambda: bring_models_up(settings))
        self._supervisor = Supervisor(
            services.log_file(settings),
            on_notice=lambda text: console.print(f"[yellow]![/] {text}"),
        )

    def __enter__(self) -> Supervisor:
        from orchestration import edits, postgres, services, warehouse

        settings = self._settings
        _ports_are_free(settings, with_sandbox=self._with_sandbox)
        postgres.start(settings)
        warehouse.ensure(settings)
        try:
            if self._with_sandbox:
                self._supervisor.start(services.sandbox(settings))
            # Before the collector: an import writes the log itself, and it has one writer.
            self._prepare()
            with console.status("starting collector and Dagster …"):
                self._supervisor.start(services.collector(settings), services.hot())
                self._supervisor.start(*services.code(settings))
                self._supervisor.start(*services.dagster(settings), *services.relay(settings))
            self._supervisor.follow(edits.watch(settings).shipped)
        except BaseException:
            self._supervisor.stop()
            raise
        return self._supervisor

    def __exit__(self, *_: object) -> None:
        with console.status("stopping; work under way is finished first …"):
            self._supervisor.stop()
        console.print("Stopped. Starting again continues where this stopped.")


def stop_on_signals() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def where_to_look(settings: Settings, *, with_sandbox: bool) -> None:
    """Print the addresses a person wants to open."""
    from rich.panel import Panel
    from rich.table import Table

    from orchestration import services

    grid = Table.grid(padding=(0, 2))
    grid.add_row("Dagster", f"[link]{settings.dagster_url}[/]", "runs, lineage, checks")
    if with_sandbox:
        grid.add_row("Sandbox", f"[link]{settings.sandbox_url}[/]", "what arrived in CRM and inbox")
    name, key = next(iter(settings.write_keys.items()))
    grid.add_row("Collector", f"[link]{settings.collector_url}[/]", f"write key {key} ({name})")
    query = 'signalbox sql "select * from churn_scores limit 10"'
    grid.add_row("SQL", f"[bold]{query}[/]", "in a second terminal")
    grid.add_row("Log", str(services.log_file(settings)), "of every process")
    console.print(Panel(grid, title="Signalbox is up", title_align="left", expand=False))
    console.print("Ctrl-C stops everything.", style="dim")


def collect() -> None:
    """Accept events over HTTP, in Segment's format, into the event log.

    Example: [bold]signalbox collect[/], then [bold]curl -u wk_web: localhost:8080/v1/track
    -d '{"type": "track", …}'[/]
    """
    from orchestration import ingest

    settings = load_settings()
    ingest.serve_collector(
        settings,
        lambda port: console.print(
            f"Events are taken at [bold]http://{settings.host}:{port}[/]. Ctrl-C stops."
        ),
    )


def relay() -> None:
    """Bring messages from the brokers in SIGNALBOX_SOURCES into the event log.

    Example: [bold]SIGNALBOX_SOURCES=kafka signalbox relay[/]; `signalbox up` runs it by itself
    """
    from orchestration import ingest

    settings = load_settings()
    names = ", ".join(source.name for source in ingest.pulled(settings))
    ingest.serve_relay(
        settings,
        stop_on_signals(),
        lambda: console.print(f"Messages of {names} go into the event log. Ctrl-C stops."),
    )


def hot(
    check: Annotated[
        bool, typer.Option("--check", help="Say which models run hot, and why others do not.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Act on signals tagged hot within seconds of the event. `signalbox up` starts it.

    Example: [bold]signalbox hot --check[/]
    """
    import logging

    from orchestration import allocator

    if not check:
        allocator.keep_memory()

    from orchestration.hot import check as checks
    from orchestration.hot import service

    settings = load_settings()
    if not check:
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
        logging.getLogger("signalbox.hot").setLevel(logging.INFO)
        service.serve(settings, stop_on_signals())
    elif as_json:
        print_json(checks.report(settings))
    else:
        checks.show(checks.report(settings), console)


def sandbox(
    scenario: Annotated[
        str | None,
        typer.Option(
            help="A bad day for every vendor: chaos, timeouts (done, but never answered), "
            "storm (429 and 500) or half (every second row refused)."
        ),
    ] = None,
    chaos: Annotated[bool, typer.Option("--chaos", help="Short for --scenario chaos.")] = False,
    seed: Annotated[int, typer.Option(help="Of the scenario's lottery.")] = 0,
) -> None:
    """Run the vendors' stand-ins: every destination's, a help desk's, and a mail server.

    Example: [bold]signalbox sandbox --chaos --seed 7[/], then open http://127.0.0.1:8090
    """
    from orchestration import activate

    if chaos and scenario not in (None, "chaos"):
        raise UserError("Name one: --chaos or --scenario.")
    activate.serve_sandbox(load_settings(), "chaos" if chaos else scenario, seed)


def warm() -> None:
    """Wait, with everything imported, and execute runs by forks. `signalbox up` starts it."""
    from orchestration import allocator

    allocator.keep_memory()

    from orchestration import warm

    warm.serve(load_settings())


def bring_models_up(settings: Settings) -> None:
    """Build what a micro-batch takes for granted: seeds, views, and tables that this version adds.

    A table that lacks a column is built whole, and with it all that is made from it. Where other
    edits have not reached the rows built before, it says so.

    What reads the ledger's outcomes is left to the job that brings those in, once a minute: until
    it has run for the first time, its views have no table to stand on.
    """
    from orchestration import lake
    from orchestration.assets import models

    with lake.connect(settings) as connection:
        outdated = models.outdated(settings, lake.columns(connection))
    args = ["--select", "config.materialized:view", "resource_type:seed"]
    args += [f"{name}+" for name in outdated]
    args += ["--exclude", models.AFTER_SYNC, "--exclude-resource-type", "test", "unit_test"]
    args += ["--full-refresh"] if outdated else []
    with console.status("bringing the models up to date …"), lake.writer(settings, "up"):
        for _ in models.build(args, settings):
            pass
        stale = {} if outdated else models.stale(settings)
    tell_stale(stale)


def tell_stale(stale: Mapping[str, Collection[str]]) -> None:
    """Say which rows an edit has not reached, as from `models.stale`."""
    if stale:
        edits = ", ".join(sorted({edit for edits in stale.values() for edit in edits}))
        console.print(
            f"[yellow]Edited since the last full build: {edits}.[/] New rows follow it; earlier "
            f"ones of {', '.join(stale)} are as they were. [bold]signalbox diff[/] shows the "
            "difference, [bold]signalbox build --full-refresh[/] brings the edit to all of them."
        )


def _ports_are_free(settings: Settings, *, with_sandbox: bool) -> None:
    from orchestration.supervisor import port_answers

    wanted = {"collector": settings.collector_port, "dagster": settings.dagster_port}
    if with_sandbox:
        wanted |= {"sandbox": settings.sandbox_port, "sandbox_smtp": settings.sandbox_smtp_port}
    for name, port in wanted.items():
        if port_answers(settings.host, port):
            raise UserError(
                f"Port {port} is taken, perhaps by another `signalbox up`. Stop that, or set "
                f"SIGNALBOX_{name.upper()}_PORT."
            )
