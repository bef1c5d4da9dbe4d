"""The sensors' cursors and run keys, against a real log and lake: first, nothing new, some new."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    SensorResult,
    SkipReason,
    build_sensor_context,
    job,
    op,
)

from ingestion.contract import Contracts
from ingestion.envelope import Arrival, encode_record, to_record
from ingestion.log import EventLog
from orchestration import due, ingest, jobs, sensors, warehouse
from orchestration.assets.syncs import take_turn
from orchestration.settings import Settings


@pytest.fixture
def instance(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    monkeypatch.setattr(sensors, "LISTEN_SECONDS", 0.0)
    warehouse.ensure(settings)
    with DagsterInstance.ephemeral() as instance:
        yield instance


def accept(settings: Settings, count: int) -> int:
    """Put messages into the log as the collector does; returns its end."""
    contracts = Contracts.load()
    arrival = Arrival("web", datetime.now(UTC))
    with EventLog(settings.log_dir) as log:
        for number in range(count):
            message = f'{{"type":"identify","userId":"u{number}","messageId":"m{log.end()}"}}'
            record = to_record(message.encode(), arrival, contracts)
            log.append([encode_record(record)])
        return log.end()


def evaluate(instance: DagsterInstance, cursor: str | None) -> SensorResult | SkipReason:
    context = build_sensor_context(instance=instance, cursor=cursor)
    result = sensors.new_events(context)
    assert isinstance(result, SensorResult | SkipReason)
    return result


def started(result: SensorResult | SkipReason) -> str:
    assert isinstance(result, SensorResult)
    assert result.run_requests is not None
    (request,) = result.run_requests
    assert request.run_key is not None
    return request.run_key


def record_run(instance: DagsterInstance, status: DagsterRunStatus) -> DagsterRun:
    @op
    def nothing() -> None: ...

    @job(name=jobs.MICRO_BATCH)
    def micro_batch() -> None:
        nothing()

    run = instance.create_run_for_job(micro_batch, status=DagsterRunStatus.STARTED)
    if status == DagsterRunStatus.FAILURE:
        instance.report_run_failed(run)
    return run


def test_first_nothing_new_some_new_all_new(settings: Settings, instance: DagsterInstance) -> None:
    assert isinstance(evaluate(instance, None), SkipReason)

    end = accept(settings, 3)
    first = evaluate(instance, None)
    assert started(first) == f"log_seq-{end}"
    assert isinstance(first, SensorResult)
    # Until a run has loaded it, the same news has the same key: Dagster starts one run for it.
    assert started(evaluate(instance, first.cursor)) == f"log_seq-{end}"

    ingest.loader(settings).load(max_records=2)
    assert started(evaluate(instance, first.cursor)) == f"log_seq-{end}"

    ingest.loader(settings).load()
    assert isinstance(evaluate(instance, first.cursor), SkipReason)

    more = accept(settings, 1)
    assert started(evaluate(instance, first.cursor)) == f"log_seq-{more}"


def test_no_second_run_while_one_is_under_way(
    settings: Settings, instance: DagsterInstance
) -> None:
    accept(settings, 1)
    record_run(instance, DagsterRunStatus.STARTED)
    skipped = evaluate(instance, None)
    assert isinstance(skipped, SkipReason)
    assert "still running" in (skipped.skip_message or "")


def test_while_a_run_acts_the_next_one_begins_and_waits_for_its_turn(
    settings: Settings, instance: DagsterInstance
) -> None:
    end = accept(settings, 1)
    first = record_run(instance, DagsterRunStatus.STARTED)
    take_turn(instance, first)
    assert started(evaluate(instance, None)) == f"log_seq-{end}"

    second = record_run(instance, DagsterRunStatus.STARTED)
    assert isinstance(evaluate(instance, None), SkipReason), "the second one does not act yet"
    waiting = threading.Thread(target=take_turn, args=(instance, second))
    waiting.start()
    waiting.join(timeout=1.0)
    assert waiting.is_alive()
    instance.report_run_failed(first)  # however it ends
    waiting.join(timeout=30.0)
    assert not waiting.is_alive()
    assert started(evaluate(instance, None)) == f"log_seq-{end}"


def test_a_failed_run_is_repeated_after_a_pause(
    settings: Settings, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(settings, 1)
    record_run(instance, DagsterRunStatus.FAILURE)
    skipped = evaluate(instance, None)
    assert isinstance(skipped, SkipReason)
    assert "trying again in" in (skipped.skip_message or "")
    monkeypatch.setattr(sensors, "RETRY_SECONDS", (0,))
    repeated = evaluate(instance, None)
    assert started(repeated).startswith("after-failed-")
    assert isinstance(repeated, SensorResult)
    assert '"failures": 1' in (repeated.cursor or "")


def test_a_signal_that_falls_due_starts_a_run_without_news(
    settings: Settings, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest.loader(settings).load()
    moment = datetime(2026, 5, 1, 12, tzinfo=UTC)
    monkeypatch.setattr(due, "fallen_due", lambda _: moment)
    assert started(evaluate(instance, None)) == f"due-{moment.isoformat()}"
