"""`signalbox preview`: one customer's message as it would be sent now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestration.cli.console import Json, UserError, console, print_json, table
from orchestration.settings import load_settings

if TYPE_CHECKING:
    from syncs.sample import Sample


def preview(
    sync: Annotated[str, typer.Argument(help="The sync, such as slack__churn_risk_rose.")],
    customer: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Customer id, user id or email; if unset, somebody who has a row."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the message's HTML to this file.")
    ] = None,
    open_html: Annotated[
        bool, typer.Option("--open", help="Show the HTML of --html in a browser.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what one customer would be sent now, and why it would or would not leave.

    Nothing is sent. Example: [bold]signalbox preview smtp_email__cart_abandoned --customer
    u_00012 --html cart.html --open[/]
    """
    from orchestration import activate

    if open_html and html is None:
        raise UserError("--open shows a file: say which with --html FILE.")
    samples = activate.samples(load_settings(), sync, customer)
    if html is not None:
        _write(samples[-1], html, show=open_html)
    if as_json:
        import msgspec

        print_json(msgspec.to_builtins(samples))
        return
    for sample in samples:
        _show(sample, html)


def _write(sample: Sample, path: Path, *, show: bool) -> None:
    if sample.html is None:
        raise UserError("This message has no HTML; leave out --html.")
    try:
        path.write_text(sample.html, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None
    if show:
        typer.launch(str(path.resolve()))


def _show(sample: Sample, html: Path | None) -> None:
    from rich.panel import Panel
    from rich.text import Text

    if sample.text is None:
        fields = table("", "field", "value")
        for name, value in sample.fields.items():
            fields.add_row(name, Text("∅" if value is None else str(value)))
        console.print(fields)
    else:
        for name, value in sample.headers.items():
            console.print(Text.assemble((f"{name}: ", "dim"), value), soft_wrap=True)
        title = Text(sample.subject or sample.key)
        console.print(Panel(Text(sample.text), title=title, title_align="left"))
    if sample.html is not None:
        where = f"written to {html}" if html else "--html FILE writes it"
        console.print(Text(f"HTML: {len(sample.html):,} characters; {where}", style="dim"))
    console.print(_verdict(sample))
    console.print(_ledger(sample))


def _verdict(sample: Sample) -> str:
    if sample.verdict == "send":
        return "[green]✓[/] Nothing speaks against sending it now."
    if sample.verdict == "settled":
        return "[yellow]•[/] It does not leave again: a message is judged and sent once."
    if sample.verdict == "unchanged":
        return "[yellow]•[/] It does not leave again: the destination has these values."
    policy = f" by {sample.policy}" if sample.policy else ""
    until = f", until {sample.until:%Y-%m-%d %H:%M} UTC" if sample.until else ""
    style = "yellow" if sample.verdict == "later" else "red"
    return f"[{style}]✗ {sample.verdict}[/]{policy}: {_plain(sample.reason)}{until}"


def _ledger(sample: Sample) -> str:
    if sample.ledger is None:
        return "[dim]The ledger does not know it yet.[/]"
    known = sample.ledger
    moment = known["delivered_at"] or known["sent_at"] or known["next_attempt_at"]
    when = f" at {moment:%Y-%m-%d %H:%M:%S} UTC" if moment else ""
    reason = f": {_plain(known['reason'])}" if known["reason"] else ""
    return f"In the ledger: [bold]{known['state']}[/]{when}{reason}"


def _plain(text: str | None) -> str:
    from rich.markup import escape

    return escape(text or "")
