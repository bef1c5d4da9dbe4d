"""`signalbox sync`: send what is due, and look after what was sent."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from orchestration.cli.console import Json, UserError, console, print_json, table
from orchestration.settings import load_settings

if TYPE_CHECKING:
    from rich.progress import TaskID

    from syncs.ledger import Ledger

Key = Annotated[
    str | None,
    typer.Option("--key", metavar="KEY", help="Only the action with this key or customer id."),
]
Name = Annotated[str, typer.Argument(help="The sync, such as hubspot__customer_health.")]
Reason = Annotated[str | None, typer.Option(help="Why, for those who look later.")]


class _RunByDefault(TyperGroup):
    """`signalbox sync NAME` is `signalbox sync run NAME`: no sync is called like a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=False,
    rich_markup_mode="rich",
    help="Send what has changed (run, which may be left out), and look after what was sent.",
)


@app.command("run")
def run(
    name: Annotated[str | None, typer.Argument(help="One sync; all if unset.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show exactly what would be sent; send nothing.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Send at most so many actions of each sync, or show so many."),
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="KEY", help="Only rows with this key or customer id.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Send unchanged rows again, too; never messages.")
    ] = False,
    approve: Annotated[
        bool,
        typer.Option("--approve", help="Send although far more or fewer rows changed than usual."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Send what has changed to the destinations, and what is new to people.

    Example: [bold]signalbox sync hubspot__customer_health --dry-run[/]
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from orchestration import activate
    from syncs.report import render_report

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=as_json) as progress:
        tasks: dict[str, TaskID] = {}

        def show(sync_name: str, done: int, due: int) -> None:
            if sync_name not in tasks:
                tasks[sync_name] = progress.add_task(sync_name, total=due)
            progress.update(tasks[sync_name], completed=done, total=due)

        reports = activate.run_syncs(
            load_settings(), name, dry_run=dry_run, approve=approve, full=full, limit=limit,
            only=only, progress=show,
        )  # fmt: skip
    if as_json:
        print_json([report.to_dict() for report in reports])
    else:
        for report in reports:
            console.print(render_report(report, limit=limit or 20))
    # Paused by a person is fine for the pipeline, and not what who names this sync expects.
    if not all(report.ok and not (name and report.paused_by) for report in reports):
        sys.exit(1)


@app.command("status")
def status(as_json: Json = False) -> None:
    """Show each sync: what is delivered, waiting or in trouble, its last run, and who paused it.

    Example: [bold]signalbox sync status[/]
    """
    from orchestration import activate
    from syncs import operations
    from syncs.tables import STATES

    settings = load_settings()
    ledger = activate.ledger(settings)
    found = operations.overview(ledger)
    held = operations.lanes_held(ledger)
    declared = {spec.name: spec for spec in activate.specs(settings)}
    rows = [
        {
            "sync": sync,
            "destination": declared[sync].destination if sync in declared else None,
            "mode": declared[sync].mode if sync in declared else None,
            **found.get(sync, {"states": {}, "due": 0, "next_due_at": None, "last_run": None,
                               "pause": None}),
        }
        for sync in sorted({*declared, *found})
    ]  # fmt: skip
    if as_json:
        print_json({"syncs": rows, "left_alone": held})
        return
    shown = table("Syncs", "sync", "mode", "actions", "due", "last run", right=("due",))
    shown.columns[0].no_wrap = True
    for row in rows:
        counts = [f"{state} {row['states'][state]:,}" for state in STATES if state in row["states"]]
        shown.add_row(
            row["sync"], row["mode"] or "[dim]not declared[/]", ", ".join(counts),
            f"{row['due']:,}", _last_run(row["last_run"]),
        )  # fmt: skip
    console.print(shown)
    for row in rows:
        run_ = row["last_run"] or {}
        if pause_ := row["pause"]:
            why = f": {pause_['reason']}" if pause_["reason"] else ""
            _say(
                f"{row['sync']} is paused by {pause_['paused_by']} {_ago(pause_['paused_at'])}{why}"
            )
        elif run_.get("message") and run_["status"] not in ("done", "paused"):
            _say(f"{row['sync']}: {run_['message']}")
    for lane in held:
        _say(f"{lane['lane']} is left alone until {lane['held_until']:%H:%M:%S} UTC")


@app.command("errors")
def errors(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, help="Actions to show.")] = 20,
    as_json: Json = False,
) -> None:
    """Show what a destination refused, did not answer or puts off, in its own words.

    Example: [bold]signalbox sync errors hubspot__customer_health[/]
    """
    from syncs import operations

    ledger = _ledger(name)
    sync = _bare(name)
    reasons = operations.reasons(ledger, sync)
    rows = operations.errors(ledger, sync, limit=limit)
    if as_json:
        print_json({"sync": sync, "reasons": reasons, "actions": rows})
        return
    if not reasons:
        console.print(_nothing(sync, None))
        return
    groups = table(sync, "state", "actions", "reason", right=("actions",))
    for group in reasons:
        groups.add_row(group["state"], f"{group['actions']:,}", _plain(group["reason"]))
    console.print(groups)
    shown = table("", "key", "state", "attempts", "last", "next", "reason", right=("attempts",))
    for row in rows:
        shown.add_row(
            _plain(row["key"]), row["state"], str(row["attempts"]), _ago(row["sent_at"]),
            _in(row["next_attempt_at"]), _plain(row["reason"]),
        )  # fmt: skip
    console.print(shown)
    console.print(
        f"[bold]signalbox sync retry {sync}[/] tries again now, "
        f"[bold]signalbox sync waive {sync}[/] gives up on them until they change."
    )


