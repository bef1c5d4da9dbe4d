"""`signalbox backtest`: what a signal would have done, before it does anything."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestration.cli.console import Json, UserError, ago, console, print_json, printable, table
from orchestration.settings import load_settings

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from orchestration.backtest import Backtest, Outcome, Quality

BAR = 44


def backtest(
    signal: Annotated[str, typer.Argument(help="The signal, such as churn_risk_rose.")],
    since: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Count from this day, or 60d ago; 90 days if unset."),
    ] = None,
    step: Annotated[
        str | None,
        typer.Option(
            metavar="DAYS", help="From one build to the next: 1d; about 13 in all if unset."
        ),
    ] = None,
    event: Annotated[
        str | None,
        typer.Option("--outcome", metavar="EVENT", help="Judge by this event instead."),
    ] = None,
    within: Annotated[
        str | None, typer.Option(metavar="TIME", help="With --outcome: how soon, such as 7d.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Also draw the report as a picture.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a signal's SQL, as you have edited it, over the past; nothing is sent or changed.

    Shows how often it would have fired and for whom, beside which other signals, and how well it
    preceded the outcome that its YAML names. Example: [bold]signalbox backtest churn_risk_rose
    --since 2026-08-01[/]
    """
    from dataclasses import asdict

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from orchestration import backtest as past

    goal = _outcome(event, within)
    if plot is not None and (plot.suffix != ".svg" or not plot.absolute().parent.is_dir()):
        raise UserError(f"--plot {plot}: name an .svg file in a folder that exists.")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=as_json) as progress:
        task = progress.add_task("reading the project", total=None)
        result = past.backtest(
            load_settings(),
            signal,
            since=_midnight(since) if since else None,
            step=_days(step) if step else None,
            judged_by=goal,
            on_step=lambda text, done, total: progress.update(
                task, description=text, completed=done, total=total
            ),
        )
    if plot is not None:
        _draw(result, plot)
    if as_json:
        print_json(asdict(result))
        return
    for part in _report(result):
        console.print(part)
    if plot is not None:
        console.print(f"Drawn: {plot}")


def _outcome(event: str | None, within: str | None) -> Outcome | None:
    from orchestration.backtest.outcome import Outcome, span

    if event is None and within is None:
        return None
    if event is None or within is None:
        raise UserError(
            'Name both: --outcome "Purchase Completed" --within 7d; or neither, for the outcome '
            "that the model names."
        )
    return Outcome(span(within), event)


def _midnight(text: str) -> datetime:
    return ago(text).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _days(text: str) -> timedelta:
    from orchestration.backtest.outcome import span

    length = span(text)
    if length % timedelta(days=1):
        raise UserError(f"--step {text}: the models look from the end of whole days; write 1d.")
    return length


def _report(result: Backtest) -> list[RenderableType]:
    """The parts of the report, from the top."""
    from rich.text import Text

    days = (result.until - result.since) / timedelta(days=1)
    weeks = days / 7
    parts: list[RenderableType] = [
        Text.from_markup(
            f"[bold]{result.signal}[/] would have fired [bold]{result.fired:,}[/] times for "
            f"[bold]{result.customers:,}[/] customers from {result.since:%Y-%m-%d} to "
            f"{result.until:%Y-%m-%d %H:%M}, {result.fired / weeks:,.1f} a week"
            + (f"; as built now: {result.built:,}." if result.built is not None else ".")
        ),
        Text(
            f"Built as of {result.builds:,} moments, {result.step_days:.0f} days apart; each saw "
            "only what had happened by then.",
            style="dim",
        ),
    ]
    parts += [Text(note, style="yellow") for note in result.notes]
    if result.hindsight:
        parts.append(
            Text(
                f"{result.hindsight:,} more stand in its history today that it could not have told "
                "in time; they are not counted.",
                style="yellow",
            )
        )
    if result.fired:
        parts += ["", _bars(result), "", *_who(result)]
    if result.quality is not None:
        parts += ["", *_judgement(result.quality)]
    else:
        parts.append(
            Text(
                "Its YAML names no outcome to judge it by; write config: meta: outcome: {event: "
                "Purchase Completed, within: 7d}, or use --outcome and --within.",
                style="yellow",
            )
        )
    return parts


