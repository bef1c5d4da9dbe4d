"""What a change costs, proved with toys: each is added to a copy, with nothing else touched.

One story: a new event, the signal it fires, the sync that tells a new destination, that vendor's
stand-in in the sandbox, and a new source beside them.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from dagster import AssetKey, Definitions
from dbt_warehouse import PROJECT, Message, Warehouse

from ingestion import contract, contract_check, sources
from ingestion.contract import Contracts
from ingestion.destination import Lake
from ingestion.envelope import Arrival, to_record
from ingestion.load import Loader
from ingestion.refresh import refresh
from ingestion.sources import RefreshSource
from orchestration import jobs
from orchestration.assets import hot, ingest
from orchestration.assets.models import build_model_assets
from orchestration.assets.syncs import build_sync_assets
from syncs import destinations
from syncs.http import Http
from syncs.results import Row
from syncs.sandbox import vendors
from syncs.sandbox.server import background
from syncs.spec import find, load_specs

pytestmark = pytest.mark.long

NOW = datetime(2026, 3, 20, 12, 0, tzinfo=UTC)

CONTRACT = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Toy Lost",
    "description": "A customer told us that a toy is gone.",
    "x-owner": "playroom",
    "x-version": 1,
    "type": "object",
    "required": ["toy"],
    "properties": {"toy": {"type": "string", "description": "What it is called."}},
    "examples": [{"toy": "bear"}],
}

SIGNAL = """
select
    customer_id,
    'toy_lost' as signal,
    event_id as trigger_id,
    event_at as fired_at,
    {{ moved_by('event_at', 24, 'hour') }} as expires_at,
    {{ json_build({'toy': json_string('properties', 'toy')}) }} as payload
from {{ ref('customer_timeline') }}
where event = 'Toy Lost'
"""

SIGNAL_BLOCK = """
  - name: toy_lost
    description: One row per toy that a customer lost.
    columns:
      - {name: customer_id, data_type: varchar, description: The customer.}
      - {name: signal, data_type: varchar, description: Name of the signal.}
      - {name: trigger_id, data_type: varchar, description: What fired it.}
      - {name: fired_at, data_type: timestamp with time zone, description: When it fired.}
      - {name: expires_at, data_type: timestamp with time zone, description: When it is stale.}
      - {name: payload, data_type: varchar, description: The toy as JSON text.}
"""

SYNC = """
select
    customer_id,
    trigger_id,
    fired_at,
    expires_at,
    {{ json_string('payload', 'toy') }} as toy
from {{ ref('toy_lost') }}
where expires_at > {{ as_of_ts() }}
"""

SYNC_BLOCK = """
  - name: sync_toybox__toy_lost
    description: One row per lost toy that is worth looking for.
    config: {meta: {sync: {destination: toybox, mode: message, key: trigger_id}}}
    columns:
      - {name: customer_id, data_type: varchar, description: The customer.}
      - {name: trigger_id, data_type: varchar, description: What fired it.}
      - {name: fired_at, data_type: timestamp with time zone, description: When it fired.}
      - {name: expires_at, data_type: timestamp with time zone, description: When it is stale.}
      - {name: toy, data_type: varchar, description: What it is called.}
"""

DESTINATION = """
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import RowResult

MODES = {"message"}
BATCH_SIZE = 1
RATE = 10.0
CREDENTIALS = ("base_url",)
SANDBOX = {"base_url": "{url}/toybox"}
API_VERSION = "1"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SIGNALBOX_TOYBOX_")
    base_url: str | None = None


def push(rows, target, http):
    return [
        RowResult.delivered(
            http.post(f"{target.settings.base_url}/search", json=dict(row.fields)).status_code
        )
        for row in rows
    ]


def check(target, http):
    return str(http.get(f"{target.settings.base_url}/lid").body)
"""

VENDOR = """
from starlette.responses import JSONResponse
from starlette.routing import Route

from syncs.sandbox import vendor
from syncs.sandbox.effects import Effect


class StandIn(vendor.StandIn):
    title = "Toy box"

    def routes(self):
        return [Route("/search", self._search, methods=["POST"])]

    async def _search(self, request):
        toy = (await vendor.json_object(request))["toy"]
        effect = Effect(
            destination=self.name,
            action="searched",
            key=toy,
            summary=f"looks for {toy}",
            request_id=vendor.request_id(request),
        )
        self.commit([effect])
        return JSONResponse({"ok": True})
"""


SOURCE = """
from datetime import UTC, datetime

from pydantic_settings import BaseSettings, SettingsConfigDict

KIND = "refresh"
DESCRIPTION = "The toys of the playroom."
TABLE = "toys"
COLUMNS = {"toy_id": "text", "price": "number", "updated_at": "time"}
KEY = "toy_id"
SANDBOX = {}


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SIGNALBOX_TOYS_")
    shelf: str = "top"


