"""What an edit of the project would change, against the last build: `signalbox diff`.

What the edit touches, and what follows from that, is built whole in a file of its own, from the
same events and as of the same moment as the last build; the rest is read as that build left it. So
nothing but the edit can make a difference. Incremental models equal a full refresh by the row,
which is what makes the two comparable. A model that a daily job builds saw the lake of its own
moment: DuckLake's history shows it that one again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
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
# What reads the ledger's outcomes tells of what was sent, which no edit of a model changes.
AFTER_SYNC = "after_sync"
DAILY = "daily"

LAST_BUILD = f"""
select max(as_of_ts), (select max(log_seq) from {BUILT}.stg_events)
from {BUILT}.build_watermarks where log_seq is not null
"""
# As of when the daily models were built, and the last commit of the run that did it.
DAILY_BUILDS = f"""
select model, as_of_ts, (
    select max(snapshot_id) from lake.snapshots() where snapshot_time <= built_at
) as snapshot
from {BUILT}.build_watermarks
where model in (select unnest($models)) and log_seq is null and as_of_ts is not null
"""
PRESENT = """
select table_name from duckdb_tables()
where database_name = 'lake' and schema_name = 'main'
union all
select view_name from duckdb_views() where database_name = 'lake' and schema_name = 'main'
"""
COLUMNS = """
select database_name, column_name, data_type from duckdb_columns()
where table_name = $model and (
    database_name = 'lake' and schema_name = 'main'
    or database_name = 'evaluation' and schema_name = 'evaluation'
) order by column_index
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
class ModelDiff:
    """Rows of a model before and after: `new` and `gone` by its key, `changed` under one key.

    Without a key a changed row counts as gone and new, and `changed` is None. Columns that only one
    side has are named and not compared.
    """

    model: str
    before: int
    after: int
    new: int
    gone: int
    changed: int | None
    columns_added: list[str]
    columns_removed: list[str]


@dataclass(frozen=True)
class Diff:
    """What `signalbox diff` reports.

    `edited` are the models and seeds that the working tree has changed since the last build of all,
    None where no build left what it was made of; `built` is what was built to compare, `notes` says
    what could not be.
    """

    as_of: datetime
    edited: list[str] | None
    built: list[str]
    models: list[ModelDiff]
    segments: list[dict[str, Any]]
    signals: list[dict[str, Any]]
    syncs: list[SyncDiff]
    notes: list[str]


def diff(settings: Settings, on_step: Callable[[str], object] = lambda _: None) -> Diff:
    """Compare the project as it stands in the working tree with the last build.

    Nothing is sent, and neither the lake nor the ledger is changed.

    Raises:
        DiffError: nothing was built yet.
        DbtFailed: the edited project does not build, in dbt's words.
    """
    warehouse.ensure(settings)
    on_step("reading the project")
    edited = dbt.modified(settings)
    nodes = _nodes(dbt.manifest(settings))
    with lake.connect(settings) as connection:
        snapshot = _one(connection, "select max(snapshot_id) from lake.snapshots()")
    with Scratch(settings, snapshot) as scratch:
        with scratch.connect() as connection:
            as_of, log_seq = _last_build(connection)
            present = _present(connection)
        chosen, notes = _choose(nodes, edited, present)
        daily = {name for name in chosen if DAILY in nodes[name]["tags"]}
        on_step(f"building {len(chosen):,} models")
        if daily:
            notes += _build_daily(settings, scratch, nodes, chosen, daily, present)
        scratch.borrow(sorted(present - chosen))
        scratch.show_loaded(up_to=log_seq)
        if rest := chosen - daily:
            _build(scratch, rest, as_of)
        with scratch.connect() as connection:
            on_step("comparing")
            models = [
                _compare_model(connection, nodes[name])
                for name in sorted(chosen)
                if nodes[name]["fqn"][1] not in {"syncs", "ops"}
            ]
            segments = _rows(connection, SEGMENTS) if "segment_membership" in chosen else []
            signals = _rows(connection, SIGNALS) if "signals" in chosen else []
            compared = []
            for spec in activate.specs(settings):
                if spec.model in chosen:
                    on_step(f"planning {spec.name}")
                    compared.append(_compare_sync(settings, connection, spec))
    return Diff(as_of, edited, sorted(chosen), models, segments, signals, compared, notes)


def _choose(
    nodes: Mapping[str, Mapping[str, Any]], edited: list[str] | None, present: set[str]
) -> tuple[set[str], list[str]]:
    """What to build, and notes on what is left out."""
    chosen = _following(nodes, edited) if edited is not None else set(nodes)
    chosen -= {name for name in chosen if AFTER_SYNC in nodes[name]["tags"]}
    if edited is not None:
        return chosen, []
    # Without knowing what they were made of, a daily model of then is nothing to compare with.
    chosen -= {name for name in chosen & present if DAILY in nodes[name]["tags"]}
    return chosen, [
        "No build of all models has left what it was made of: everything is compared but what only "
        "daily jobs build. After signalbox build only what you edit is."
    ]


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


def _present(connection: DuckDBPyConnection) -> set[str]:
    """What the lake has; not the watermarks, of which each schema has its own."""
    return {name for (name,) in connection.execute(PRESENT).fetchall()} - {"build_watermarks"}


