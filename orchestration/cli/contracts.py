"""Commands about the contract: contracts check, quarantine list."""

from __future__ import annotations

import sys

import typer

from orchestration.cli.console import Json, console, print_json, table
from orchestration.settings import load_settings

app = typer.Typer(help="The contract between producers and the models.", no_args_is_help=True)
quarantine_app = typer.Typer(help="What broke the contract.", no_args_is_help=True)


@app.callback()
def _contracts() -> None:
    """The contract between producers and the models."""


@quarantine_app.callback()
def _quarantine() -> None:
    """What broke the contract, kept whole with its reason."""


@app.command("check")
def check(as_json: Json = False) -> None:
    """Check every schema: valid, documented, examples fit, no version breaks its producers.

    Example: [bold]signalbox contracts check[/]
    """
    from orchestration import ingest

    problems = ingest.contract_problems()
    if as_json:
        print_json(problems)
    elif problems:
        result = table("Contracts", "file", "problem")
        for problem in problems:
            result.add_row(problem["file"], problem["problem"])
        console.print(result)
    else:
        console.print(ingest.check_contracts())
    if problems:
        sys.exit(1)


@quarantine_app.command("list")
def list_quarantine(as_json: Json = False) -> None:
    """Show what waits in quarantine, by reason and event.

    Example: [bold]signalbox quarantine list[/]
    """
    from orchestration import lake, warehouse

    settings = load_settings()
    warehouse.ensure(settings)
    with lake.connect(settings) as connection:
        rows = connection.execute(
            "select reason, coalesce(event, type, '') as event, source, count(*) as messages, "
            "max(received_at) as latest, any_value(detail) as example "
            "from raw.quarantine group by all order by messages desc, reason, event"
        ).fetchall()
    columns = ("reason", "event", "source", "messages", "latest", "example")
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    if not rows:
        console.print("The quarantine is empty.")
        return
    result = table("Quarantine", *columns, right=("messages",))
    for reason, event, source, messages, latest, example in rows:
        result.add_row(
            reason, event, source, f"{messages:,}", f"{latest:%Y-%m-%d %H:%M}", example or ""
        )
    console.print(result)
