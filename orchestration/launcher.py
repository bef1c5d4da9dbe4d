"""Dagster's run launcher: a worker of the warm process or, without one, Dagster's own way."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import psutil
from dagster import DagsterRun
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.storage.tags import HIDDEN_TAG_PREFIX

from orchestration import warm
from orchestration.settings import load_settings

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
        pid = _warm_pid(run)
        if pid is None:
            # Dagster's own way of starting a run leaves nothing to look at, and monitoring would
            # take anything but this for a failure.
            return CheckRunHealthResult(WorkerStatus.RUNNING, "started the stock way, not watched")
        alive = psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        if alive:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"process {pid} is gone")


def _warm_pid(run: DagsterRun) -> int | None:
    pid = run.tags.get(WARM_PID_TAG)
    return int(pid) if pid else None