def rows(settings, since):
    yield {"toy_id": settings.shelf, "price": 3.5, "updated_at": datetime(2026, 3, 1, tzinfo=UTC)}
"""

STAGING = """
select
    toy_id,
    price
from {{ source('raw', 'toys') }}
"""

STAGING_BLOCK = """
version: 2

sources:
  - name: raw
    database: "{{ 'lake' if target.name in ('lake', 'dev') else target.database }}"
    schema: raw
    tables:
      - name: toys
        description: One row per toy.

models:
  - name: stg_toys
    description: One row per toy.
    columns:
      - {name: toy_id, data_type: varchar, description: Its id.}
      - {name: price, data_type: double, description: What it costs.}
"""


def changes(original: Path, copy: Path) -> set[str]:
    """Names of the files that are new, changed or gone in the copy."""

    def content(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in files
            if not {"target", "logs", "__pycache__"} & set(path.relative_to(folder).parts)
        }

    before, after = content(original), content(copy)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def add_block(file: Path, block: str) -> None:
    """Put a model's block in front of the folder's others."""
    text = file.read_text()
    assert text.count("\nmodels:\n") == 1
    file.write_text(text.replace("\nmodels:\n", f"\nmodels:\n{block.strip(chr(10))}\n\n"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the dbt project with the toy signal, the toy sync and the toy source."""
    copy = tmp_path_factory.mktemp("project") / "dbt_project"
    shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns("target", "logs"))
    models = copy / "models"
    (models / "signals" / "toy_lost.sql").write_text(SIGNAL)
    add_block(models / "signals" / "signals.yml", SIGNAL_BLOCK)
    (models / "syncs" / "sync_toybox__toy_lost.sql").write_text(SYNC)
    add_block(models / "syncs" / "syncs.yml", SYNC_BLOCK)
    (models / "staging" / "stg_toys.sql").write_text(STAGING)
    (models / "staging" / "stg_toys.yml").write_text(STAGING_BLOCK)
    return copy


