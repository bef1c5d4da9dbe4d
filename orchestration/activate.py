"""Wires the syncs' room to this home: specs from the manifest, ledger, consent, sandbox."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from orchestration import dbt, lake, postgres, warehouse
from orchestration.settings import ENV_FILE, Settings

if TYPE_CHECKING:
    from syncs.destinations import Sandbox
    from syncs.push import Pusher
    from syncs.report import SyncReport
    from syncs.spec import SyncSpec


def specs(settings: Settings, name: str | None = None) -> list[SyncSpec]:
    """Every sync that the dbt project declares, or the one called `name`.

    Raises:
        SpecError: a declaration is wrong, or there is no sync of that name.
    """
    from syncs.spec import find, load_specs

    declared = load_specs(dbt.manifest_path(settings))
    return declared if name is None else [find(declared, name)]


def run_syncs(
    settings: Settings,
    name: str | None = None,
    *,
    dry_run: bool = False,
    approve: bool = False,
    retry_budget: float = 15.0,
    progress: Callable[[str, int, int], None] | None = None,
    on_report: Callable[[SyncReport], None] | None = None,
) -> list[SyncReport]:
    """Plan and send; destinations side by side, so that none waits for another.

    Args:
        settings: which home.
        name: one sync, or all.
        dry_run: say what would be sent, and send nothing.
        approve: lift the blast limit for this run.
        retry_budget: seconds this run may spend waiting to try again.
        progress: called with a sync's name, actions done, actions due.
        on_report: called as each sync ends.
    """
    from syncs.facts import LakeFacts

    warehouse.ensure(settings)
    chosen = specs(settings, name)
    with lake.connect(settings) as connection:
        return _pusher(settings).run_all(
            chosen,
            connection,
            facts=LakeFacts(connection.cursor),
            dry_run=dry_run,
            approve=approve,
            retry_budget=retry_budget,
            progress=progress,
            on_report=on_report,
        )


def one_line(reports: Sequence[SyncReport]) -> str:
    """What was delivered, for a progress display."""
    parts = [f"{r.destination} {r.sent.get('delivered', 0):,}" for r in reports if r.sent]
    return ", ".join(parts) or "nothing to send"


def destinations() -> list[str]:
    """Names of the destinations there are."""
    from syncs.destinations import available

    return available()


def is_live(settings: Settings, name: str) -> bool:
    """Whether a destination sends to its vendor, and not to the sandbox.

    Raises:
        Fatal: its settings are incomplete; the message names the variables.
    """
    from syncs.destinations import load, resolve

    return not resolve(load(name), _sandbox(settings), env_file=ENV_FILE).sandbox


def serve_sandbox(settings: Settings) -> None:
    """Run the vendors' stand-ins until SIGTERM or SIGINT."""
    from syncs.sandbox.server import run

    run(
        settings.host,
        settings.sandbox_port,
        settings.sandbox_smtp_port,
        settings.home / "sandbox",
    )


def _pusher(settings: Settings) -> Pusher:
    return _kept_pusher(postgres.start(settings).ledger, _sandbox(settings))


@lru_cache(maxsize=2)
def _kept_pusher(ledger_url: str, sandbox: Sandbox) -> Pusher:
    # Kept, because it keeps its connections.
    from syncs.ledger import Ledger
    from syncs.push import Pusher

    return Pusher(Ledger(ledger_url), sandbox=sandbox, env_file=ENV_FILE)


def _sandbox(settings: Settings) -> Sandbox:
    from syncs.destinations import Sandbox

    return Sandbox(
        url=settings.sandbox_url,
        smtp=f"{settings.host}:{settings.sandbox_smtp_port}",
        postgres=postgres.start(settings).sandbox,
        directory=str(settings.home / "sandbox" / "files"),
    )
