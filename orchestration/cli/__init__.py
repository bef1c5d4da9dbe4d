"""The command line. Each command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import sys

import typer

from orchestration.cli import (
    backtest,
    contracts,
    customer,
    demo,
    diff,
    identity,
    learn,
    look,
    pipeline,
    preview,
    quarantine,
    run,
    sync,
    tail,
)
from orchestration.cli.console import complain

app = typer.Typer(
    name="signalbox",
    help="Customer intelligence that listens and acts: events in, signals in SQL, actions out.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.command("demo")(demo.demo)
app.command("up")(run.up)
app.command("collect")(run.collect)
app.command("relay")(run.relay)
app.command("hot")(run.hot)
app.command("sandbox")(run.sandbox)
app.command("warm", hidden=True)(run.warm)
app.command("tail")(tail.tail)
app.command("import")(pipeline.import_file)
app.command("load")(pipeline.load)
app.command("build")(pipeline.build)
app.command("sql")(look.sql)
app.command("status")(look.status)
app.command("doctor")(look.doctor)
app.command("preview")(preview.preview)
app.command("backtest")(backtest.backtest)
app.command("diff")(diff.diff)
app.command("customer")(customer.customer)
app.add_typer(sync.app, name="sync")
app.add_typer(learn.train, name="train")
app.add_typer(learn.evaluate, name="evaluate")
app.add_typer(identity.app, name="identity")
app.add_typer(contracts.app, name="contracts")
app.add_typer(quarantine.app, name="quarantine")


def main() -> None:
    """Run the command; a mistake of the user's ends in one clear message, never a traceback."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not complain(error):
            raise
        sys.exit(1)
