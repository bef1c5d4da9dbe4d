"""`signalbox customer`: one customer's story, for a person to read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestration.cli.console import Json, UserError, ago, console, print_json, printable
from orchestration.settings import load_settings

if TYPE_CHECKING:
    from rich.text import Text

BANDS = {"high": "bold red", "medium": "yellow", "low": "green"}
# What tells most about an event, in the order of preference.
TELLING = (
    "name", "product_name", "product_id", "order_id", "total", "amount", "price", "currency",
    "feature", "plan", "subject", "priority", "path", "category", "method", "country",
)  # fmt: skip
SHOWN_PROPERTIES = 3


def customer(
    known_by: Annotated[
        str, typer.Argument(metavar="ID", help="Customer id, user id, device id or email.")
    ],
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of",
            metavar="TIME",
            help="As it was known then: 2h, 3d, or 2026-01-31T08:00 (UTC where it names no zone).",
        ),
    ] = None,
    hindsight: Annotated[
        bool,
        typer.Option(
            "--hindsight", help="With --as-of: by when it happened, also what arrived only later."
        ),
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="Latest events to show; 0 shows all.")] = 40,
    as_json: Json = False,
) -> None:
    """Tell one customer's story: who it is, how it stands, and what happened, visit by visit.

    --as-of tells it from what had been received by then: who was who, which traits were known,
    which events. A history that was imported later counts from its import on; --hindsight shows it.

    Example: [bold]signalbox customer ada@example.com --as-of 7d[/]
    """
    import duckdb

    from orchestration import customer as story_of
    from orchestration import lake, warehouse

    settings = load_settings()
    moment = ago(as_of) if as_of else None
    if hindsight and moment is None:
        raise UserError("--hindsight goes with --as-of: without a moment all is known anyway.")
    warehouse.ensure(settings)
    with lake.connect(settings) as connection:
        try:
            who = story_of.find(connection, known_by)
            if who is None:
                raise UserError(
                    f"{known_by} is nobody known. Customers are known by customer id, user id, "
                    'device id or email; signalbox sql "select * from customers limit 20" lists '
                    "some."
                )
            known = story_of.macros(settings) if moment and not hindsight else None
            story = story_of.story(connection, who, moment, known)
        except duckdb.CatalogException as error:
            raise UserError(
                f"{str(error).splitlines()[0]} Build the models first: signalbox build."
            ) from None
    if as_json:
        print_json(story)
        return
    if not story["events"] and not story["ids"]:
        console.print(f"Nothing was known of {printable(known_by)} by {_time(story['as_of'])}.")
        if later := story["received_later"]:
            console.print(
                f"{later:,} events had happened by then and were received later, as by an import: "
                "[bold]--hindsight[/] shows them."
            )
        return
    _print_head(story)
    _print_visits(story, limit)


def _print_head(story: Mapping[str, Any]) -> None:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    who = story["customer"]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")

    def row(name: str, *lines: str | Text) -> None:
        body = Text("\n").join(
            line if isinstance(line, Text) else Text(printable(line)) for line in lines
        )
        grid.add_row(name, body)

    if score := story["score"]:
        line = Text.assemble(
            (f"{score['churn_score']:.0%} {score['churn_band']}", BANDS[score["churn_band"]]),
            (f"   on {score['as_of_date']:%d %b %Y}", "dim"),
        )
        reasons = [score[f"reason_{number}"] for number in (1, 2, 3)]
        row("churn risk", line, *(f"· {reason}" for reason in reasons if reason))
    for segment in story["segments"]:
        why = f": {segment['reason']}" if segment["reason"] else ""
        row("segment", f"{segment['segment']} since {segment['entered_at']:%d %b %Y}{why}")
    for account in story["accounts"]:
        role = f", {account['role']}" if account["role"] else ""
        row("account", f"{account['name'] or account['account_id']}{role}")
    traits = ("plan", "company", "phone", "timezone")
    if known := [f"{name} {who[name]}" for name in traits if who.get(name)]:
        row("traits", ", ".join(known))
    shared = {True: " (shared, joins nobody)", False: ""}
    row(
        "known by",
        *(
            f"{one['kind']} {one['value']}{shared[one['is_shared']]}, since {one['since']:%d %b %Y}"
            for one in story["ids"]
        ),
    )
    if story["apart"]:
        row("then apart", *story["apart"])
    for merge in story["merges"]:
        row("merged", f"{merge['merged_at']:%d %b %Y %H:%M}: {merge['reason']}")
    names = [who.get("name"), who.get("email"), story["customer_id"]]
    title = "  ".join(printable(name) for name in names if name)
    console.print(Panel(grid, title=Text(title), title_align="left", expand=False))


def _print_visits(story: Mapping[str, Any], limit: int) -> None:
    from rich.text import Text

    events = story["events"]
    shown = events[-limit:] if limit else events
    console.print()
    if left := len(events) - len(shown):
        console.print(f"{left:,} earlier events; --limit 0 shows all.\n", style="dim")
    after = shown[0]["event_at"] if left else datetime.min.replace(tzinfo=UTC)
    beside = deque(sorted(_beside(story, after), key=lambda item: item[0]))

    def tell_until(moment: datetime | None) -> None:
        while beside and (moment is None or beside[0][0] < moment):
            console.print(beside.popleft()[1], soft_wrap=True)

    for _, visit in groupby(shown, key=lambda event: event["session_id"] or event["event_at"]):
        lines = list(visit)
        tell_until(lines[0]["event_at"])
        console.print(_visit(lines))
        for event in lines:
            tell_until(event["event_at"])
            console.print(_event(event), soft_wrap=True)
    tell_until(None)
    tail = f"\n{len(events):,} events by {_time(story['as_of'])}"
    if later := story["received_later"]:
        tail += f"; {later:,} {'more' if story['as_known'] else 'of them'} arrived only after that"
    console.print(Text(tail + ".", style="dim"))


def _visit(events: list[Mapping[str, Any]]) -> Text:
    from rich.text import Text

    first, last = events[0], events[-1]
    if first["session_number"] is None:
        return Text(f"{first['event_at'].astimezone(UTC):%a %d %b %Y}", style="bold")
    minutes = (last["event_at"] - first["event_at"]).total_seconds() / 60
    return Text.assemble(
        (f"{first['event_at'].astimezone(UTC):%a %d %b %Y}", "bold"),
        f"  visit {first['session_number']}",
        (f"  {first['channel']}, {first['device']}, {minutes:.0f} min", "dim"),
    )


def _event(event: Mapping[str, Any]) -> Text:
    from rich.text import Text

    name = event["event"] or event["type"]
    told = event["properties"]
    details = [
        f"{key} {told[key]}" for key in TELLING if isinstance(told.get(key), str | int | float)
    ]
    if not details and event["page_path"]:
        details = [event["page_path"]]
    return Text.assemble(
        (f"  {event['step']:>5}  {event['event_at'].astimezone(UTC):%H:%M:%S}  ", "dim"),
        printable(name),
        ("  " + printable(", ".join(details[:SHOWN_PROPERTIES])) if details else "", "dim"),
    )


def _beside(story: Mapping[str, Any], after: datetime) -> Iterator[tuple[datetime, Text]]:
    """Signals and actions between the events: when, and the line to print."""
    from rich.text import Text

    for signal in story["signals"]:
        if signal["fired_at"] >= after:
            stamp = f"{signal['fired_at'].astimezone(UTC):%H:%M:%S}"
            line = Text.assemble((f"         {stamp}  ", "dim"), (f"⚡ {signal['signal']}", "cyan"))
            yield signal["fired_at"], line
    for action in story["actions"]:
        if action["mode"] == "message" and action["acted_at"] >= after:
            stamp = f"{action['acted_at'].astimezone(UTC):%H:%M:%S}"
            why = f": {action['reason']}" if action["reason"] else ""
            line = Text.assemble(
                (f"         {stamp}  ", "dim"),
                (f"→ {action['sync']} {action['state']}", "magenta"),
                (printable(why), "dim"),
            )
            yield action["acted_at"], line


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
