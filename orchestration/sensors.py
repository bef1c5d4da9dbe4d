"""Sensors and schedules: something has happened, something has fallen due, a day has passed."""

from __future__ import annotations

import json
import time

from dagster import (
    DagsterInstance,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    RunRecord,
    RunRequest,
    RunsFilter,
    ScheduleDefinition,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES

from orchestration import due, ingest, jobs
from orchestration.assets import syncs
from orchestration.settings import Settings, load_settings
from orchestration.supervisor import port_answers

# An evaluation that waits for news starts the run the moment there are some, and one that waits
# longer than a turn of Dagster's loop leaves no time between two turns in which nobody listens.
LISTEN_SECONDS = 6.0
POLL_SECONDS = 0.1  # of the log: a few bytes are read
WATCH_SECONDS = 0.2  # of the run under way: one row
ASK_SECONDS = 0.5  # of the lake: a query, on a machine that has work to do
RETRY_SECONDS = (5, 15, 60, 300)


@sensor(
    job_name=jobs.MICRO_BATCH,
    minimum_interval_seconds=1,
    default_status=DefaultSensorStatus.RUNNING,
    description="Starts a micro-batch when the log has grown or a waiting signal has fallen due.",
)
def new_events(context: SensorEvaluationContext) -> SensorResult | SkipReason:
    """One run for all that is new.

    The run key names the log's end (or the due moment), so that the same news never starts two
    runs; while a run loads and builds none is started, and the next one takes all that came since.
    While a run acts, the next one may load and build: it waits before it acts itself.
    The cursor holds the `log_seq` last asked for and how many runs failed since the last good one.
    """
    settings = load_settings()
    cursor = json.loads(context.cursor) if context.cursor else {"log_seq": 0, "failures": 0}
    deadline = time.monotonic() + LISTEN_SECONDS
    while (
        (last := _last(context.instance, jobs.MICRO_BATCH))
        and _under_way(last)
        and syncs.ACTS_TAG not in last.dagster_run.tags
    ):
        if time.monotonic() > deadline:
            return SkipReason("The last micro-batch is still running; the next takes the rest.")
        time.sleep(WATCH_SECONDS)

    reader = ingest.open_reader(settings)
    if last and last.dagster_run.is_failure_or_canceled:
        pause = RETRY_SECONDS[min(cursor["failures"], len(RETRY_SECONDS) - 1)]
        left = (last.end_time or 0) + pause - time.time()
        if left > 0:
            return SkipReason(f"The last micro-batch failed; trying again in {left:.0f} s.")
        key = f"after-failed-{last.dagster_run.run_id}"
        return _request(key, reader.end(), cursor["failures"] + 1)

    position = ingest.loader(settings).position()
    asked = 0.0
    while True:
        if (end := reader.end()) > position:
            return _request(f"log_seq-{end}", end, 0)
        if time.monotonic() - asked > ASK_SECONDS:
            asked = time.monotonic()
            if moment := due.fallen_due(settings):
                return _request(f"due-{moment.isoformat()}", end, 0)
        if time.monotonic() > deadline:
            return SkipReason(f"Nothing new: the warehouse holds all {end:,} records of the log.")
        time.sleep(POLL_SECONDS)


@sensor(
    job_name=jobs.DELIVER,
    minimum_interval_seconds=5,
    default_status=DefaultSensorStatus.RUNNING,
    description="Sends again what a destination could not take, once its waiting time is over.",
)
def due_deliveries(context: SensorEvaluationContext) -> SensorResult | SkipReason:
    """Asks the ledger; leaves it to a micro-batch under way, which sends what is due as well."""
    runs = {job: _last(context.instance, job) for job in (jobs.MICRO_BATCH, jobs.DELIVER)}
    for job, last in runs.items():
        if last and _under_way(last):
            return SkipReason(f"{job} is running and sends what is due.")
    if not due.deliveries(load_settings()):
        return SkipReason("No delivery is due.")
    last = runs[jobs.DELIVER]
    key = f"after-{last.dagster_run.run_id}" if last else "first"
    return SensorResult(run_requests=[RunRequest(run_key=key)])


def build_source_sensor(settings: Settings) -> SensorDefinition:
    """Reads the sources that are tables every `SIGNALBOX_SOURCE_REFRESH_SECONDS`."""

    @sensor(
        name="refresh_sources",
        job_name=jobs.SOURCES,
        minimum_interval_seconds=int(settings.source_refresh_seconds),
        default_status=DefaultSensorStatus.RUNNING,
        description="Reads CRM, help desk and the like at the interval of the settings.",
    )
    def refresh_sources(context: SensorEvaluationContext) -> RunRequest | SkipReason:
        with_sandbox = port_answers(settings.host, settings.sandbox_port)
        if not ingest.refreshable(settings, with_sandbox=with_sandbox):
            return SkipReason(
                "No source's API is set (SIGNALBOX_CRM_URL …), and the sandbox does not run."
            )
        last = _last(context.instance, jobs.SOURCES)
        if last and _under_way(last):
            return SkipReason("The last refresh is still running.")
        return RunRequest()

    return refresh_sources


SCHEDULES = [
    ScheduleDefinition(
        name="daily_check",
        job_name=jobs.DAILY,
        cron_schedule="5 0 * * *",
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
        description="Builds and tests everything, also what a micro-batch leaves out.",
    ),
    ScheduleDefinition(
        name="training",
        job_name=jobs.TRAINING,
        cron_schedule="35 0 * * *",
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
        description="Trains the models that learn, after the daily build.",
    ),
    ScheduleDefinition(
        name="sync_results",
        job_name=jobs.RESULTS,
        cron_schedule="* * * * *",
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
        description="Brings the ledger's outcomes into the lake once a minute.",
    ),
    ScheduleDefinition(
        name="lake_maintenance",
        job_name=jobs.MAINTENANCE,
        # A batch leaves a file in each table, and each file makes every reading 0.3 ms dearer.
        cron_schedule="*/5 * * * *",
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
        description="Merges the small files of the micro-batches and drops old snapshots.",
    ),
]


def _last(instance: DagsterInstance, job_name: str) -> RunRecord | None:
    records = instance.get_run_records(RunsFilter(job_name=job_name), limit=1)
    return records[0] if records else None


def _under_way(record: RunRecord) -> bool:
    return record.dagster_run.status in IN_PROGRESS_RUN_STATUSES


def _request(key: str, log_seq: int, failures: int) -> SensorResult:
    return SensorResult(
        run_requests=[RunRequest(run_key=key, tags={"signalbox/log_seq": str(log_seq)})],
        cursor=json.dumps({"log_seq": log_seq, "failures": failures}),
    )