def _nodes(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The project's models and seeds by name, each with the `key` that its tests say it has."""
    found = {
        unique_id: {**node, "key": [], "tags": node["config"].get("tags") or []}
        for unique_id, node in manifest["nodes"].items()
        if node["resource_type"] in {"model", "seed"}
    }
    for test in manifest["nodes"].values():
        node = found.get(test.get("attached_node") or "")
        told = test.get("test_metadata") or {}
        if node is None or told.get("name") not in {"unique", "unique_together"}:
            continue
        arguments = told["kwargs"]
        columns = arguments.get("columns") or [arguments.get("column_name")]
        if all(column in node["columns"] for column in columns):
            node["key"] = node["key"] or columns
    return {node["name"]: node for node in found.values()}


def _following(nodes: Mapping[str, Mapping[str, Any]], names: Collection[str]) -> set[str]:
    """These models, and all that follow from them."""
    return _reached(names, {
        name: {
            other for other, node in nodes.items()
            if nodes[name]["unique_id"] in node["depends_on"].get("nodes", [])
        }
        for name in nodes
    })  # fmt: skip


def _above(nodes: Mapping[str, Mapping[str, Any]], names: Collection[str]) -> set[str]:
    """These models, and all that they follow from."""
    named = {node["unique_id"]: name for name, node in nodes.items()}
    return _reached(names, {
        name: {named[one] for one in node["depends_on"].get("nodes", []) if one in named}
        for name, node in nodes.items()
    })  # fmt: skip


def _reached(names: Collection[str], near: Mapping[str, Collection[str]]) -> set[str]:
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in near and name not in found:
            found.add(name)
            todo += near[name]
    return found


def _build(scratch: Scratch, names: Collection[str], as_of: datetime) -> None:
    variables = dbt.built_variables(scratch.settings) | {
        "built_as_of": as_of.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    }
    scratch.dbt(
        *("build", "--exclude-resource-type", "test", "unit_test", "--select", *sorted(names)),
        **variables,
    )


def _build_daily(
    settings: Settings,
    scratch: Scratch,
    nodes: Mapping[str, Mapping[str, Any]],
    chosen: set[str],
    daily: set[str],
    present: set[str],
) -> list[str]:
    """Build the chosen daily models from the lake that they were built from; returns notes.

    One that was never built, or whose moment the lake no longer keeps, looks from the last build:
    it stays among the `chosen` and goes from `daily`.
    """
    with lake.connect(settings) as connection:
        found = _rows(connection, DAILY_BUILDS, {"models": sorted(daily)})
    builds: dict[tuple[datetime, int], set[str]] = {}
    for row in found:
        if row["snapshot"] is not None:
            builds.setdefault((row["as_of_ts"], row["snapshot"]), set()).add(row["model"])
    others = daily - set().union(*builds.values())
    daily -= others
    for (as_of, snapshot), names in sorted(builds.items()):
        with Scratch(settings, snapshot) as then:
            needed = chosen & _above(nodes, names)
            with then.connect() as connection:
                there = _present(connection)
            then.borrow(sorted(there - needed))
            then.show_loaded(up_to=2**62)
            _build(then, needed, as_of)
            scratch.take(sorted(names), then)
    if missing := others & present:
        return [
            f"{', '.join(sorted(missing))}: built so long ago that more than the edit may show."
        ]
    return []


def _compare_model(connection: DuckDBPyConnection, node: Mapping[str, Any]) -> ModelDiff:
    name, key = node["name"], node["key"]
    types: dict[str, dict[str, str]] = {"lake": {}, "evaluation": {}}
    for database, column, kind in connection.execute(COLUMNS, {"model": name}).fetchall():
        types[database][column] = kind
    old, new_types = types["lake"], types["evaluation"]
    added = [column for column in new_types if column not in old]
    removed = [column for column in old if column not in new_types]
    if not old:
        count = _one(connection, f'select count(*) from {EDITED}."{name}"')
        return ModelDiff(name, 0, count, count, 0, 0, added, removed)
    common = [column for column in old if column in new_types]
    # Of another type, it is compared as it reads.
    names = ", ".join(
        f'"{one}"' if old[one] == new_types[one] else f'cast("{one}" as varchar) as "{one}"'
        for one in common
    )
    built = f'(select {names} from {BUILT}."{name}")'
    edited = f'(select {names} from {EDITED}."{name}")'
    before, after = (_one(connection, f"select count(*) from {side}") for side in (built, edited))
    changed = None
    if key and set(key) <= set(common):
        matched = " and ".join(f'built."{one}" is not distinct from edited."{one}"' for one in key)
        both = f"from {built} as built inner join {edited} as edited on {matched}"
        differs = f"({_row('built', common)}) is distinct from ({_row('edited', common)})"
        matching = _one(connection, f"select count(*) {both}")
        changed = _one(connection, f"select count(*) {both} where {differs}")
        new, gone = after - matching, before - matching
    else:
        new, gone = (
            _one(connection, f"select count(*) from (from {one} except all from {other})")
            for one, other in ((edited, built), (built, edited))
        )
    return ModelDiff(name, before, after, new, gone, changed, added, removed)


def _row(side: str, columns: Collection[str]) -> str:
    return "row(" + ", ".join(f'{side}."{column}"' for column in columns) + ")"


def _one(connection: DuckDBPyConnection, query: str) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


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


def _rows(
    connection: DuckDBPyConnection, query: str, names: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    result = connection.execute(query, dict(names or {}))
    assert result.description is not None
    columns = [name for name, *_ in result.description]
    return [dict(zip(columns, row, strict=True)) for row in result.fetchall()]
