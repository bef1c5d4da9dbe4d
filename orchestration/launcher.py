"""Dagster's run launcher: a worker of the warm process or, without one, Dagster's own way."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress

import psutil
from dagster import DagsterEventType, DagsterRun
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.storage.tags import HIDDEN_TAG_PREFIX

from orchestration import warm
from orchestration.settings import load_settings

#: What Dagster has a run say first of all, however it was started.
STARTED = re.compile(r".*Started process for run \(pid: (\d+)\)", re.DOTALL)
WARM_PID_TAG = f"{HIDDEN_TAG_PREFIX}signalbox_warm_pid"


class WarmRunLauncher(DefaultRunLauncher):
    """Named in dagster.yaml. The run, its logs and its end look in the UI like any other."""

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        try:
            pid = warm.request(load_settings(), run.run_id)
        except OSError as error:
            self._instance.report_engine_event(
                f"No warm process ({error}); starting one the stock way.", run
            )
            super().launch_run(context)
            return
        self._instance.add_run_tags(run.run_id, {WARM_PID_TAG: str(pid)})

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        pid = _warm_pid(run)
        if pid is None:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        self._instance.report_run_canceling(run)
        with suppress(OSError):
            if warm.terminate(load_settings(), run_id, pid):
                return True
        # The warm process that had this worker is gone, so it gets no other run: no mistake.
        try:
            os.kill(pid, signal.SIGINT)
        except ProcessLookupError:
            self._instance.report_run_canceled(run, message="The run's process was already gone.")
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's process lives, also of one that was started the stock way.

        Dagster itself watches no such run: killed along with its code server it would be under way
        for good, and the next micro-batch would wait for it.
        """
        pid = _warm_pid(run) or self._stock_pid(run)
        if pid is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "it has not said its process yet")
        record = self._instance.get_run_record_by_id(run.run_id)
        began = record.start_time if record else None
        if _lives(pid, began):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"process {pid} is gone")

    def _stock_pid(self, run: DagsterRun) -> int | None:
        said = self._instance.get_records_for_run(
            run.run_id, of_type=DagsterEventType.ENGINE_EVENT
        ).records
        for record in reversed(said):
            if found := STARTED.match(record.event_log_entry.message):
                return int(found[1])
        return None


def _lives(pid: int, began: float | None) -> bool:
    """Whether a process lives that had this pid when a run began, seconds since 1970."""
    try:
        process = psutil.Process(pid)
        # A pid is given again, after a restart of the machine at the latest.
        same = began is None or process.create_time() <= began + 1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _warm_pid(run: DagsterRun) -> int | None:
    pid = run.tags.get(WARM_PID_TAG)
    return int(pid) if pid else None
