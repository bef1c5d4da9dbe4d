"""Commands that learn from history: train, evaluate."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestration.cli.console import Json, UserError, console, print_json, table
from orchestration.settings import load_settings

if TYPE_CHECKING:
    from orchestration.learning.registry import Version

train = typer.Typer(help="Learn from history, as Dagster does daily.", no_args_is_help=True)
evaluate = typer.Typer(help="How well a model would have foretold the past.", no_args_is_help=True)

LookFrom = Annotated[
    str | None,
    typer.Option(metavar="DATE", help="Look from this day, as signalbox build --as-of does."),
]


@train.command("churn")
def train_churn(
    as_of: LookFrom = None,
    as_json: Json = False,
) -> None:
    """Train the churn model on the models' history; it scores if it beats the one in use.

    Example: [bold]signalbox train churn[/]
    """
    from orchestration.learning import training

    moment = _midnight(as_of) if as_of else None
    with console.status("training …") as status:
        version = training.train_churn(
            load_settings(), as_of=moment, on_step=lambda step: status.update(f"{step} …")
        )
    _show_version(version, as_json=as_json)


@train.command("value")
def train_value(
    as_of: LookFrom = None,
    as_json: Json = False,
) -> None:
    """Fit the customer value model, and tell in customer_value what it expects of each.

    Example: [bold]signalbox train value[/]
    """
    from orchestration.learning import training

    moment = _midnight(as_of) if as_of else None
    with console.status("training …") as status:
        version = training.train_value(
            load_settings(), as_of=moment, on_step=lambda step: status.update(f"{step} …")
        )
    _show_version(version, as_json=as_json)


@evaluate.command("churn")
def evaluate_churn(
    as_of: Annotated[
        str, typer.Option(metavar="DATE", help="First day to foretell, such as 2011-09-10 (UTC).")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.parquet", help="Where the probabilities go.")],
    horizon: Annotated[str, typer.Option(metavar="DAYS", help="How far ahead: 90d.")] = "90d",
    activity: Annotated[
        str | None,
        typer.Option(
            metavar="EVENT",
            help='The event whose absence is leaving, such as "Purchase Completed"; any if unset.',
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train on what was known before DATE alone; write each customer's probability of leaving.

    The lake is only read. Where the outcome is in the data, it is written beside the probability
    and judged. Example: [bold]signalbox evaluate churn --as-of 2011-09-10 --horizon 90d --out
    churn.parquet[/]
    """
    from dataclasses import asdict

    from orchestration.learning import evaluation

    day, days = _day(as_of), _days(horizon)
    _writable(out)
    with console.status("evaluating …") as status:
        result = evaluation.evaluate(
            load_settings(),
            day,
            days,
            out,
            activity=activity,
            on_step=lambda step: status.update(f"{step} …"),
        )
    if as_json:
        print_json({**asdict(result), "out": out})
        return
    console.print(
        f"Foretold for [bold]{result.customers:,}[/] customers, by "
        + (
            f"a model that learned from {result.training_rows:,} rows before {day}"
            if result.scored_by == "model"
            else "the rules of churn_rules"
        )
        + f": {out}"
    )
    for note in result.notes:
        console.print(f"[yellow]{note}[/]")
    shown = table(
        "", "band", "customers", "foretold", "left", right=("customers", "foretold", "left")
    )
    for band in result.bands:
        left = band["left_share"]
        shown.add_row(
            band["band"],
            f"{band['customers']:,}",
            f"{band['foretold']:.1%}",
            "[dim]unknown[/]" if left is None else f"{left:.1%}",
        )
    console.print(shown)
    if metrics := result.metrics:
        console.print(
            f"AUC [bold]{metrics['auc']:.3f}[/], calibration error "
            f"{metrics['calibration_error']:.3f}, Brier {metrics['brier']:.3f}; "
            f"{metrics['left_share']:.1%} of {metrics['customers_judged']:,} left."
        )


def _show_version(version: Version, *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json(asdict(version))
        return
    crowned = "[green]is in use now[/]" if version.is_champion else "[yellow]is not used[/]"
    console.print(
        f"Version [bold]{version.version}[/] of {version.model} {crowned}: {version.verdict}."
    )
    console.print(
        f"Learned from {version.training_rows:,} rows of {version.customers:,} customers, "
        f"{version.first_as_of_date} to {version.last_as_of_date}, "
        f"{version.horizon_days} days ahead."
    )
    shown = table("", "measure", "value", right=("value",))
    for name, value in version.metrics.items():
        shown.add_row(name, f"{value:,.4g}" if isinstance(value, float) else str(value))
    console.print(shown)


def _midnight(text: str) -> datetime:
    day = _day(text)
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise UserError(f"--as-of {text} is not a day; write 2011-09-10.") from None


def _days(text: str) -> int:
    found = re.fullmatch(r"(\d{1,4})d?", text.strip())
    if not found or not 1 <= int(found[1]) <= 730:
        raise UserError(f"--horizon {text} is not a number of days from 1d to 730d; write 90d.")
    return int(found[1])


def _writable(path: Path) -> None:
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"--out {path} cannot be written: name a file in a folder that exists.")
