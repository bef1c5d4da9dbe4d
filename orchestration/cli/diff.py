"""`signalbox diff`: what an edit would change, before it does."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from orchestration.cli.console import Json, console, print_json, table
from orchestration.settings import load_settings

if TYPE_CHECKING:
    from orchestration.diff import Diff


def diff(as_json: Json = False) -> None:
    """Say what the project, as you have edited it, would change against the last build.

    Rows of each model, customers entering and leaving each segment, signals new and gone, and what
    the syncs would send because of it. Only what the edit touches and what follows from it is
    built, beside the lake; nothing is sent or changed.

    Example: edit dbt_project/models/segments/at_risk.sql, then [bold]signalbox diff[/]
    """
    from dataclasses import asdict

    from orchestration import diff as compare

    with console.status("comparing …") as status:
        if as_json:
            status.stop()
        result = compare.diff(load_settings(), on_step=lambda step: status.update(f"{step} …"))
    if as_json:
        print_json({"summary": _summary(result), **asdict(result)})
        return
    _show(result)


def _summary(result: Diff) -> str:
    """The edit in one line: who enters and leaves, what is sent where."""
    enter = sum(row["enter"] for row in result.segments)
    leave = sum(row["leave"] for row in result.segments)
    parts = [f"{enter:,} enter, {leave:,} leave"] if enter or leave else []
    messages: Counter[str] = Counter()
    writes: Counter[str] = Counter()
    for sync in result.syncs:
        messages[sync.destination] += sync.messages
        writes[sync.destination] += sync.writes
    for counts, what in ((messages, "message"), (writes, "write")):
        parts += [
            f"{count:,} {destination} {what}{'s' if count > 1 else ''}"
            for destination, count in sorted(counts.items())
            if count
        ]
    return ", ".join(parts) or "nobody enters or leaves a segment, and nothing would be sent"


def _show(result: Diff) -> None:
    if result.edited == []:
        console.print("Nothing in the project differs from what the last build was made of.")
        return
    if result.edited:
        names = ", ".join(result.edited)
        console.print(f"Edited: [bold]{names}[/]; built: {len(result.built):,}.", highlight=False)
    console.print(
        f"Against the last build, as of {result.as_of:%Y-%m-%d %H:%M:%S} UTC: "
        f"[bold]{_summary(result)}[/]."
    )
    _show_models(result)
    segments = [row for row in result.segments if row["enter"] or row["leave"]]
    if segments:
        columns = ("before", "after", "enter", "leave")
        shown = table("Segments", "segment", *columns, right=columns)
        for row in segments:
            shown.add_row(row["segment"], *(f"{row[name]:,}" for name in columns))
        console.print(shown)
    signals = [row for row in result.signals if row["new"] or row["gone"]]
    if signals:
        columns = ("before", "after", "new", "gone")
        shown = table("Signals, in all of history", "signal", *columns, right=columns)
        for row in signals:
            acting = {"new": row["new_to_act_on"], "gone": row["gone_to_act_on"]}
            cells = [
                f"{row[name]:,}" + (f" ({acting[name]:,} to act on)" if acting.get(name) else "")
                for name in columns
            ]
            shown.add_row(row["signal"], *cells)
        console.print(shown)
    syncs = [
        sync for sync in result.syncs if sync.writes or sync.messages or sync.averted or sync.note
    ]
    if syncs:
        counts = {
            kind: [getattr(sync, kind) for sync in syncs]
            for kind in ("creates", "updates", "removals", "messages", "averted")
        }
        told = {kind: numbers for kind, numbers in counts.items() if any(numbers)}
        shown = table("Syncs, because of the edit", "sync", *told, right=tuple(told))
        for place, sync in enumerate(syncs):
            numbers = [told[kind][place] for kind in told]
            shown.add_row(sync.sync, *(f"{number:,}" if number else "" for number in numbers))
        console.print(shown)
        for sync in syncs:
            for text in filter(None, (sync.note, sync.blocked)):
                console.print(f"[yellow]{sync.sync}[/]: {text}", highlight=False)
    for text in result.notes:
        console.print(text, style="dim", highlight=False)


def _show_models(result: Diff) -> None:
    models = [
        one
        for one in result.models
        if one.new or one.gone or one.changed or one.columns_added or one.columns_removed
    ]
    if not models:
        return
    columns = ("before", "after", "new", "gone", "changed")
    shown = table("Rows of models", "model", *columns, "columns", right=columns)
    for one in models:
        signs = [f"+{name}" for name in one.columns_added]
        signs += [f"-{name}" for name in one.columns_removed]
        counts = [getattr(one, name) for name in columns]
        cells = ["" if count is None else f"{count:,}" for count in counts]
        shown.add_row(one.model, *cells, " ".join(signs))
    console.print(shown)
