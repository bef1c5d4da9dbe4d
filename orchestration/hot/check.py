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

    `part` is signal or sync for what was asked for, runs for what these need and the lane computes,
    copied for what it takes from the lake as the last build left it.
    """
    warehouse.ensure(settings)
    project = projects.load(settings)
    for name, reason in too_large(settings, project).items():
        project = project.without(name, reason)
    asked = dict.fromkeys(project.signals, "signal") | dict.fromkeys(project.syncs, "sync")
    rows = [
        {
            "model": model.name,
            "part": asked.get(model.name, "copied" if model.is_copy else "runs"),
            "runs_hot": True,
            "reason": None,
        }
        for model in project.models
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

    words = {
        "signal": "yes",
        "sync": "yes, its messages leave, or its members join, at once",
        "runs": "yes, above a signal or sync",
        "copied": "as the last build left it",
    }
    shown = table("The hot lane", "model", "runs hot")
    for row in rows:
        shown.add_row(row["model"], words.get(row["part"], f"[red]no[/]: {row['reason']}"))
    console.print(shown)
    if not any(row["part"] == "signal" for row in rows):
        console.print("No signal runs hot: give one the tag hot (config: tags: \\[hot]).")
