"""Wires the syncs' room to this home: specs from the manifest, ledger, consent, sandbox."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration import customer as customers
from orchestration import dbt, ingest, lake, postgres, warehouse
from orchestration.settings import ENV_FILE, Settings, SettingsError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from syncs.checkup import Finding
    from syncs.destinations import Sandbox
    from syncs.facts import LakeFacts
    from syncs.ledger import Ledger
    from syncs.policies import Cap
    from syncs.push import Pusher
    from syncs.report import SyncReport
    from syncs.sample import Sample
    from syncs.spec import SyncSpec


def specs(settings: Settings, name: str | None = None) -> list[SyncSpec]:
    """Every sync that the dbt project declares, or the one called `name`.

    Raises:
        SpecError: a declaration is wrong, or there is no sync of that name.
    """
    from syncs.spec import find

    manifest = dbt.manifest_path(settings)
    declared = list(_declared(manifest, manifest.stat().st_mtime_ns))
    return declared if name is None else [find(declared, name)]


@lru_cache(maxsize=2)
def _declared(manifest: Path, _written_at: int) -> tuple[SyncSpec, ...]:
    from syncs.spec import load_specs

    return tuple(load_specs(manifest))


def run_syncs(
    settings: Settings,
    name: str | None = None,
    *,
    among: Collection[str] | None = None,
    dry_run: bool = False,
    approve: bool = False,
    full: bool = False,
    limit: int | None = None,
    only: str | None = None,
    retry_budget: float = 15.0,
    progress: Callable[[str, int, int], None] | None = None,
    on_report: Callable[[SyncReport], None] | None = None,
) -> list[SyncReport]:
    """Plan and send; destinations side by side, so that none waits for another.

    Args:
        settings: which home.
        name: one sync, or all.
        among: of these, only those whose names are here.
        dry_run: say what would be sent, and send nothing.
        approve: lift the blast limit for this run.
        full: send rows again that have not changed; never messages.
        limit: send at most so many actions of each sync, or preview so many of each kind.
        only: only actions with this key or customer.
        retry_budget: seconds this run may spend waiting to try again.
        progress: called with a sync's name, actions done, actions due.
        on_report: called as each sync ends.
    """
    warehouse.ensure(settings)
    chosen = [spec for spec in specs(settings, name) if among is None or spec.name in among]
    with lake.connect(settings) as connection:
        return pusher(settings).run_all(
            chosen,
            connection,
            facts=facts(settings, connection.cursor),
            schema=f"{lake.CATALOG}.{lake.SCHEMA}",
            live_sources=ingest.live_sources(settings),
            dry_run=dry_run,
            approve=approve,
            full=full,
            limit=limit,
            only=only,
            retry_budget=retry_budget,
            progress=progress,
            on_report=on_report,
        )


def facts(
    settings: Settings,
    connect: Callable[[], DuckDBPyConnection],
    schema: str = f"{lake.CATALOG}.{lake.SCHEMA}",
) -> LakeFacts:
    """What policies need to know, from the models of this home's lake or of another schema."""
    from syncs.facts import LakeFacts
    from syncs.policies import time_zone

    zone = time_zone(settings.time_zone)
    assert zone is not None  # the setting was checked
    return LakeFacts(connect, schema, fallback=zone)


def samples(settings: Settings, name: str, customer: str | None) -> list[Sample]:
    """What one customer would be sent by a sync now, and what speaks against it.

    Args:
        settings: which home.
        name: the sync.
        customer: a customer id, or any id the customer is known by, such as a user id or an email
            address. None: somebody for whom the sync has a row.

    Raises:
        SyncError: the customer has no row, and the message says who has.
    """
    from syncs.results import Fatal

    warehouse.ensure(settings)
    (spec,) = specs(settings, name)
    with lake.connect(settings) as connection:
        column = "customer_id" if spec.has("customer_id") else spec.key
        known = customers.find(connection, customer) if customer else None
        found = known.customer_id if known else None
        if customer is None or not _has_row(connection, spec, column, found or customer):
            some, count = _who_has_rows(connection, spec, column)
            if not count:
                raise Fatal(
                    f"{spec.model} has no rows now: nothing that it tells of has happened lately"
                )
            if customer is not None:
                why = "has no row in" if found else "is nobody known, and has no row in"
                raise Fatal(f"{customer} {why} {spec.model}; of {count:,} that do: {some}")
            found = some.split(", ")[0]
        return pusher(settings).samples(
            spec,
            connection,
            found or str(customer),
            facts=facts(settings, connection.cursor),
        )


def _has_row(connection: DuckDBPyConnection, spec: SyncSpec, column: str, value: str) -> bool:
    query = f'select 1 from {spec.relation} where "{column}" = $value limit 1'
    return connection.execute(query, {"value": value}).fetchone() is not None


