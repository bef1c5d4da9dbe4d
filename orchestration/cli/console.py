"""Output for people and, with `--json`, for programs."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

console = Console()
errors = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

# Raised for what a user can put right; every one carries a message that says how. By name,
# because importing their modules would load dbt, dlt and DuckDB for every command.
USER_ERRORS = {
    "SettingsError", "PostgresUnavailable", "WriterBusy", "DbtFailed", "StartFailed",
    "LogError", "ContractError", "EnvelopeError", "ImportFailed", "LoadError", "SourceError",
    "SyncError", "LedgerError", "SandboxError", "CollectorError", "UserError", "InferError",
    "QuarantineError", "HotError", "EvaluationError", "TooLittleHistory", "NotFitted",
    "BacktestError", "OutcomeError", "DiffError",
    "SourceReserved", "IdentityError",
}  # fmt: skip


UNREACHABLE = (
    "Where the lake's files are, SIGNALBOX_LAKE_URL and the settings after it say; "
    "signalbox doctor tries them."
)


class UserError(Exception):
    """Something the user can put right; the message says how."""


def complain(error: BaseException) -> bool:
    """Print a user's error as one message; False if it is not one."""
    names = {base.__name__ for base in type(error).__mro__}
    text = str(error)
    if "IOException" in names:  # DuckDB's, of a disk or of object storage
        text = f"{text.partition(chr(10))[0]}. {UNREACHABLE}"
    elif not names & USER_ERRORS:
        return False
    errors.print("[bold red]error[/]", end=" ")
    errors.print(text, highlight=False, markup=False)
    return True


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """One JSON document on standard output; without `indent` on one line."""
    typer.echo(json.dumps(_finite(value), default=_plain, indent=indent, ensure_ascii=False))


def ago(text: str) -> datetime:
    """A point in time from `10m`, `2h`, `3d`, or from ISO 8601 (UTC where it names no zone).

    Raises:
        UserError: it is neither.
    """
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    amount, unit = text.strip()[:-1], text.strip()[-1:]
    try:
        if unit in units and amount.isdecimal():
            return datetime.now(UTC) - timedelta(**{units[unit]: int(amount)})
        moment = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise UserError(f"{text} is not a time; write 10m, 2h, 3d or 2026-01-31T08:00.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table in the house style; the columns named in `right` hold numbers."""
    result = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
    for column in columns:
        result.add_column(column, justify="right" if column in right else "left")
    return result


def printable(text: str) -> str:
    """A text from outside without characters that a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _finite(value: Any) -> Any:
    # JSON has no word for NaN and infinity, and Python writes ones that no other program reads.
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    return str(value)
