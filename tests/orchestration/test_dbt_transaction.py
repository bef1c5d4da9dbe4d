"""A micro-batch's dbt run is one snapshot of the lake, or none."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ingestion.contract import Contracts
from ingestion.envelope import Arrival, encode_record, to_record
from ingestion.log import EventLog
from orchestration import dbt, ingest, lake, warehouse
from orchestration.settings import Settings

MODELS = ["run", "--select", "stg_events", "identity_edges"]


def accept(settings: Settings, user: str) -> None:
    message = f'{{"type":"identify","userId":"{user}","anonymousId":"a","messageId":"{user}"}}'
    record = to_record(message.encode(), Arrival("web", datetime.now(UTC)), Contracts.load())
    with EventLog(settings.log_dir) as log:
        log.append([encode_record(record)])
    ingest.loader(settings).load()


def snapshots_and_events(settings: Settings) -> tuple[int, int]:
    with lake.connect(settings) as connection:
        row = connection.execute(
            "select (select max(snapshot_id) from lake.snapshots()), count(*) from stg_events"
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def test_a_run_is_one_snapshot_and_a_failed_one_leaves_no_trace(settings: Settings) -> None:
    warehouse.ensure(settings)
    with lake.writer(settings, "test"):
        accept(settings, "u1")
        dbt.invoke(
            ["build", "--select", "+identity_edges", "--exclude-resource-type", "test"], settings
        )

        accept(settings, "u2")
        before, events = snapshots_and_events(settings)
        dbt.invoke(MODELS, settings, whole=True)
        assert snapshots_and_events(settings) == (before + 1, events + 1)
        dbt.invoke(MODELS, settings, whole=True)
        assert snapshots_and_events(settings) == (before + 2, events + 1)

        accept(settings, "u3")
        with lake.connect(settings, read_only=False) as connection:
            connection.execute("alter table identity_edges rename column evidence to proof")
        before = snapshots_and_events(settings)
        with pytest.raises(dbt.DbtFailed, match="identity_edges"):
            dbt.invoke(MODELS, settings, whole=True)
        assert snapshots_and_events(settings) == before

        with lake.connect(settings, read_only=False) as connection:
            connection.execute("alter table identity_edges rename column proof to evidence")
        dbt.invoke(MODELS, settings, whole=True)
        assert snapshots_and_events(settings)[1] == before[1] + 1


def test_a_command_that_comes_again_selects_and_builds_the_same(settings: Settings) -> None:
    warehouse.ensure(settings)
    dbt.warm_up(settings)
    built: dict[str, list[list[str]]] = {}

    def build(*names: str) -> None:
        nodes: list[str] = []
        dbt.invoke(
            ["build", "--select", *names, "--exclude-resource-type", "unit_test"],
            settings,
            whole=True,
            on_event=lambda event: (
                nodes.append(event["data"]["node_info"]["node_name"])
                if event["info"]["name"] in ("LogModelResult", "LogTestResult")
                else None
            ),
        )
        built.setdefault(" ".join(names), []).append(nodes)

    with lake.writer(settings, "test"):
        accept(settings, "again 0")
        dbt.invoke(
            ["build", "--select", "+identity_edges", "--exclude-resource-type", "test"], settings
        )
        _, events = snapshots_and_events(settings)
        for number in range(1, 4):
            accept(settings, f"again {number}")
            build("stg_events", "identity_edges")
            build("stg_events")
            assert snapshots_and_events(settings)[1] == events + number
    assert set(built) == {"stg_events identity_edges", "stg_events"}
    for first, *others in built.values():
        assert others == [first, first]
    assert "identity_edges" in built["stg_events identity_edges"][0]
    assert "identity_edges" not in built["stg_events"][0]
