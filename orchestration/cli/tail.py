"""The command tail: events as they arrive."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestration.cli.console import ago, console, print_json, printable
from orchestration.settings import load_settings

if TYPE_CHECKING:
    from ingestion.envelope import LogRecord
    from ingestion.masking import Masker

_VALUES_SHOWN = 6
_VALUE_CHARACTERS = 40


def tail(
    event: Annotated[str | None, typer.Option(help="Only this event.")] = None,
    source: Annotated[str | None, typer.Option(help="Only from this source.")] = None,
    type_: Annotated[
        str | None, typer.Option("--type", help="Only this call: track, identify, page …")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Only of this user or anonymous id.")] = None,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Only what went into quarantine.")
    ] = False,
    count: Annotated[
        int | None, typer.Option("-n", min=0, help="Start with so many of the last; 10 if unset.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Start with all since then: 10m, 2h, 3d or a time.")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Wait for more, until Ctrl-C.")] = True,
    show_pii: Annotated[bool, typer.Option("--show-pii", help="Show personal data too.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, with the whole payload.")
    ] = False,
) -> None:
    """Watch events as they arrive, one a line, personal data masked. Times are UTC.

    Example: [bold]signalbox tail --source web --event "Purchase Completed"[/]
    """
    from ingestion.contract import Contracts
    from ingestion.masking import Masker
    from ingestion.tail import TailFilter, newest
    from ingestion.tail import follow as newer
    from orchestration import ingest

    wanted = TailFilter(event=event, source=source, type=type_, user=user, quarantined=quarantined)
    log = ingest.open_reader(load_settings())
    masker = None if show_pii else Masker(Contracts.load())
    start_at = ago(since) if since else None
    records, position = newest(log, wanted, 10 if count is None and not since else count, start_at)
    show = _print_json if as_json else _print_line
    try:
        for seq, record in records:
            show(seq, record, masker)
        if follow:
            for seq, record in newer(log, wanted, position):
                show(seq, record, masker)
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        # Whoever read us, such as head, has enough; Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_json(seq: int, record: LogRecord, masker: Masker | None) -> None:
    from msgspec.structs import asdict

    shown = {"log_seq": seq, **asdict(record)}
    message = _message(record, masker)
    shown["payload"] = message if message is not None else _text(record.payload, masker)
    for name in ("user_id", "anonymous_id", "message_id", "event", "detail"):
        shown[name] = shown[name] and _text(shown[name], masker)
    print_json(shown, indent=None)


def _print_line(_: int, record: LogRecord, masker: Masker | None) -> None:
    from rich.text import Text

    message = _message(record, masker) or {}
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(record.received_at[11:19], "dim")
    line.append(f" {_text(record.source, masker):<8}", "cyan")
    line.append(f" {record.type or '?':<8}", "dim")
    if record.event:
        line.append(
            f" {_text(record.event, masker)}", "bold red" if record.reason else "bold green"
        )
    if record.event_version:
        line.append(f" v{record.event_version}", "dim")
    if record.kind == "quarantine":
        word = "rejected" if record.rejected else "quarantined"
        line.append(f" {word} ({_text(record.detail or record.reason or '', masker)})", "red")
    elif record.reason:
        line.append(f" allowed (but {_text(record.detail or record.reason, masker)})", "yellow")
    if record.replayed_from is not None:
        line.append(f" replayed from {record.replayed_from}", "magenta")
    user = record.user_id or record.anonymous_id
    if user:
        line.append(f" {_text(user, masker)}", "blue")
    for name, value in _key_values(message):
        line.append(f" {printable(name)}=", "dim").append(printable(value))
    # Cut to the width of a terminal; a pipe or a file gets all of it.
    console.print(line, soft_wrap=not console.is_terminal, highlight=False)


def _message(record: LogRecord, masker: Masker | None) -> dict[str, Any] | None:
    import msgspec

    try:
        message = msgspec.json.decode(record.payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    return message if masker is None else masker.message(message)


def _key_values(message: dict[str, Any]) -> list[tuple[str, str]]:
    fields = message.get("properties") or message.get("traits")
    if not isinstance(fields, dict):
        return []
    plain = [
        (name, str(value))
        for name, value in fields.items()
        if isinstance(value, str | int | float | bool) and value != ""
    ]
    return [
        (name, value if len(value) <= _VALUE_CHARACTERS else f"{value[:_VALUE_CHARACTERS]}…")
        for name, value in plain[:_VALUES_SHOWN]
    ]


def _text(value: str, masker: Masker | None) -> str:
    from ingestion.masking import text

    return printable(value if masker is None else text(value))
