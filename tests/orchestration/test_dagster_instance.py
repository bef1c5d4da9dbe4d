"""Dagster's storage in a standing process."""

from __future__ import annotations

import pytest
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter, job, op
from dagster._core.instance.ref import InstanceRef
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
