"""Commands about what broke the contract: quarantine list, show, replay."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestration.cli.console import (
    Json,
    UserError,
    ago,
    console,
    print_json,
    printable,
    table,
)
from orchestration.settings import load_settings

if TYPE_CHECKING:
    from ingestion.masking import Masker
    from ingestion.quarantine import Filter, Quarantined, Replay

app = typer.Typer(help="What broke the contract.", no_args_is_help=True)

Reason = Annotated[str | None, typer.Option(help="Only this reason, such as missing_field.")]
Event = Annotated[str | None, typer.Option(help="Only this event.")]
Version = Annotated[int | None, typer.Option(help="Only what breaks this version.")]
Source = Annotated[str | None, typer.Option(help="Only from this source.")]
Since = Annotated[str | None, typer.Option(help="Only since then: 10m, 2h, 3d or a time.")]
ShowPii = Annotated[bool, typer.Option("--show-pii", help="Show personal data too.")]
Id = Annotated[str | None, typer.Argument(help="log_seq or message id of one message.")]


@app.callback()
def _quarantine() -> None:
    """What broke the contract, kept whole with its reason."""


@app.command("list")
def list_groups(
    reason: Reason = None,
    event: Event = None,
    version: Version = None,
    source: Source = None,
    since: Since = None,
    show_pii: ShowPii = False,
    as_json: Json = False,
) -> None:
    """Show what is in quarantine by reason, event, version and source; with --json also a sample.

    Example: [bold]signalbox quarantine list --source web --since 1d[/]
    """
    from rich.text import Text

    from ingestion.quarantine import Filter, groups
    from orchestration import quarantine

    wanted = _filter(None, reason, event, version, source, since)
    settings = load_settings()
    with quarantine.reading(settings) as connection:
        found = groups(connection, wanted)
    masker = _masker(show_pii)
    if as_json:
        print_json(
            [
                {**asdict(group), "waiting": group.waiting, "sample": _shown(group.sample, masker)}
                for group in found
            ]
        )
        return
    if behind := quarantine.not_loaded(settings):
        console.print(
            f"Not loaded yet: the last {behind:,} of the log's records. What is bad among them "
            "shows here after signalbox load; signalbox tail --quarantined shows it now.",
            style="dim",
        )
    if not found:
        console.print(
            "The quarantine is empty." if wanted == Filter() else "Nothing in quarantine fits."
        )
        return
    result = table(
        "Quarantine", "waiting", "replayed", "what", "when", right=("waiting", "replayed")
    )
    for group in found:
        what = Text.assemble(
            (group.reason, "red"),
            (f" {_plain(group.event, masker)}" if group.event else ""),
            (f" v{group.version}" if group.version else "", "dim"),
            (f" {group.source}", "cyan"),
            (f"\n{_plain(group.sample.detail, masker)}", "dim"),
        )
        when = f"{group.first_received_at:%Y-%m-%d %H:%M}\n{group.last_received_at:%Y-%m-%d %H:%M}"
        result.add_row(f"{group.waiting:,}", f"{group.replayed:,}", what, when)
    console.print(result)
    console.print("signalbox quarantine show --reason … shows the messages.", style="dim")


@app.command("show")
def show(
    id: Id = None,
    reason: Reason = None,
    event: Event = None,
    version: Version = None,
    source: Source = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many.")] = 5,
    show_pii: ShowPii = False,
    as_json: Json = False,
) -> None:
    """Show quarantined messages whole, the newest first, personal data masked.

    Example: [bold]signalbox quarantine show --reason wrong_type --event "Purchase Completed"[/]
    """
    from ingestion.quarantine import find
    from orchestration import quarantine

    wanted = _filter(id, reason, event, version, source, since)
    with quarantine.reading(load_settings()) as connection:
        found = find(connection, wanted, limit)
    if not found and id is not None:
        raise UserError(f"There is no message {id} in quarantine; it may not be loaded yet.")
    masker = _masker(show_pii)
    shown = [_shown(message, masker) for message in found]
    if as_json:
        print_json(shown)
        return
    if not shown:
        console.print("There is no such message in quarantine.")
    for message in shown:
        payload = message.pop("payload")
        state = (
            f"replayed {message['replayed_at']:%Y-%m-%d %H:%M}" if message["replayed_at"] else ""
        )
        console.print(
            f"[bold]{message['log_seq']}[/] {message['received_at']:%Y-%m-%d %H:%M:%S} "
            f"[cyan]{message['source']}[/] [red]{message['reason']}[/] {state}".rstrip()
        )
        console.print(f"  {message['detail']}", markup=False, highlight=False)
        text = _line(payload)
        console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)


@app.command("replay")
def replay(
    id: Id = None,
    reason: Reason = None,
    event: Event = None,
    version: Version = None,
    source: Source = None,
    since: Since = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a field first: PLACE = DuckDB SQL over payload."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many messages.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would pass and show samples; send nothing.")
    ] = False,
    show_pii: ShowPii = False,
    as_json: Json = False,
) -> None:
    """Send quarantined messages through the door again, each once, as received then.

    Contracts and policies of now decide. What passes becomes an event with its original time,
    source and identity; what does not stays.

    Example: [bold]signalbox quarantine replay --event "Purchase Completed" --dry-run
    --set "properties.total = try_cast(payload->>'$.properties.total' as double)"[/]
    """
    from rich.progress import Progress, TextColumn

    from orchestration import quarantine

    with Progress(
        TextColumn("{task.description}"), console=console, transient=True, disable=as_json
    ) as progress:
        task = progress.add_task("replaying", total=None)
        result = quarantine.replay(
            load_settings(),
            _filter(id, reason, event, version, source, since),
            assignments=assignments or (),
            limit=limit,
            dry_run=dry_run,
            on_wait=None if as_json else console.print,
            progress=lambda done: progress.update(task, description=f"replaying {done:,}"),
        )
    masker = _masker(show_pii)
    if as_json:
        samples = [
            {
                **asdict(sample),
                "before": _payload(sample.before, masker),
                "after": _payload(sample.after, masker),
            }
            for sample in result.samples
        ]
        refused = dict(result.refused)
        print_json({**asdict(result), "refused": refused, "dry_run": dry_run, "samples": samples})
        return
    _print_replay(result, masker, dry_run=dry_run)


def _print_replay(result: Replay, masker: Masker | None, *, dry_run: bool) -> None:
    if not result.messages:
        console.print("Nothing waits in quarantine that fits.")
        return
    if dry_run:
        for sample in result.samples:
            console.print(f"[bold]{sample.log_seq}[/] before", end=" ")
            _print_payload(sample.before, masker)
            if sample.after != sample.before:
                console.print("    after", end=" ")
                _print_payload(sample.after, masker)
            verdict = f"[red]{sample.reason}[/]: " if sample.reason else "[green]passes[/]"
            console.print(f"    {verdict}", end="")
            console.print(sample.detail or "", markup=False, highlight=False)
    verb = "would pass" if dry_run else "replayed"
    console.print(f"[bold]{result.passed:,}[/] of {result.messages:,} messages {verb}.")
    if result.refused:
        reasons = ", ".join(f"{name} {count:,}" for name, count in result.refused.most_common())
        stay = "would stay" if dry_run else "stay"
        console.print(f"[yellow]{result.refused.total():,} {stay} in quarantine[/]: {reasons}.")
    if result.passed and not dry_run:
        console.print("They are loaded, and in the models after the next build.")


def _print_payload(payload: str, masker: Masker | None) -> None:
    shown = _payload(payload, masker)
    text = _line(shown)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _filter(
    id: str | None,
    reason: str | None,
    event: str | None,
    version: int | None,
    source: str | None,
    since: str | None,
) -> Filter:
    from ingestion.quarantine import Filter

    return Filter(
        id=id,
        reason=reason,
        event=event,
        version=version,
        source=source,
        since=ago(since) if since else None,
    )


def _masker(show_pii: bool) -> Masker | None:
    from ingestion.contract import Contracts
    from ingestion.masking import Masker

    return None if show_pii else Masker(Contracts.load())


def _shown(message: Quarantined, masker: Masker | None) -> dict[str, Any]:
    from msgspec.structs import asdict as fields

    shown = fields(message)
    for name in ("message_id", "event", "detail"):
        shown[name] = shown[name] and _plain(shown[name], masker)
    return {**shown, "payload": _payload(message.payload, masker)}


def _payload(payload: str, masker: Masker | None) -> Any:
    """The message as an object, where it is one, else its text."""
    import msgspec

    try:
        message = msgspec.json.decode(payload)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        return _plain(payload, masker)
    return message if masker is None else masker.message(message)


def _line(payload: Any) -> str:
    text = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
    return printable(text)


def _plain(text: str, masker: Masker | None) -> str:
    from ingestion import masking

    return printable(text if masker is None else masking.text(text))
