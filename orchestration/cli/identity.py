"""`signalbox identity`: why ids are one customer, what edited rules would change, splits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from orchestration.cli.console import Json, UserError, console, print_json, printable, table
from orchestration.settings import Settings, load_settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from orchestration.identity import Part, Parting
    from orchestration.identity_preview import Preview

app = typer.Typer(
    help="Why ids are one customer, what would merge, and how to part them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

SHOWN_IDS = 8
Found = TypeVar("Found")


@app.command()
def merges(
    known_by: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Only of this customer, by any id.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Latest to show; 0 shows all.")] = 40,
    as_json: Json = False,
) -> None:
    """List which ids joined which customers, on what evidence, and which were split by hand.

    Example: [bold]signalbox identity merges ada@example.com[/]
    """
    from orchestration import customer, identity

    def ask(connection: DuckDBPyConnection) -> dict[str, list[dict[str, Any]]]:
        customer_id = None
        if known_by is not None:
            found = customer.find(connection, known_by)
            if found is None:
                raise UserError(f"{known_by} is nobody known.")
            customer_id = found.customer_id
        return identity.merges(connection, customer_id, limit)

    found = _on_lake(load_settings(), ask)
    if as_json:
        print_json(found)
        return
    shown = table("Ids that joined a customer, latest first", "when", "customer", "why")
    for row in found["merges"]:
        shown.add_row(_time(row["merged_at"]), row["into_customer_id"], printable(row["reason"]))
    console.print(shown if found["merges"] else "No ids have joined.")
    if found["splits"]:
        shown = table("Split by hand", "since", "ids", "why")
        for row in found["splits"]:
            pair = f"{row['id_key']} and {row['other_id_key']}"
            shown.add_row(_time(row["since"]), printable(pair), printable(row["reason"] or ""))
        console.print(shown)


@app.command()
def split(
    one: Annotated[str, typer.Argument(metavar="A", help="An id: user:…, email:…, anonymous:….")],
    other: Annotated[str, typer.Argument(metavar="B", help="The id that it was seen with.")],
    reason: Annotated[str | None, typer.Option(help="Why, for those who ask later.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take a split back.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would do.")] = False,
    as_json: Json = False,
) -> None:
    """Undo what joined two ids: their customer is rebuilt, and timeline, scores and syncs follow.

    The split is an event in the log, so a full refresh repeats it. The part that holds the id which
    named the customer keeps the customer id. What was split before and is not built yet counts.

    Example: [bold]signalbox identity split user:ben anonymous:kiosk --reason "the kiosk"[/]
    """
    from dataclasses import asdict

    from orchestration import identity, identity_pending, ingest

    settings = load_settings()

    def ask(connection: DuckDBPyConnection) -> Parting:
        ends = identity.find(connection, one), identity.find(connection, other)
        pending = identity_pending.splits(settings, connection)
        return identity.parting(connection, *ends, undo=undo, pending=pending)

    what = _on_lake(settings, ask)
    log_seq = None
    if not dry_run:
        with ingest.open_log(settings) as log:
            log_seq = identity.record(log, what, reason)
    if as_json:
        print_json({**asdict(what), "log_seq": log_seq})
        return
    _print_parting(what)
    if log_seq is None:
        console.print("Nothing was written: this was a dry run.")
    else:
        console.print(
            f"Written at log_seq {log_seq:,}. It holds from the next build on: [bold]up[/] does "
            "that within seconds, else [bold]signalbox load[/] and [bold]signalbox build[/]."
        )


@app.command()
def preview(
    examples: Annotated[int, typer.Option(min=0, help="How many of the changes to name.")] = 10,
    as_json: Json = False,
) -> None:
    """Show who would merge or part: by edited identity_rules.csv, and by messages not yet built.

    Nothing is changed; it takes as long as a full refresh of identity.

    Example: edit dbt_project/seeds/identity_rules.csv, then [bold]signalbox identity preview[/]
    """
    from dataclasses import asdict

    from orchestration import identity_preview

    with console.status("starting") as status:
        found = identity_preview.preview(
            load_settings(), examples=examples, on_step=lambda step: status.update(step)
        )
    if as_json:
        print_json(asdict(found))
        return
    _print_preview(found)


def _print_parting(what: Parting) -> None:
    from orchestration.identity import UNDONE

    for edge in what.evidence:
        seen = f"{edge['evidence']} call of {_time(edge['event_at'])}"
        console.print(printable(f"{what.one} and {what.other} were seen together on the {seen}."))
    if what.path:
        console.print(
            "[yellow]They stay one customer[/] through "
            + printable(" – ".join(what.path))
            + ". Split two neighbours of these, too."
        )
        return
    if what.event == UNDONE and len(what.after) == len(what.before):
        console.print("That changes no customer: an id is shared, or other evidence joins them.")
    names = {part.customer_id for part in what.before}
    for part in what.after:
        kept = "keeps its id" if part.customer_id in names else "is new"
        console.print(f"  {part.customer_id} {kept}: {_ids(part)}")
    if len(what.after) < len(what.before):
        gone = names - {part.customer_id for part in what.after}
        console.print(f"  {', '.join(sorted(gone))} goes.")


def _ids(part: Part) -> str:
    more = len(part.ids) - SHOWN_IDS
    return printable(", ".join(part.ids[:SHOWN_IDS])) + (f" and {more:,} more" if more > 0 else "")


def _print_preview(found: Preview) -> None:
    counts = found.counts
    for sign, rules in (("+", found.rules_added), ("-", found.rules_removed)):
        for rule in rules:
            console.print(f"rule  {sign} {rule}", markup=False, highlight=False)
    console.print(f"{found.pending_events:,} events wait for the next build.")
    console.print(
        f"Customers: {counts['customers_now']:,} now, {counts['customers_then']:,} then; "
        f"[bold]{counts['affected']:,} affected[/]: {counts['merging']:,} become "
        f"{counts['merging_into']:,}, {counts['splitting']:,} become {counts['splitting_into']:,}."
    )
    console.print(
        f"Ids: {counts['new_ids']:,} new, {counts['ids_left_out']:,} blocked, "
        f"{counts['ids_now_shared']:,} become shared, {counts['ids_shared_no_more']:,} no more."
    )
    for when, largest in (("now", found.largest_now), ("then", found.largest_then)):
        if largest:
            line = f"Largest {when}: {largest['ids']:,} ids, named by {largest['named_by']}"
            console.print(printable(line), markup=False)
    if found.joins:
        shown = table("Would join", "ids", "evidence", "customers", "into")
        for row in found.joins:
            shown.add_row(
                printable(f"{row['id_key']}, {row['other_id_key']}"),
                f"{row['evidence']}, {_time(row['event_at'])}",
                f"{row['customer_id']}, {row['other_customer_id']}",
                row["into_customer_id"],
            )
        console.print(shown)
    if found.parts:
        shown = table("Would part", "customer", "into", "ids", "for example", right=("ids",))
        for row in found.parts:
            shown.add_row(
                row["customer_id"],
                row["into_customer_id"],
                f"{row['ids']:,}",
                printable(row["for_example"]),
            )
        console.print(shown)
    if found.rules_added or found.rules_removed:
        console.print("To put the rules into force: [bold]signalbox build --full-refresh[/].")


def _on_lake(settings: Settings, ask: Callable[[DuckDBPyConnection], Found]) -> Found:
    import duckdb

    from orchestration import lake, warehouse

    warehouse.ensure(settings)
    with lake.connect(settings) as connection:
        try:
            return ask(connection)
        except duckdb.CatalogException as error:
            raise UserError(
                f"{str(error).splitlines()[0]} Build the models first: signalbox build."
            ) from None


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
