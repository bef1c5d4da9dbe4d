"""The models on other warehouses: built on Postgres, and parsed as each dialect's own SQL."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pytest
import sqlglot
from dbt.cli.main import dbtRunner
from dbt.clients.jinja import get_rendered
from dbt.clients.yaml_helper import load_yaml_text
from dbt.context import providers
from dbt_streams import NOW, arrivals, stream, with_splits
from dbt_warehouse import MARK_REPEATS, PROJECT, RAW_TABLES, Message, Warehouse

from ingestion import raw_tables
from ingestion.sources import refreshed

pytestmark = pytest.mark.long

STEADY = ["--exclude", "config.materialized:view", "tag:daily", "tag:after_sync"]
# What follows from the events and must be the same everywhere; keys, so that no type is in the way.
COMPARED = {
    "identity_map": "id_key, customer_id, is_shared, changed_seq",
    "customer_timeline": "customer_id, event_number, event_id, session_number, channel",
    "customer_features_daily": "customer_id, as_of_date, sessions_30d, purchases_lifetime",
    "churn_scores_daily": "customer_id, as_of_date, churn_band",
    "signals": "customer_id, signal, trigger_id",
    "segment_membership": "customer_id, segment, entered_at",
    "sync_hubspot__customer_health": "customer_id, email, customer_segment",
}


class Postgres:
    """A database with the raw layer of `dbt_warehouse`, and dbt's own adapter to build on it."""

    def __init__(self, url: str, directory: Path) -> None:
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True
        self._directory = directory
        with self._connection.cursor() as cursor:
            cursor.execute(RAW_TABLES)
            for source in refreshed():
                columns = [f'"{f.name}" {_kind(f.type)}' for f in raw_tables.schema(source.table)]
                columns.append("_dlt_load_id varchar")
                cursor.execute(f'create table raw."{source.table}" ({", ".join(columns)})')
        server = self._connection.info
        target = {
            "type": "postgres", "host": server.host, "port": server.port, "user": server.user,
            "password": server.password or "unused", "dbname": server.dbname,
            "schema": "analytics", "threads": 1,
        }  # fmt: skip
        profiles = {"signalbox": {"target": "postgres", "outputs": {"postgres": target}}}
        (directory / "profiles.yml").write_text(json.dumps(profiles))
        self._next_seq = 0
        self._manifest: Any = None

    def load(self, messages: list[Message]) -> None:
        rows = [message.row(self._next_seq + place) for place, message in enumerate(messages)]
        self._next_seq += len(rows)
        with self._connection.cursor() as cursor:
            marks = ", ".join(["%s"] * len(rows[0]))
            cursor.executemany(f"insert into raw.events values ({marks})", rows)
            cursor.execute(MARK_REPEATS.replace("group by all", "group by source, message_id"))

    def dbt(self, *args: str) -> None:
        self._manifest = self._manifest or self._invoke("parse").result
        self._invoke(*args, "--no-write-json")

    def _invoke(self, *args: str) -> Any:
        here = str(self._directory)
        outcome = dbtRunner(manifest=self._manifest).invoke(
            [
                *args,
                *("--project-dir", str(PROJECT), "--profiles-dir", here, "--quiet"),
                *("--target-path", here, "--log-path", here, "--log-level-file", "none"),
                *("--vars", json.dumps({"as_of": f"{NOW:%Y-%m-%d %H:%M:%S}"})),
            ]
        )
        assert outcome.success, outcome.exception or [
            f"{result.node.name}: {result.message}"
            for result in outcome.result.results
            if str(result.status) == "error"
        ]
        return outcome

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()


def _kind(arrow: Any) -> str:
    if pa.types.is_timestamp(arrow):
        return "timestamptz"
    if pa.types.is_boolean(arrow):
        return "boolean"
    if pa.types.is_integer(arrow):
        return "bigint"
    return "double precision" if pa.types.is_floating(arrow) else "varchar"


def test_postgres_builds_the_same_rows(
    warehouse: Warehouse, new_database: Callable[[], str], tmp_path: Path
) -> None:
    """Seeds, every model, and then another load incrementally, beside DuckDB."""
    other = Postgres(new_database(), tmp_path)
    first, second = arrivals(3, with_splits(3, stream(3)), batches=2)
    for here in (warehouse, other):
        here.load(first)
        here.dbt("seed")
    warehouse.dbt("run", "--exclude", "tag:after_sync", as_of=NOW)
    other.dbt("run", "--exclude", "tag:after_sync")
    warehouse.load(second)
    other.load(second)
    warehouse.dbt("run", *STEADY, as_of=NOW)
    other.dbt("run", *STEADY)
    for model, columns in COMPARED.items():
        ours = warehouse.query(f"select {columns} from main.{model}")
        theirs = other.query(f"select {columns} from analytics.{model}")
        assert ours and sorted(map(repr, ours)) == sorted(map(repr, theirs)), f"{model} differs"