def _bars(result: Backtest) -> Text:
    from rich.text import Text

    most = max(period["fired"] for period in result.periods)
    body = Text()
    for period in result.periods:
        known = period["fired"] - period["not_yet_known"] - period["followed"]
        body.append(f"{period['period']}  ", style="dim")
        left = 0
        for count, mark, style in (
            (period["followed"], "█", "green"),
            (known, "█", "bright_black"),
            (period["not_yet_known"], "░", "bright_black"),
        ):
            left += count
            # By where each part ends, so that rounding never lengthens the bar.
            width = round(left / most * BAR) - round((left - count) / most * BAR)
            body.append(mark * width, style=style)
        body.append(f" {period['fired']:,}\n")
    if result.quality is None:
        return body
    body.append("█", style="green")
    body.append(" the outcome followed  ", style="dim")
    body.append("█", style="bright_black")
    body.append(" it did not  ", style="dim")
    body.append("░ not known yet", style="dim")
    return body


def _who(result: Backtest) -> list[RenderableType]:
    parts: list[RenderableType] = []
    if result.segments:
        shown = table("For whom", "segment then", "fired", "share", right=("fired", "share"))
        for row in result.segments[:6]:
            shown.add_row(row["segment"], f"{row['fired']:,}", f"{row['fired'] / result.fired:.0%}")
        parts.append(shown)
    if result.overlap:
        shown = table(
            "Beside other signals, within 7 days", "signal", "fired", "share",
            right=("fired", "share"),
        )  # fmt: skip
        for row in result.overlap[:8]:
            shown.add_row(row["signal"], f"{row['fired']:,}", f"{row['fired'] / result.fired:.0%}")
        parts.append(shown)
    shown = table("The latest", "customer", "known by", "fired", "outcome")
    for row in result.examples:
        came = f"{row['outcome_at']:%Y-%m-%d %H:%M}" if row["outcome_at"] else None
        shown.add_row(
            row["customer_id"],
            printable(row["known_by"] or ""),
            f"{row['fired_at']:%Y-%m-%d %H:%M}",
            came or ("none" if row["is_known"] else "not known yet"),
        )
    parts.append(shown)
    return parts


def _judgement(quality: Quality) -> list[RenderableType]:
    from rich.text import Text

    shown = table(f"Outcome: {quality.outcome}", "measure", "value", "", right=("value",))
    shown.add_row(
        "precision",
        _percent(quality.precision),
        f"{quality.followed:,} of {quality.known:,} firings were followed by it",
    )
    shown.add_row(
        "base rate", _percent(quality.base_rate), "of customers who were here lately, signal or not"
    )
    shown.add_row("lift", _number(quality.lift), "precision through base rate")
    shown.add_row(
        "recall",
        _percent(quality.recall),
        f"{quality.foretold:,} of {quality.outcomes:,} outcomes were foretold",
    )
    if quality.lead_days:
        early, middle, late = quality.lead_days
        shown.add_row(
            "lead time", f"{middle:.1f} d", f"median; half lie between {early:.1f} and {late:.1f} d"
        )
    parts: list[RenderableType] = [shown]
    if not quality.known:
        parts.append(
            Text("No firing's window is over: look again later, or with an earlier --since.")
        )
    if not quality.outcomes:
        parts.append(
            Text(
                "The outcome never came: no such event is in the data. --outcome EVENT --within 7d "
                "judges by another.",
                style="yellow",
            )
        )
    return parts


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{share:.1%}"


def _number(value: Any) -> str:
    return "?" if value is None else f"{value:.2f}"


def _draw(result: Backtest, path: Path) -> None:
    import io

    from rich.console import Console

    paper = Console(record=True, file=io.StringIO(), width=100)
    for part in _report(result):
        paper.print(part)
    svg = paper.export_svg(title=f"signalbox backtest {result.signal}")
    # Rich names a font in the web; a picture should ask nobody.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))
