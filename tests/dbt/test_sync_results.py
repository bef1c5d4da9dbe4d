"""What analysts see of the ledger: masked, kept up to date by what changed."""

from __future__ import annotations

import json
from typing import Any

from dbt_warehouse import Warehouse

CONTACT = json.dumps({"email": "ada@example.com", "churn_score": 0.4, "churn_band": "low"})


def act(warehouse: Warehouse, key: str, state: str, at: str, payload: str | None) -> None:
    with warehouse.connect() as connection:
        connection.execute("delete from ledger.actions where action_key = $key", {"key": key})
        connection.execute(
            "insert into ledger.actions by name select $key as action_key,"
            " 'hubspot__customer_health' as sync, 'upsert' as mode, $state as state,"
            " 1 as attempts, cast($at as timestamptz) as created_at,"
            " cast($at as timestamptz) as updated_at, $payload as payload",
            {"key": key, "state": state, "at": at, "payload": payload},
        )
        connection.execute(
            "insert into ledger.attempts by name select count(*) + 1 as attempt_id,"
            " $key as action_key, 'delivered' as outcome from ledger.attempts",
            {"key": key},
        )


def test_results_follow_the_ledger_without_personal_values(warehouse: Warehouse) -> None:
    def run(*args: str) -> Any:
        warehouse.dbt("run", "--select", "sync_results", "sync_attempts", *args)
        return warehouse.query("select action_key, state, payload from sync_results order by all")

    act(warehouse, "a", "planned", "2026-01-01 10:00", CONTACT)
    act(warehouse, "b", "expired", "2026-01-01 10:00", None)
    run()
    act(warehouse, "a", "delivered", "2026-01-02 10:00", CONTACT)
    # Committed late: its transaction began before the one that was seen already.
    act(warehouse, "c", "planned", "2026-01-02 09:55", CONTACT)
    rows = run()
    assert [row[:2] for row in rows] == [("a", "delivered"), ("b", "expired"), ("c", "planned")]
    masked = json.loads(str(rows[0][2]))
    assert masked["email"] == "‹email›"
    assert (masked["churn_score"], masked["churn_band"]) == (0.4, "low")
    assert rows[1][2] is None
    assert "ada@" not in str(warehouse.table("sync_results"))
    assert warehouse.query("select count(*), count(distinct attempt_id) from sync_attempts") == [
        (4, 4)
    ]
    assert run("--full-refresh") == rows
