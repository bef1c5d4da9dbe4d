"""What a run of a sync did, or would do: as data, and for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from rich.console import RenderableType

Status = Literal["done", "partial", "paused", "blocked", "busy", "failed", "dry_run"]


class Preview(msgspec.Struct, kw_only=True):
    """What a dry run found. Values are shown as they would be sent; lists may be cut, counts not.

    `creates`, `removals`: {key, fields}; `updates`: {key, changes: {field: [old, new]}};
    `messages`: {customer_id, trigger_id, expires_at, fields, subject, text, html}; `suppressed`:
    {key, state, policy, reason, until}, and `postponed` alike. `held_back` and `put_off` count them
    by policy. `waiting` counts what earlier runs left and this one would send too.
    """

    writes: int = 0
    leaves: int = 0
    messages_due: int = 0
    held_back: dict[str, int] = {}
    put_off: dict[str, int] = {}
    creates: list[dict[str, Any]] = []
    updates: list[dict[str, Any]] = []
    removals: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    suppressed: list[dict[str, Any]] = []
    postponed: list[dict[str, Any]] = []
    expired: int = 0
    unchanged: int = 0
    waiting: int = 0

    def title(self) -> str:
        """Everything in one line: 1,514 writes, 87 messages, 12 suppressed (consent 12)."""
        parts = [
            _number(count, word)
            for count, word in (
                (self.writes, "write"),
                (self.leaves, "removal"),
                (self.messages_due, "message"),
            )
            if count
        ]
        for word, counts in (("suppressed", self.held_back), ("later", self.put_off)):
            if counts:
                parts.append(f"{sum(counts.values()):,} {word} ({_listed(counts)})")
        return ", ".join(parts) or "nothing to send"


class SyncReport(msgspec.Struct, kw_only=True):
    """One run of one sync.

    `status`: done (nothing due is left), partial (the rest is due later), paused (by a person, or
    because a rule could not be read: nothing was sent), blocked (blast limit), busy (another
    process runs this sync),
    failed (a person must act: `message` says how), dry_run. `paused_by` is who paused it, if a
    person did. `planned` counts the plan by kind of change, `rows` are the model's if the plan was
    accepted, `sent` counts this run's outcomes, `states` the ledger's actions of this sync.
    """

    sync: str
    destination: str
    status: Status = "done"
    message: str | None = None
    sandbox: bool = False
    paused_by: str | None = None
    planned: dict[str, int] = {}
    rows: int | None = None
    sent: dict[str, int] = {}
    states: dict[str, int] = {}
    recovered: dict[str, int] = {}
    next_due_seconds: float | None = None
    seconds: float = 0.0
    preview: Preview | None = None

    @property
    def ok(self) -> bool:
        return self.status in ("done", "partial", "busy", "dry_run") or self.paused_by is not None

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return dict(msgspec.to_builtins(self))


_WORDS = {"known": "acted on before", "absent": "not in the destination"}

_STYLES = {"done": "green", "dry_run": "cyan", "partial": "yellow", "busy": "yellow"}


def render_report(report: SyncReport, *, limit: int | None = 20) -> RenderableType:
    """The report as a rich renderable; of a preview's lists the first `limit`, None for all."""
    from rich.console import Group
    from rich.text import Text

    style = _STYLES.get(report.status, "red")
    where = "sandbox" if report.sandbox else report.destination
    lines: list[RenderableType] = [
        Text.assemble(
            (report.sync, "bold"), f" → {where}  ", (report.status.replace("_", " "), style)
        )
    ]
    if report.preview is not None:
        lines.append(Text(f"  {report.preview.title()}", style="bold"))
    if report.message:
        lines.append(Text(f"  {report.message}", style=style))
    for title, counts in (("planned", report.planned), ("sent", report.sent)):
        if counts:
            lines.append(Text(f"  {title}: {_listed(counts)}"))
    if report.recovered:
        lines.append(Text(f"  left by a dead process: {_listed(report.recovered)}", style="yellow"))
    if report.preview is not None:
        lines += _preview(report.preview, limit)
    return Group(*lines)


def _preview(preview: Preview, limit: int | None) -> list[RenderableType]:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    for heading, style, items in (
        ("create", "bold green", preview.creates),
        ("remove", "bold red", preview.removals),
    ):
        if items:
            parts.append(Text(f"  {heading}", style=style))
            table = Table(show_edge=False, pad_edge=False)
            names = list(items[0]["fields"])
            for name in names:
                table.add_column(name)
            for item in items[:limit]:
                table.add_row(*(Text(_shown(item["fields"].get(name))) for name in names))
            parts.append(table)
    if preview.updates:
        parts.append(Text("  update", style="bold yellow"))
        table = Table("key", "field", "old", "new", show_edge=False, pad_edge=False)
        for item in preview.updates[:limit]:
            if not item["changes"]:
                table.add_row(Text(item["key"]), "", "unchanged", "sent again")
            for name, (old, new) in item["changes"].items():
                table.add_row(
                    *(Text(part) for part in (item["key"], name, _shown(old), _shown(new)))
                )
        parts.append(table)
    for item in preview.messages[:limit]:
        body = item["text"] or "\n".join(f"{k}: {_shown(v)}" for k, v in item["fields"].items())
        title = Text(item["subject"] or f"{item['customer_id']} · {item['trigger_id']}")
        parts.append(Panel(Text(body), title=title, title_align="left"))
    for heading, items in (("suppressed", preview.suppressed), ("later", preview.postponed)):
        if items:
            parts.append(Text(f"  {heading}", style="bold"))
            parts += [Text(f"    {held['key']}: {held['reason']}") for held in items[:limit]]
    total = preview.writes + preview.leaves + preview.messages_due
    total += sum(preview.held_back.values()) + sum(preview.put_off.values())
    lists = (
        preview.creates, preview.updates, preview.removals, preview.messages,
        preview.suppressed, preview.postponed,
    )  # fmt: skip
    hidden = total - sum(len(items[:limit]) for items in lists)
    if hidden > 0:
        parts.append(Text(f"  … and {hidden:,} more (--limit shows as many as you say)"))
    if preview.waiting:
        parts.append(Text(f"  waiting from earlier runs, sent too when due: {preview.waiting:,}"))
    return parts


def _number(count: int, word: str) -> str:
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(
        f"{_WORDS.get(name, name.replace('_', ' '))} {count:,}" for name, count in counts.items()
    )


def _shown(value: Any) -> str:
    return "∅" if value is None else str(value)