# As dbt looks for macros: a warehouse's own, then those of the one it descends from.
PREFIXES = {
    "snowflake": ["snowflake", "default"],
    "bigquery": ["bigquery", "default"],
    "redshift": ["redshift", "postgres", "default"],
    "postgres": ["postgres", "default"],
}


# The names that BigQuery takes for a column of a seed.
BIGQUERY = {
    "string",
    "int64",
    "integer",
    "float64",
    "numeric",
    "bool",
    "boolean",
    "timestamp",
    "date",
}


@pytest.mark.parametrize("dialect", ["duckdb", *PREFIXES])
def test_seeds_have_the_types_of(dialect: str) -> None:
    """Rendered as dbt renders properties, which can call no macro."""
    text = (PROJECT / "seeds" / "seeds.yml").read_text()
    target = {"type": dialect}
    for seed in load_yaml_text(text)["seeds"]:
        for column, asked in seed["config"]["column_types"].items():
            kind = get_rendered(asked, {"target": target})
            sqlglot.exp.DataType.build(kind, dialect=dialect)
            if dialect == "bigquery":
                assert kind in BIGQUERY, f"{seed['name']}.{column}: {kind}"


def _dispatch_to(dialect: str, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose the project's macros for a dialect; those that dbt itself needs stay DuckDB's."""
    macros = warehouse.manifest().macros.values()
    names = {macro.name for macro in macros if macro.package_name == "signalbox"}
    dbt_needs = {macro.name for macro in macros if macro.package_name != "signalbox"}
    dispatched = {name.partition("__")[2] for name in names - dbt_needs}
    wrapper = providers.BaseDatabaseWrapper
    dispatch, prefixes = wrapper.dispatch, wrapper._get_adapter_macro_prefixes
    asked: list[str] = []

    def noted(self: Any, macro_name: str, *rest: Any, **named: Any) -> Any:
        asked.append(macro_name)
        return dispatch(self, macro_name, *rest, **named)

    def chosen(self: Any) -> Any:
        return PREFIXES[dialect] if asked[-1] in dispatched else prefixes(self)

    monkeypatch.setattr(wrapper, "dispatch", noted)
    monkeypatch.setattr(wrapper, "_get_adapter_macro_prefixes", chosen)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Nothing is built yet: models compile in their full form."""
    return Warehouse(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Everything is built: models compile in their incremental form."""
    warehouse = Warehouse(tmp_path_factory.mktemp("built"))
    warehouse.dbt("seed")
    warehouse.dbt("run", "--exclude", "tag:after_sync", as_of=NOW)
    return warehouse


@pytest.mark.parametrize("state", ["empty", "built"])
@pytest.mark.parametrize("dialect", PREFIXES)
def test_every_model_parses_as_the_sql_of(
    dialect: str, state: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled with the macros that dbt would dispatch to; their adapters need no server for that.

    A grammar is not a server: it finds what a dialect cannot say, not what it does not know.
    """
    warehouse: Warehouse = request.getfixturevalue(state)
    _dispatch_to(dialect, warehouse, monkeypatch)
    results = warehouse.dbt("compile", "--select", "resource_type:model", as_of=NOW).results
    assert len(results) > 60
    failed = {}
    for result in results:
        sql = result.node.compiled_code
        try:
            (tree,) = sqlglot.parse(sql, read=dialect, error_level=sqlglot.ErrorLevel.RAISE)
        except sqlglot.errors.SqlglotError as error:
            failed[result.node.name] = str(error)[:300]
            continue
        assert not isinstance(tree, sqlglot.exp.Command), f"{result.node.name} is not understood"
    assert not failed


def test_components_are_found_without_recursion_too(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Redshift, Snowflake and BigQuery run finds the customers that recursion finds."""
    warehouse.load(with_splits(8, stream(8)))
    warehouse.dbt(
        "build", "--select", "+identity_map", "--exclude-resource-type", "test", as_of=NOW
    )
    _dispatch_to("redshift", warehouse, monkeypatch)
    select = ("--select", "identity_map,resource_type:model", "--full-refresh")
    compiled = warehouse.dbt("compile", *select, as_of=NOW).results
    (sql,) = [one.node.compiled_code for one in compiled if one.node.name == "identity_map"]
    names = "select id_key, customer_id, component_size from {} order by id_key"
    theirs = warehouse.query(names.format(f"({sql})"))
    assert "component_ranks_16" in sql
    assert theirs == warehouse.query(names.format("main.identity_map"))
    assert any(size > 3 for _, _, size in theirs)
