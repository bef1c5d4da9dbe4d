"""Dagster's storage in a standing process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from dagster import (
    AssetCheckKey,
    AssetCheckResult,
    AssetCheckSpec,
    AssetKey,
    AssetSpec,
    DagsterInstance,
    DagsterRunStatus,
    MaterializeResult,
    RunsFilter,
    job,
    materialize,
    multi_asset,
    op,
)
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from sqlalchemy import text

from orchestration import postgres
from orchestration.settings import ROOT, Settings


@op
def nothing() -> None: ...


@job
def empty() -> None:
    nothing()


def test_a_standing_process_keeps_its_connections(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(postgres.KEEP_CONNECTIONS, "1")
    servers = set()
    for round_number in range(3):  # as for each tick of a sensor
        instance = DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT)))
        instance.create_run_for_job(empty, status=DagsterRunStatus.SUCCESS)
        assert len(instance.get_run_records(RunsFilter(job_name="empty"))) == round_number + 1
        for part in (instance.run_storage, instance.event_log_storage):
            with part._engine.connect() as connection:  # type: ignore[attr-defined]
                servers.add(connection.scalar(text("select pg_backend_pid()")))
    assert len(servers) == 1


@multi_asset(
    specs=[AssetSpec("first"), AssetSpec("second", deps=["first"])],
    check_specs=[AssetCheckSpec("holds", asset="first")],
)
def both() -> Iterator[MaterializeResult[None] | AssetCheckResult]:
    yield MaterializeResult(asset_key="first", metadata={"rows": 3})
    yield MaterializeResult(asset_key="second")
    yield AssetCheckResult(asset_key="first", check_name="holds", passed=True)


def test_events_stored_together_tell_the_same_as_one_by_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT)))
    events: Any = instance.event_log_storage
    told = {}
    for gather, size in ((False, "0"), (True, "1000")):
        events.gather = gather
        monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", size)
        run = materialize([both], instance=instance)
        told[gather] = [
            (entry.dagster_event.event_type_value, entry.dagster_event.asset_key)
            for entry in instance.all_logs(run.run_id)
            if entry.dagster_event is not None
        ]
        newest = {
            name: instance.get_latest_materialization_event(AssetKey(name))
            for name in ("first", "second")
        }
        assert all(entry is not None and entry.run_id == run.run_id for entry in newest.values())
        (of_first,) = instance.get_asset_records([AssetKey("first")])
        materialized = of_first.asset_entry.last_materialization_record
        assert materialized is not None
        (checked,) = instance.event_log_storage.get_asset_check_execution_history(
            AssetCheckKey(AssetKey("first"), "holds"), limit=1
        )
        assert checked.run_id == run.run_id
        assert checked.status == AssetCheckExecutionRecordStatus.SUCCEEDED
        # What a check is about, and what an asset was made from, is what this run stored just now.
        assert checked.event is not None and checked.event.dagster_event is not None
        target = checked.event.dagster_event.asset_check_evaluation_data.target_materialization_data
        assert target is not None and target.storage_id == materialized.storage_id
        made_of = newest["second"].tags if newest["second"] else {}
        assert made_of["dagster/input_event_pointer/first"] == str(materialized.storage_id)
    assert told[True] == told[False]


def test_what_a_failed_step_had_told_is_kept(settings: Settings) -> None:
    instance = DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT)))
    events: Any = instance.event_log_storage
    events.gather = True

    @multi_asset(specs=[AssetSpec("made"), AssetSpec("not_made")])
    def half() -> Iterator[MaterializeResult[None]]:
        yield MaterializeResult(asset_key="made")
        raise ValueError("the other half")

    run = materialize([half], instance=instance, raise_on_error=False)
    kinds = [
        entry.dagster_event.event_type_value
        for entry in instance.all_logs(run.run_id)
        if entry.dagster_event is not None
    ]
    assert kinds.index("ASSET_MATERIALIZATION") < kinds.index("STEP_FAILURE")
    assert kinds[-1] == "PIPELINE_FAILURE"
