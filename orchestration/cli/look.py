"""Commands that look: sql, status, doctor."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestration.cli.console import Json, UserError, console, print_json, table
from orchestration.settings import Settings, load_settings

if TYPE_CHECKING:
    import duckdb
    from duckdb import DuckDBPyConnection


#: Columns narrower than so many characters cannot be read.
CELL_WIDTH = 12


def sql(
    query: Annotated[str | None, typer.Argument(help="One SQL query; a prompt if unset.")] = None,
    how: Annotated[
        bool, typer.Option("--how", help="Print the line that attaches the lake elsewhere.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="Rows to show; 0 shows all.")] = 50,
    as_json: Json = False,
) -> None:
    """Ask the lake, read-only, also while the pipeline writes.

    Example: [bold]signalbox sql "select churn_band, count(*) from churn_scores group by 1"[/]
    """
    import duckdb

    from orchestration import lake, warehouse

    settings = load_settings()
    if how:
        _print_how(settings)
        return
    warehouse.ensure(settings)
    connection = lake.connect_guarded(settings)
    if query is None and not sys.stdin.isatty():
        query = sys.stdin.read()
    if query is not None:
        try:
            _show(connection.execute(query), limit, as_json=as_json)
        except duckdb.Error as error:
            raise UserError(_first_lines(error) + _not_built(connection, error)) from None
        return
    console.print("Read-only SQL on the lake. Empty line or Ctrl-D leaves.", style="dim")
    while line := _ask():
        try:
            _show(connection.execute(line), limit, as_json=as_json)
        except duckdb.Error as error:
            console.print(_first_lines(error), style="red", markup=False, highlight=False)


def _ask() -> str:
    try:
        return console.input("[bold]lake>[/] ").strip()
    except EOFError:
        return ""


def _first_lines(error: Exception) -> str:
    return "\n".join(str(error).splitlines()[:6])


def _not_built(connection: DuckDBPyConnection, error: duckdb.Error) -> str:
    import duckdb

    if not isinstance(error, duckdb.CatalogException):
        return ""
    try:
        connection.execute("select 1 from build_watermarks")
    except duckdb.CatalogException:
        return "\nNothing was built in this home yet: signalbox load, then signalbox build."
    return ""


def _show_rows_apart(columns: list[str], rows: list[list[str]]) -> None:
    """Each row as a list of its columns, where a table would squeeze them."""
    from rich.table import Table

    for number, row in enumerate(rows, 1):
        console.rule(f"[dim]row {number}[/]", align="left", style="dim")
        grid = Table.grid(padding=(0, 2))
        for name, value in zip(columns, row, strict=True):
            grid.add_row(f"[bold]{name}[/]", value)
        console.print(grid)


def _show(result: DuckDBPyConnection | None, limit: int, *, as_json: bool) -> None:
    if result is None or result.description is None:
        raise UserError('There is no query; write for example "select * from churn_scores".')
    columns = [name for name, *_ in result.description]
    rows = result.fetchall() if limit == 0 or as_json else result.fetchmany(limit + 1)
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    numeric = tuple(name for name, kind, *_ in result.description if str(kind) == "NUMBER")
    shown = table("", *columns, right=numeric)
    cells = [
        ["[dim]null[/]" if value is None else _text(value) for value in row]
        for row in rows[: limit or None]
    ]
    for row in cells:
        shown.add_row(*row)
    cramped = len(columns) * CELL_WIDTH > console.width
    wide = console.options.update(width=10_000)
    if cramped and console.measure(shown, options=wide).maximum > console.width:
        _show_rows_apart(columns, cells)
    else:
        console.print(shown)
    if limit and len(rows) > limit:
        console.print(f"First {limit} rows; --limit 0 shows all.", style="dim")


def _text(value: Any) -> str:
    from rich.markup import escape

    return escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def _print_how(settings: Settings) -> None:
    from ingestion import object_storage
    from orchestration import lake

    console.print("In a notebook or script of this environment:", style="dim")
    typer.echo(
        "from orchestration import lake, settings; "
        "connection = lake.connect(settings.load_settings())"
    )
    console.print("\nIn a DuckDB 1.5 shell, while Signalbox runs:", style="dim")
    if settings.lake_storage is not None:
        # Without the key, which AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY may hold there.
        options = settings.lake_storage.options() | {"scope": settings.lake_path}
        typer.echo(f"load httpfs; {object_storage.secret(options)};")
    typer.echo(f"{lake.attach_statement(settings, read_only=True)}; use lake;")


def status(as_json: Json = False) -> None:
    """Show how far each stage is, what waits, and who writes.

    Example: [bold]signalbox status[/]
    """
    from orchestration import report

    state = report.status(load_settings())
    if as_json:
        print_json(state)
        return
    report.print_status(state, console)


def doctor(
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not call the destinations.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check this machine and this home, and say what to do about what is wrong.

    Each destination with credentials is called, harmlessly, to see whether they work.

    Example: [bold]signalbox doctor[/]
    """
    from rich.markup import escape

    from orchestration import report

    with console.status("checking …"):
        checks = report.doctor(load_settings(), offline=offline)
    if as_json:
        print_json(checks)
    else:
        result = table("signalbox doctor", "", "check", "result")
        marks = {"ok": "[green]✓[/]", "note": "[yellow]•[/]", "wrong": "[red]✗[/]"}
        for check in checks:
            result.add_row(marks[check["state"]], check["check"], escape(check["result"]))
        console.print(result)
    if any(check["state"] == "wrong" for check in checks):
        sys.exit(1)
