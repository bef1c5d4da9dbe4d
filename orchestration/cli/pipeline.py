"""Commands that do one step and end: import, load, build."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestration.cli.console import Json, UserError, console, print_json
from orchestration.settings import load_settings

if TYPE_CHECKING:
    pass


def import_file(
    file: Annotated[Path, typer.Argument(help="JSON lines (.jsonl, .jsonl.gz), CSV or Parquet.")],
    mapping: Annotated[
        Path | None,
        typer.Option(help="How columns become events; needed for CSV and Parquet."),
    ] = None,
    source: Annotated[str, typer.Option(help="Name of the source to record.")] = "import",
    as_json: Json = False,
) -> None:
    """Put a file of past events into the event log, with their own timestamps.

    Example: [bold]signalbox import history.jsonl.gz[/]
    """
    from dataclasses import asdict

    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from orchestration import ingest

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=as_json) as progress:
        task = progress.add_task("importing", total=1.0)
        result = ingest.import_file(
            load_settings(),
            file,
            mapping,
            source,
            on_progress=lambda done, share: progress.update(
                task, completed=share, description=f"importing {done:,}"
            ),
        )
    if as_json:
        print_json(asdict(result))
        return
    console.print(
        f"Imported [bold]{result.accepted:,}[/] messages of {file.name} in {result.seconds:.1f} s"
        + (f"; left out {result.rows_dropped:,} of {result.rows:,} rows" if result.rows else "")
        + "."
    )
    if result.quarantined:
        reasons = ", ".join(f"{name} {count:,}" for name, count in result.reasons.items())
        console.print(f"[yellow]{result.quarantined:,} went into quarantine[/]: {reasons}.")
    console.print("Next: [bold]signalbox load[/], then [bold]signalbox build[/]; or [bold]up[/].")


def load(
    skip_missing: Annotated[
        bool, typer.Option(help="Go on without records that are gone from the log.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Load what the event log has grown by into the lake's raw layer.

    Example: [bold]signalbox load[/]
    """
    from dataclasses import asdict

    from orchestration import ingest, lake, warehouse

    settings = load_settings()
    with lake.writer(settings, "signalbox load", on_wait=console.print):
        warehouse.ensure(settings)
        result = ingest.loader(settings).load(skip_missing=skip_missing)
    if as_json:
        print_json(asdict(result))
        return
    console.print(
        f"Loaded [bold]{result.events:,}[/] events and [bold]{result.quarantined:,}[/] into "
        f"quarantine in {result.seconds:.1f} s; the raw layer now ends at log_seq "
        f"{result.next_seq - 1:,}."
    )


def build(
    select: Annotated[str | None, typer.Option(help="dbt's node selection; all if unset.")] = None,
    full_refresh: Annotated[bool, typer.Option(help="Rebuild from all of history.")] = False,
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Look from this UTC time, such as 2011-12-10, instead of from now.",
        ),
    ] = None,
    tests: Annotated[bool, typer.Option(help="Also run dbt's tests.")] = True,
    as_json: Json = False,
) -> None:
    """Build the models with dbt, in the production schema of the lake.

    Example: [bold]signalbox build --select churn_scores+[/]; history that ended long ago:
    [bold]signalbox build --as-of 2011-12-10[/], which rebuilds from all of history
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from orchestration import lake, warehouse
    from orchestration.assets import models
    from orchestration.cli.run import tell_stale
    from orchestration.supervisor import port_answers

    settings = load_settings()
    moment = _moment(as_of) if as_of else None
    if moment and port_answers(settings.host, settings.dagster_port):
        raise UserError(
            "Dagster is serving, and its micro-batches would act on models that look from the "
            "past. Stop `signalbox up` first, or use another home and SIGNALBOX_DAGSTER_PORT."
        )
    args = ["--select", *select.split()] if select else []
    args += ["--full-refresh"] if full_refresh or moment else []
    args += [] if tests else ["--exclude-resource-type", "test", "unit_test"]
    done: dict[str, str] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        lake.writer(settings, "signalbox build", on_wait=console.print),
        Progress(*columns, console=console, transient=True, disable=as_json) as progress,
    ):
        warehouse.ensure(settings)
        task = progress.add_task("building", total=None)
        for event in models.build(args, settings, as_of=moment):
            node = event["data"].get("node_info")
            if not node:
                continue
            progress.update(task, description=f"{node['node_name'][:44]:<44}")
            if event["info"]["name"] == "LogStartLine":
                progress.update(task, total=event["data"].get("total"))
            elif status := event["data"].get("status"):
                done[node["unique_id"]] = str(status)
                progress.update(task, completed=len(done))
        stale = {} if "--full-refresh" in args else models.stale(settings)
    counts: dict[str, int] = {}
    for unique_id in done:
        kind = unique_id.split(".")[0].replace("_", " ")
        if kind != "operation":  # hooks: housekeeping, nothing that a user named
            counts[kind] = counts.get(kind, 0) + 1
    if as_json:
        print_json({"built": counts, "stale": stale})
        return
    parts = ", ".join(f"{count} {kind}s" for kind, count in sorted(counts.items()))
    console.print(f"Built {parts or 'nothing'}.")
    tell_stale(stale)
    if moment:
        console.print(
            f"The models now look from {moment:%Y-%m-%d %H:%M:%S} UTC; "
            "[bold]signalbox build[/] brings them back to the present."
        )


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UserError(
            f"--as-of {text} is not a time; write 2011-12-10 or 2011-12-10T08:00:00."
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment > datetime.now(UTC):
        raise UserError(f"--as-of {text} is yet to come; look from a moment in the past.")
    return moment
