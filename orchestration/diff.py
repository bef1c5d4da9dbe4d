"""What an edit of the project would change, against the last build: `signalbox diff`.

The edited models are built whole in a file of their own, from the same events and as of the same
moment as the last build, so that nothing but the edit can make a difference. Incremental models
equal a full refresh by the row, which is what makes the two comparable.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orchestration import activate, dbt, ingest, lake, warehouse
from orchestration.scratch import SCHEMA, Scratch
from orchestration.settings import Settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from syncs.spec import SyncSpec

BUILT = f"{lake.CATALOG}.{lake.SCHEMA}"
EDITED = f"evaluation.{SCHEMA}"
# Built by jobs of their own at other moments, and read as they are.
TAKEN = {"daily", "after_sync"}
LEARNED = (
    "model_registry", "churn_model_points", "churn_model_bins", "customer_value_parameters",
    "customer_value_scores",
)  # fmt: skip

LAST_BUILD = f"""
select max(as_of_ts), (select max(log_seq) from {BUILT}.stg_events)
from {BUILT}.build_watermarks where as_of_ts is not null
"""
SEGMENTS = f"""
select coalesce(built.segment, edited.segment) as segment, count(built.customer_id) as before,
    count(edited.customer_id) as after, count(*) filter (built.customer_id is null) as enter,
    count(*) filter (edited.customer_id is null) as leave
from (select * from {BUILT}.segment_membership where is_current) as built
full join (select * from {EDITED}.segment_membership where is_current) as edited
    on built.customer_id = edited.customer_id and built.segment = edited.segment
group by 1 order by 1
"""
SIGNALS = f"""
select coalesce(built.signal, edited.signal) as signal, count(built.customer_id) as before,
    count(edited.customer_id) as after, count(*) filter (built.customer_id is null) as new,
    count(*) filter (built.customer_id is null and edited.expires_at > now()) as new_to_act_on,
    count(*) filter (edited.customer_id is null) as gone,
    count(*) filter (edited.customer_id is null and built.expires_at > now()) as gone_to_act_on
from {BUILT}.signals as built
full join {EDITED}.signals as edited
    on built.signal = edited.signal and built.customer_id = edited.customer_id
    and built.trigger_id = edited.trigger_id
group by 1 order by 1
"""
# Only what one of the two plans has alone counts, not what is due anyway.
CAUSED = """
select kind, count(*) filter (side = 'edited') as caused,
    count(*) filter (side = 'built') as averted