@app.command("retry")
def retry(
    name: Name,
    key: Key = None,
    unknown: Annotated[
        bool,
        typer.Option("--unknown", help="Also messages that may have arrived: they may double."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make what was refused or put off due now; the next run sends it.

    Example: [bold]signalbox sync retry slack__churn_risk_rose --key cus_1a2b --unknown[/]
    """
    from syncs import operations

    sync = _bare(name)
    result = operations.retry(_ledger(name), sync, key=key, unknown=unknown)
    if as_json:
        print_json({"sync": sync, **result._asdict()})
        return
    if not any(result):
        console.print(_nothing(sync, key))
    if result.retried:
        console.print(f"{result.retried:,} of {sync} due now: [bold]signalbox sync {sync}[/].")
    if result.unknown:
        console.print(
            f"{result.unknown:,} may have arrived and are left alone; add [bold]--unknown[/] to "
            "send them again, and perhaps twice."
        )
    if result.trimmed:
        console.print(f"{result.trimmed:,} are too old: their content is past its retention.")


@app.command("waive")
def waive(name: Name, key: Key = None, reason: Reason = None, as_json: Json = False) -> None:
    """Give up on what is refused, unknown or waiting: it is not tried again until it changes.

    Example: [bold]signalbox sync waive hubspot__customer_health --key ada@example.com[/]
    """
    from syncs import operations

    sync = _bare(name)
    count = operations.waive(_ledger(name), sync, key=key, reason=reason)
    if as_json:
        print_json({"sync": sync, "waived": count})
        return
    console.print(f"{count:,} of {sync} waived." if count else _nothing(sync, key))


@app.command("pause")
def pause(name: Name, reason: Reason = None, as_json: Json = False) -> None:
    """Keep a sync from running, here and in Dagster, until it is resumed.

    Example: [bold]signalbox sync pause smtp_email__cart_abandoned --reason "new template"[/]
    """
    import getpass

    from syncs import operations

    sync = _bare(name)
    by = getpass.getuser()
    operations.pause(_ledger(name), sync, by=by, reason=reason)
    if as_json:
        print_json({"sync": sync, "paused_by": by, "reason": reason})
        return
    console.print(
        f"{sync} is paused; [bold]signalbox sync resume {sync}[/] lets it run again. "
        "Signals wait meanwhile, and messages may expire."
    )


@app.command("resume")
def resume(name: Name, as_json: Json = False) -> None:
    """Let a paused sync run again.

    Example: [bold]signalbox sync resume smtp_email__cart_abandoned[/]
    """
    from syncs import operations

    sync = _bare(name)
    was_paused = operations.resume(_ledger(name), sync)
    if as_json:
        print_json({"sync": sync, "was_paused": was_paused})
        return
    console.print(f"{sync} runs again." if was_paused else f"{sync} was not paused.")


@app.command("restored")
def restored(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Say that the ledger came back from a backup, before anything is sent from it.

    What was sent since the backup is not in it. So messages whose trigger is older than now are
    not sent, those that wait are marked unknown, and every field and audience is sent again.

    Example: [bold]signalbox sync restored[/], then [bold]signalbox sync --dry-run[/] and
    [bold]signalbox sync --approve[/]
    """
    from orchestration import activate
    from syncs import operations

    question = "No message for anything that happened before now will be sent. Go on?"
    if not yes and not typer.confirm(question, err=True):
        raise UserError("Nothing was changed.")
    counts = operations.restored(activate.ledger(load_settings()))
    if as_json:
        print_json(counts)
        return
    console.print(
        f"{counts['messages_unknown']:,} waiting messages are now unknown, "
        f"{counts['rows_to_send']:,} rows will be sent again. "
        "Next: [bold]signalbox sync --dry-run[/], then [bold]signalbox sync --approve[/]."
    )


def _ledger(name: str) -> Ledger:
    """The ledger, where a sync of that name is declared or was."""
    from orchestration import activate
    from syncs import operations
    from syncs.spec import SpecError

    settings = load_settings()
    ledger = activate.ledger(settings)
    try:
        activate.specs(settings, name)
    except SpecError:
        if _bare(name) not in operations.overview(ledger):
            raise
    return ledger


def _nothing(sync: str, key: str | None) -> str:
    whose = f" with the key or customer id {_plain(key)}" if key else ""
    return f"Nothing of {sync}{whose} is refused, unknown or put off."


def _bare(name: str) -> str:
    return name.removeprefix("sync_")


def _last_run(last: dict[str, Any] | None) -> str:
    if last is None:
        return "[dim]never[/]"
    where = ", sandbox" if last["sandbox"] else ""
    return f"{last['status']} {_ago(last['finished_at'])}{where}"


def _ago(moment: datetime | None) -> str:
    return "" if moment is None else f"{_span((datetime.now(UTC) - moment).total_seconds())} ago"


def _in(moment: datetime | None) -> str:
    if moment is None:
        return ""
    seconds = (moment - datetime.now(UTC)).total_seconds()
    return "now" if seconds <= 0 else f"in {_span(seconds)}"


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _plain(text: str | None) -> str:
    from rich.markup import escape

    return escape(text or "")


def _say(text: str) -> None:
    console.print(text, style="yellow", markup=False, highlight=False)