@pytest.fixture(scope="module")
def warehouse(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """A raw layer for the copy."""
    return Warehouse(tmp_path_factory.mktemp("warehouse"), project)


@pytest.fixture(scope="module")
def manifest(warehouse: Warehouse) -> dict[str, Any]:
    """The copy's manifest as dbt writes it."""
    warehouse.manifest()
    written: dict[str, Any] = json.loads((warehouse.scratch / "target/manifest.json").read_text())
    return written


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy source, as a file in its package."""
    (tmp_path / "toys.py").write_text(SOURCE)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    yield
    sys.modules.pop("ingestion.sources.toys", None)
    vars(sources).pop("toys", None)


@pytest.fixture
def toybox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy destination and its stand-in, as files in their packages."""
    for package, text in ((destinations, DESTINATION), (vendors, VENDOR)):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / "toybox.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield
    for package in (destinations, vendors):
        sys.modules.pop(f"{package.__name__}.toybox", None)
        vars(package).pop("toybox", None)


def test_a_new_event_is_one_schema(tmp_path: Path) -> None:
    copy = tmp_path / "contracts"
    shutil.copytree(contract.CONTRACTS, copy)
    (copy / "toy_lost.v1.json").write_text(json.dumps(CONTRACT))
    assert changes(contract.CONTRACTS, copy) == {"toy_lost.v1.json"}

    assert contract_check.lint(copy) == []
    contracts = Contracts.load(copy)
    message = {"type": "track", "event": "Toy Lost", "userId": "u1", "messageId": "m1"}

    def accept(properties: dict[str, Any]) -> Any:
        body = json.dumps(message | {"properties": properties}).encode()
        return to_record(body, Arrival("web", NOW), contracts)

    good, bad = accept({"toy": "bear"}), accept({})
    assert (good.kind, good.event_version) == ("event", 1)
    assert (bad.kind, bad.reason) == ("quarantine", "missing_field")


def test_a_new_signal_sync_and_source_are_one_query_and_one_block_each(project: Path) -> None:
    assert changes(PROJECT, project) == {
        "models/signals/toy_lost.sql", "models/signals/signals.yml",
        "models/syncs/sync_toybox__toy_lost.sql", "models/syncs/syncs.yml",
        "models/staging/stg_toys.sql", "models/staging/stg_toys.yml",
    }  # fmt: skip


def test_they_build_from_raw_events_under_their_contracts(warehouse: Warehouse) -> None:
    lost = {"properties": {"toy": "bear"}}
    warehouse.load([Message("track", NOW, "m1", "u1", None, "Toy Lost", lost)])
    chain = ("--select", "+sync_toybox__toy_lost")
    warehouse.dbt("seed", *chain)
    warehouse.dbt("run", *chain, as_of=NOW)
    assert warehouse.query("select toy from main.sync_toybox__toy_lost") == [("bear",)]


@pytest.mark.usefixtures("toybox")
def test_they_are_assets_between_the_log_and_the_ledger(manifest: dict[str, Any]) -> None:
    every_batch, after_sync = build_model_assets(manifest)
    sync_assets = build_sync_assets(manifest)
    tables = ingest.build_source_assets()
    assets = [ingest.EVENT_LOG, ingest.load_events, hot.SPEC, tables]
    definitions = Definitions(
        assets=[*assets, every_batch, sync_assets, after_sync],
        asset_checks=[ingest.micro_batch_keeps_up, *hot.CHECKS],
        jobs=jobs.build_asset_jobs(manifest, tables, every_batch, after_sync, sync_assets),
    )
    graph = definitions.resolve_asset_graph()
    signal, model = AssetKey("toy_lost"), AssetKey("sync_toybox__toy_lost")
    sent = AssetKey(["toybox", "toy_lost"])
    assert graph.get(signal).group_name == "signals"
    assert AssetKey("customer_timeline") in graph.get(signal).parent_keys
    assert graph.get(model).parent_keys == {signal}
    assert graph.get(sent).parent_keys == {model}
    batch = definitions.resolve_job_def(jobs.MICRO_BATCH).asset_layer.executable_asset_keys
    assert {model, sent} <= set(batch)


@pytest.mark.usefixtures("toybox")
def test_a_new_destination_and_its_stand_in_are_one_file_each(
    manifest: dict[str, Any], tmp_path: Path
) -> None:
    spec = find(load_specs(manifest), "toybox__toy_lost")
    assert (spec.object, spec.mode, spec.fields) == ("toy_lost", "message", ("toy",))
    destination = destinations.load(spec.destination)
    with background(tmp_path / "sandbox") as address:
        target = destinations.resolve(destination, destinations.Sandbox(address.url), env_file=None)
        target = destinations.aim(target, object_name=spec.object, key=spec.key)
        http = Http()
        (result,) = destination.push([Row("k1", "t1", {"toy": "bear"})], target, http)
        http.close()
        effects = requests.get(f"{address.url}/sandbox/effects", timeout=20).json()
    assert target.sandbox
    assert result.outcome == "delivered"
    assert [(found["destination"], found["summary"]) for found in effects] == [
        ("toybox", "looks for bear")
    ]


@pytest.mark.usefixtures("toys")
def test_a_new_source_is_one_file_one_staging_model_and_one_block(
    warehouse: Warehouse,
    manifest: dict[str, Any],
    tmp_path: Path,
    new_database: Callable[[], str],
) -> None:
    warehouse.query("create table raw.toys as select 'bear' as toy_id, 3.5::double as price")
    warehouse.dbt("run", "--select", "stg_toys")
    assert warehouse.query("select toy_id, price from main.stg_toys") == [("bear", 3.5)]
    assert manifest["nodes"]["model.signalbox.stg_toys"]["depends_on"]["nodes"] == [
        "source.signalbox.raw.toys"
    ]

    (source,) = (s for s in sources.switched_on(["toys"], RefreshSource) if s.name == "toys")
    assert "toys" not in {s.name for s in sources.switched_on([], RefreshSource)}
    lake = Lake(new_database(), f"{tmp_path / 'lake'}/", tmp_path / "dlt")
    Loader(lake.catalog_url, lake.data_path, tmp_path / "log", tmp_path / "dlt").ensure_tables()
    assert [refresh(lake, source, source.settings()).rows for _ in range(2)] == [1, 1]
    with lake.connect() as connection:
        rows = connection.execute("select toy_id, price from lake.raw.toys").fetchall()
    assert rows == [("top", 3.5)]
    spec = ingest.build_source_assets().specs_by_key[AssetKey(["raw", "toys"])]
    assert spec.description == source.description


@pytest.mark.parametrize(
    ("union", "folder", "column"),
    [("signals", "signals", "trigger_id"), ("segment_membership", "segments", "as_of_date")],
)
def test_no_member_is_missing_in_the_unions(
    manifest: dict[str, Any], union: str, folder: str, column: str
) -> None:
    """dbt cannot list a folder, so these two name their members; nobody may be forgotten."""
    members = {
        unique_id
        for unique_id, node in manifest["nodes"].items()
        if node["resource_type"] == "model"
        and node["fqn"][1] == folder
        and node["name"] not in {union, "toy_lost"}
        and f"model.signalbox.{union}" not in node["depends_on"]["nodes"]
        and column in node["columns"]
    }
    assert members
    assert members <= set(manifest["nodes"][f"model.signalbox.{union}"]["depends_on"]["nodes"])