from (
    select side, kind, row_number() over (partition by kind, action_key, payload_hash) as n,
        count(*) over (partition by kind, action_key, payload_hash) as copies
    from planned
) where copies = 1 group by kind
"""
KINDS = {"create": "creates", "update": "updates", "leave": "removals", "message": "messages"}


class DiffError(Exception):
    """There is nothing to compare with; the message says what to do."""


@dataclass(frozen=True)
class SyncDiff:
    """Rows that a sync would send because of the edit, and `averted`: those it no longer would.

    `note` says why a part could not be compared, `blocked` why the run would stop and ask.
    """

    sync: str
    destination: str
    creates: int = 0
    updates: int = 0
    removals: int = 0
    messages: int = 0
    averted: int = 0
    blocked: str | None = None
    note: str | None = None

    @property
    def writes(self) -> int:
        return self.creates + self.updates + self.removals


@dataclass(frozen=True)
class Diff:
    """What `signalbox diff` reports. `taken` are models read as the last build left them."""

    as_of: datetime
    segments: list[dict[str, Any]]
    signals: list[dict[str, Any]]
    syncs: list[SyncDiff]
    taken: list[str]


def diff(settings: Settings, on_step: Callable[[str], object] = lambda _: None) -> Diff:
    """Compare the project as it stands in the working tree with the last build.

    Nothing is sent, and neither the lake nor the ledger is changed.

    Raises:
        DiffError: nothing was built yet.
        DbtFailed: the edited project does not build, in dbt's words.
    """
    warehouse.ensure(settings)
    on_step("reading the project")
    manifest = dbt.manifest(settings)
    with Scratch(settings) as scratch:
        with scratch.connect() as connection:
            as_of, log_seq = _last_build(connection)
            taken = _take(connection, manifest)
        scratch.show_loaded(up_to=log_seq)
        on_step("building the edited models")
        scratch.dbt(
            *("build", "--exclude-resource-type", "test", "unit_test"),
            *(
                ("--exclude", *taken, "tag:after_sync")
                if taken
                else ("--exclude", "tag:after_sync")
            ),
            built_as_of=as_of.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
        )
        with scratch.connect() as connection:
            on_step("comparing")
            segments, signals = _rows(connection, SEGMENTS), _rows(connection, SIGNALS)
            compared = []
            for spec in activate.specs(settings):
                on_step(f"planning {spec.name}")
                compared.append(_compare_sync(settings, connection, spec))
    return Diff(as_of, segments, signals, compared, taken)


def _last_build(connection: DuckDBPyConnection) -> tuple[datetime, int]:
    import duckdb

    try:
        row = connection.execute(LAST_BUILD).fetchone()
        for compared in ("segment_membership", "signals"):
            connection.execute(f"select 1 from {BUILT}.{compared} limit 0")
    except (duckdb.CatalogException, duckdb.BinderException):
        row = None
    if row is None or row[0] is None or row[1] is None:
        raise DiffError(
            "Not all models were built in this home yet, so that there is nothing to compare with: "
            "signalbox load, then signalbox build."
        )
    return row[0], int(row[1])


def _take(connection: DuckDBPyConnection, manifest: dict[str, Any]) -> list[str]:
    """Let the edited models see what other jobs have built; returns the names of those models."""
    present = {
        name
        for (name,) in connection.execute(
            "select table_name from duckdb_tables() where database_name = 'lake'"
            " and schema_name = 'main' union all select view_name from duckdb_views()"
            " where database_name = 'lake' and schema_name = 'main'"
        ).fetchall()
    }
    others = {
        node["name"]
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model" and TAKEN & set(node["config"].get("tags") or [])
    }
    for name in sorted(present & (others | set(LEARNED))):
        connection.execute(f'create view {EDITED}."{name}" as select * from {BUILT}."{name}"')
    return sorted(present & others)


def _compare_sync(settings: Settings, connection: DuckDBPyConnection, spec: SyncSpec) -> SyncDiff:
    from syncs.results import SyncError

    # Of one moment, so that nothing expires between the two.
    notes = []
    connection.execute("begin")
    for side, schema in (("built", BUILT), ("edited", EDITED)):
        if side == "edited" or _has(connection, spec):
            connection.execute(
                f'create table {EDITED}."{side}__{spec.model}" as'
                f' select * from {schema}."{spec.model}"'
            )
    connection.execute("commit")
    connection.execute(
        "create or replace temporary table planned"
        " (side varchar, kind varchar, action_key varchar, payload_hash varchar)"
    )
    blocked = None
    for side, schema in (("built", BUILT), ("edited", EDITED)):
        try:
            with closing(
                activate.pusher(settings).plan(
                    spec,
                    connection,
                    relation=f'{EDITED}."{side}__{spec.model}"',
                    schema=schema,
                    live_sources=ingest.live_sources(settings),
                )
            ) as plan:
                changes = plan.changes(*KINDS)
                connection.register("changes", changes)
                connection.execute(
                    f"insert into planned select '{side}', change, action_key, payload_hash"
                    " from changes"
                )
                connection.unregister("changes")
                blocked = plan.blocked if side == "edited" else None
        except SyncError as error:
            if side == "edited":
                return SyncDiff(spec.name, spec.destination, note=str(error))
            notes.append("as built it has other columns or is new: all that is due counts")
    caused = {row["kind"]: row for row in _rows(connection, CAUSED)}
    counts = {name: caused[kind]["caused"] if kind in caused else 0 for kind, name in KINDS.items()}
    # An update in place of another one is no update that is averted.
    averted = sum(max(0, row["averted"] - row["caused"]) for row in caused.values())
    return SyncDiff(
        spec.name,
        spec.destination,
        **counts,
        averted=averted,
        blocked=blocked if any(counts.values()) else None,
        note="; ".join(notes) or None,
    )


def _has(connection: DuckDBPyConnection, spec: SyncSpec) -> bool:
    found = connection.execute(
        "select 1 from duckdb_columns() where database_name = 'lake' and schema_name = 'main'"
        " and table_name = $model limit 1",
        {"model": spec.model},
    )
    return found.fetchone() is not None


def _rows(connection: DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    result = connection.execute(query)
    assert result.description is not None
    names = [name for name, *_ in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
