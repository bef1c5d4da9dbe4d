"""`signalbox hot --check`: which models run hot, and why others do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestration import warehouse
from orchestration.hot import project as projects
from orchestration.hot.history import too_large
from orchestration.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console


def report(settings: Settings) -> list[dict[str, Any]]:
    """Each model that the lane has to do with: model, part, runs_hot, and `reason` if it does not.

    A signal has `syncs`, the names of those that act on it at once.
    `part` is signal or sync for what was asked for, runs for what these need and the lane computes,
    copied for what it takes from the lake as the last build left it.
    """
    warehouse.ensure(settings)
    project = projects.load(settings)
    for name, reason in too_large(settings, project).items():
        project = project.without(name, reason)
    asked = dict.fromkeys(project.signals, "signal") | dict.fromkeys(project.syncs, "sync")
    rows: list[dict[str, Any]] = [
        {
            "model": model.name,
            "part": asked.get(model.name, "copied" if model.is_copy else "runs"),
            "runs_hot": True,
            "reason": None,
        }
        for model in project.models
    ]
    for row in rows:
        if row["part"] == "signal":
            row["syncs"] = [
                sync.removeprefix("sync_")
                for sync in project.syncs
                if row["model"] in project.signals_of(sync)
            ]
    rows += [
        {"model": name, "part": "refused", "runs_hot": False, "reason": f"it {reason}"}
        for name, reason in project.refused.items()
    ]
    places = ("refused", "signal", "sync", "runs", "copied")
    return sorted(rows, key=lambda row: (places.index(str(row["part"])), str(row["model"])))


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """The report for a person."""
    from orchestration.cli.console import table

    shown = table("The hot lane", "model", "runs hot")
    for row in rows:
        shown.add_row(row["model"], _words(row))
    console.print(shown)
    if any(row["part"] == "refused" for row in rows):
        console.print("What is refused is not lost: the micro-batch acts on it, within seconds.")
    if not any(row["part"] == "signal" for row in rows):
        console.print("No signal runs hot: give one the tag hot (config: tags: \\[hot]).")


def _words(row: dict[str, Any]) -> str:
    from rich.markup import escape

    match row["part"]:
        case "refused":
            return f"[red]no[/]: {escape(row['reason'])}"
        case "signal":
            return (
                f"yes; acts: {', '.join(row['syncs']) or '[yellow]no message or audience yet[/]'}"
            )
        case "sync":
            return "yes, at once"
        case "runs":
            return "yes, above a signal or sync"
        case _:
            return "as the last build left it"