def _who_has_rows(connection: DuckDBPyConnection, spec: SyncSpec, column: str) -> tuple[str, int]:
    """The first few of those who have a row, and how many there are."""
    newest = "max(fired_at) desc, " if spec.has("fired_at") else ""
    rows = connection.execute(
        f'select "{column}", count(*) over () from {spec.relation} where "{column}" is not null'
        f' group by "{column}" order by {newest}"{column}" limit 5'
    ).fetchall()
    return ", ".join(str(row[0]) for row in rows), int(rows[0][1]) if rows else 0


def held_out(settings: Settings) -> set[str]:
    """User ids of the customers who are in the holdout of any sync."""
    holdouts = [spec.policies.holdout for spec in specs(settings) if spec.policies.holdout]
    with lake.connect(settings) as connection:
        users = connection.execute(
            "select id_value, customer_id from identity_map where id_kind = 'user'"
        ).fetchall()
    return {user for user, customer in users if any(held.holds(customer) for held in holdouts)}


def ledger(settings: Settings) -> Ledger:
    """The delivery ledger of this home."""
    warehouse.ensure(settings)
    return pusher(settings).ledger


def trim_ledger(settings: Settings) -> dict[str, int]:
    """Apply SIGNALBOX_LEDGER_RETENTION_DAYS; returns payloads, attempts and runs forgotten."""
    from syncs.operations import trim

    return trim(ledger(settings), settings.ledger_retention_days)


def one_line(reports: Sequence[SyncReport]) -> str:
    """What was delivered to each destination, for a progress display."""
    delivered: Counter[str] = Counter()
    for report in reports:
        delivered[report.destination] += report.sent.get("delivered", 0)
    parts = [f"{name} {count:,}" for name, count in delivered.items() if count]
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
    from syncs import checkup
    from syncs.destinations import resolve

    place = _sandbox(settings)
    return any(
        not resolve(login, place, env_file=ENV_FILE).sandbox
        for _, login, _ in checkup.logins()
        if login.name == name
    )


def check_destinations(settings: Settings, *, offline: bool) -> list[Finding]:
    """What is known of each destination's credentials; called side by side unless `offline`."""
    from syncs.checkup import check_all

    return check_all(_sandbox(settings), env_file=ENV_FILE, offline=offline)


def serve_sandbox(settings: Settings, scenario: str | None = None, seed: int = 0) -> None:
    """Run the vendors' stand-ins until SIGTERM or SIGINT, on a bad day if one is named.

    Raises:
        SettingsError: there is no scenario of that name.
    """
    from syncs.sandbox import faults
    from syncs.sandbox.server import run

    try:
        fault = None if scenario is None else faults.scenario(scenario, seed)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    place = _sandbox(settings)
    run(
        settings.host,
        settings.sandbox_port,
        settings.sandbox_smtp_port,
        settings.home / "sandbox",
        fault=fault,
        postgres=place.postgres,
        files=place.directory,
    )


def pusher(settings: Settings) -> Pusher:
    """The pusher of this process, which keeps its connections."""
    caps = tuple(sorted(settings.message_caps.items()))
    return _kept_pusher(postgres.start(settings).ledger, _sandbox(settings), caps)


@lru_cache(maxsize=2)
def _kept_pusher(ledger_url: str, sandbox: Sandbox, caps: tuple[tuple[str, str], ...]) -> Pusher:
    # Kept, because it keeps its connections.
    from syncs.ledger import Ledger
    from syncs.push import Pusher

    return Pusher(
        Ledger(ledger_url),
        sandbox=sandbox,
        env_file=ENV_FILE,
        channel_caps=channel_caps(dict(caps)),
    )


def channel_caps(texts: Mapping[str, str]) -> dict[str, Cap]:
    """SIGNALBOX_MESSAGE_CAPS, parsed.

    Raises:
        SettingsError: no destination sends on a channel; a cap that counts nothing would be none.
    """
    from syncs.destinations import available, load
    from syncs.policies import parse_cap

    if not texts:
        return {}
    every = [load(name) for name in available()]
    known = {one.channel for one in every}
    known |= {of.get("channel") for one in every for of in one.variants.values()}
    for channel in texts:
        if channel not in known:
            raise SettingsError(
                f"SIGNALBOX_MESSAGE_CAPS: no destination sends on {channel!r}; channels are "
                + ", ".join(sorted(filter(None, known)))
            )
    return {channel: parse_cap(text) for channel, text in texts.items()}


def _sandbox(settings: Settings) -> Sandbox:
    from syncs.destinations import Sandbox

    return Sandbox(
        url=settings.sandbox_url,
        smtp=f"{settings.host}:{settings.sandbox_smtp_port}",
        postgres=postgres.start(settings).sandbox,
        directory=str(settings.home / "sandbox" / "files"),
    )
