"""The project as a whole: its tests pass, all is described, contracted and owned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dbt.cli.main import dbtRunner
from dbt_streams import NOW, stream
from dbt_warehouse import Warehouse

pytestmark = pytest.mark.long

GRAIN = "One row per "


def described(manifest: Any) -> list[Any]:
    return [
        node for node in manifest.nodes.values() if node.resource_type.value in ("model", "seed")
    ]


def test_unit_tests_and_data_tests_pass(warehouse: Warehouse) -> None:
    warehouse.load(stream(3))
    results = warehouse.dbt("build", as_of=NOW).results
    kinds = {result.node.resource_type.value for result in results}
    assert {"seed", "model", "test", "unit_test"} <= kinds


def test_in_dev_the_models_that_are_not_built_there_are_productions(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    warehouse.load(stream(3))
    warehouse.dbt("seed")
    warehouse.dbt("run", "--select", "@churn_risk_rose", as_of=NOW)
    dev = {"type": "duckdb", "path": str(warehouse.path), "schema": "dev_ada", "threads": 1}
    profiles = {"signalbox": {"target": "dev", "outputs": {"dev": dev}}}
    (tmp_path / "profiles.yml").write_text(json.dumps(profiles))

    outcome = dbtRunner().invoke(
        [
            *("build", "--select", "churn_risk_rose+", "--exclude", "test_type:unit", "--quiet"),
            *("--project-dir", str(warehouse.project), "--profiles-dir", str(tmp_path)),
            *("--target-path", str(tmp_path / "dev"), "--log-path", str(tmp_path / "dev")),
        ]
    )

    assert outcome.success, outcome.exception
    theirs = warehouse.table("churn_risk_rose")
    assert warehouse.query("select * from dev_ada.churn_risk_rose order by all") == theirs
    built = "select table_name from information_schema.tables where table_schema = 'dev_ada'"
    assert ("churn_scores_daily",) not in warehouse.query(built)


def test_every_model_and_column_is_described(warehouse: Warehouse) -> None:
    nodes = described(warehouse.manifest())
    assert nodes
    for node in nodes:
        assert GRAIN in node.description, f"{node.name}: say the grain, 'One row per …'"
        assert node.columns, f"{node.name}: list its columns"
        for column in node.columns.values():
            assert column.description, f"{node.name}.{column.name}: describe it"
            assert column.data_type, f"{node.name}.{column.name}: give its type"


def test_every_model_keeps_a_contract_and_has_an_owner(warehouse: Warehouse) -> None:
    for node in described(warehouse.manifest()):
        if node.resource_type.value == "model":
            assert node.config.contract.enforced, f"{node.name}: its contract is off"
            assert node.config.group, f"{node.name}: nobody owns it"


def test_personal_columns_are_tagged(warehouse: Warehouse) -> None:
    personal = {
        "email", "to_email", "phone", "customer_name", "requester_email", "ip", "page_url",
        "page_referrer", "user_agent", "id_value", "properties", "traits",
    }  # fmt: skip
    for node in described(warehouse.manifest()):
        for column in node.columns.values():
            if column.name in personal:
                assert column.config.meta.get("pii"), f"{node.name}.{column.name}: tag it pii"


def test_each_sync_model_declares_where_it_goes(warehouse: Warehouse) -> None:
    for node in described(warehouse.manifest()):
        if node.name.startswith("sync_") and "__" in node.name:
            sync = node.config.meta["sync"]
            assert node.name.startswith(f"sync_{sync['destination']}__")
            assert sync["key"] in node.columns
