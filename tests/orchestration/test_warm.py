"""The warm process and its workers: what they keep, when they go, and what happens without them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance, DagsterRunStatus, job, op
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.launcher import DefaultRunLauncher, WorkerStatus
from dagster._core.launcher.base import LaunchRunContext

from orchestration import warm
from orchestration.launcher import WARM_PID_TAG, WarmRunLauncher
from orchestration.settings import Settings

# The real server and workers with a light body in place of Dagster's, so that the protocol and
# the processes are tested without a minute of imports. A run's id says how it goes.
SERVER = """
import os, sys, time
from orchestration import warm
from orchestration.settings import load_settings
kept = []
def execute(run_id):
    open(sys.argv[1], "a").write(f"{run_id} {os.getpid()} {os.getppid()}\\n")
    if run_id.startswith("crash"):
        os.abort()
    if run_id.startswith("grow"):
        kept.append(b"x" * 50_000_000)
    if run_id.startswith("long"):
        time.sleep(60)
    return not run_id.startswith("fail")
warm._import_everything = lambda settings: None
warm._connect = lambda: None
warm._prepare = lambda settings: None
warm._execute = execute
warm.WORKER_GROWTH_BYTES = 40_000_000
warm.WORKER_SECONDS = float(sys.argv[2])
warm.serve(load_settings())
"""


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(200):
        if condition():
            return
        waiting.wait(0.05)
    raise AssertionError("it did not happen within 10 s")


def gone(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


class Server:
    """The warm process and its record of runs: each run's id, its worker, the worker's parent."""

    def __init__(self, settings: Settings, record: Path, worker_seconds: float = 600) -> None:
        self.settings = settings
        self.record = record
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(record), str(worker_seconds)]
        )
        self._requested = 0
        until(lambda: warm.answers(settings))

    def runs(self) -> list[list[str]]:
        text = self.record.read_text() if self.record.exists() else ""
        return [line.split() for line in text.splitlines()]

    def request(self, kind: str = "good") -> int:
        """Ask for a run and wait until it has begun; returns its worker."""
        self._requested += 1
        run_id = f"{kind}{self._requested}"
        pid = warm.request(self.settings, run_id)
        until(lambda: [run_id, str(pid), str(self.process.pid)] in self.runs())
        return pid

    def stop(self) -> None:
        workers = psutil.Process(self.process.pid).children()
        self.process.kill()
        self.process.wait()
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.kill()


@pytest.fixture
def server(settings: Settings, tmp_path: Path) -> Iterator[Server]:
    server = Server(settings, tmp_path / "runs")
    yield server
    if server.process.poll() is None:
        server.stop()


def test_a_worker_takes_one_run_after_another(server: Server) -> None:
    first = server.request()
    until(lambda: server.request() == first)


def test_runs_at_the_same_time_have_workers_of_their_own(server: Server) -> None:
    assert len({server.request("long") for _ in range(3)}) == 3


@pytest.mark.parametrize("kind", ["fail", "grow", "crash"])
def test_a_worker_goes_after_such_a_run_and_the_next_run_has_another(
    server: Server, kind: str
) -> None:
    worker = server.request(kind)
    until(lambda: gone(worker))
    assert server.request() != worker


def test_an_old_worker_is_replaced(settings: Settings, tmp_path: Path) -> None:
    server = Server(settings, tmp_path / "runs", worker_seconds=0)
    try:
        worker = server.request()
        until(lambda: gone(worker))
        assert server.request() != worker
    finally:
        server.stop()


def test_a_rude_client_does_not_stop_it(settings: Settings, server: Server) -> None:
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(str(warm.socket_path(settings)))
        rude.sendall(b"not json")
    server.request()


def test_termination_ends_the_run_it_names_and_no_other(settings: Settings, server: Server) -> None:
    worker = server.request("long")
    assert warm.terminate(settings, "another", worker)
    assert not gone(worker)
    assert warm.terminate(settings, "long1", worker)
    until(lambda: gone(worker))
    assert not warm.terminate(settings, "long1", worker)
    assert server.request() != worker


def test_a_worker_outlives_the_warm_process_only_until_its_run_ends(server: Server) -> None:
    busy = server.request("long")
    idle = {child.pid for child in psutil.Process(server.process.pid).children()} - {busy}
    server.process.kill()
    server.process.wait()
    until(lambda: all(gone(worker) for worker in idle))
    assert not gone(busy)
    os.kill(busy, signal.SIGINT)  # as the launcher does when there is no warm process to ask
    until(lambda: gone(busy))


def test_it_leaves_no_socket_behind(settings: Settings, server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=10) == 0
    with pytest.raises(OSError, match="No such file"):
        warm.request(settings, "late")


@pytest.mark.parametrize("others", [None, "junk"])
def test_without_its_socket_it_ends_so_that_another_can_begin(
    settings: Settings, server: Server, others: str | None
) -> None:
    busy = server.request("long")
    path = warm.socket_path(settings)
    path.unlink()
    if others:
        path.write_text(others)
    until(lambda: not gone(busy) and not warm.answers(settings))
    warm_process = psutil.Process(server.process.pid)
    until(lambda: {child.pid for child in warm_process.children()} == {busy})
    os.kill(busy, signal.SIGINT)
    assert server.process.wait(timeout=10) == 0
    assert path.exists() == bool(others), "what is there now is not its own"
    path.unlink(missing_ok=True)


def test_sockets_are_in_the_home_or_in_a_directory_of_ones_own(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(tempfile.gettempdir()) / "sbx"
    short = settings.model_copy(update={"home": home})
    assert warm.socket_path(short) == home / "run" / "warm.sock"
    runtime = Path(tempfile.mkdtemp(prefix="sbx-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    deep = settings.model_copy(update={"home": tmp_path / ("deep" * 30)})
    path = warm.socket_path(deep)
    assert path.parent.parent == runtime and path.parent.stat().st_mode & 0o777 == 0o700
    assert path != warm.socket_path(deep, "code")
    path.parent.chmod(0o777)
    with pytest.raises(warm.PrivateDirectoryTaken, match="only you can open"):
        warm.socket_path(deep)
    shutil.rmtree(runtime)


@pytest.fixture
def launched() -> Iterator[tuple[DagsterInstance, WarmRunLauncher, str]]:
    """An instance with a run that a worker of pid 2**22 is said to execute, which is never one."""

    @op
    def nothing() -> None: ...

    @job
    def empty() -> None:
        nothing()

    with DagsterInstance.ephemeral() as instance:
        launcher = WarmRunLauncher()
        launcher.register_instance(instance)
        run = instance.create_run_for_job(
            empty, status=DagsterRunStatus.STARTED, tags={WARM_PID_TAG: str(2**22)}
        )
        yield instance, launcher, run.run_id


def test_a_run_whose_worker_is_gone_is_found_failed_and_can_be_terminated(
    settings: Settings, launched: tuple[DagsterInstance, WarmRunLauncher, str]
) -> None:
    instance, launcher, run_id = launched
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert launcher.check_run_worker_health(run).status == WorkerStatus.FAILED
    assert launcher.terminate(run_id)
    ended = instance.get_run_by_id(run_id)
    assert ended is not None and ended.status == DagsterRunStatus.CANCELED
    assert not launcher.terminate(run_id)


def test_without_a_warm_process_the_stock_launcher_takes_the_run(
    settings: Settings,
    launched: tuple[DagsterInstance, WarmRunLauncher, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    instance, launcher, run_id = launched
    run = instance.get_run_by_id(run_id)
    assert run is not None
    taken: list[str] = []
    monkeypatch.setattr(
        DefaultRunLauncher,
        "launch_run",
        lambda _, context: taken.append(context.dagster_run.run_id),
    )
    launcher.launch_run(LaunchRunContext(run, workspace=None))
    assert taken == [run_id]
    said = [entry.message for entry in instance.all_logs(run_id)]
    assert any("No warm process" in message for message in said)


def test_a_run_that_was_started_the_stock_way_is_watched_too(
    launched: tuple[DagsterInstance, WarmRunLauncher, str],
) -> None:
    instance, launcher, _ = launched

    @job
    def empty() -> None: ...

    run = instance.create_run_for_job(empty, status=DagsterRunStatus.STARTING)
    assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        instance.report_engine_event(
            f"Started process for run (pid: {process.pid}).",
            run,
            EngineEventData.in_process(process.pid),
        )
        assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
        process.kill()
    assert launcher.check_run_worker_health(run).status == WorkerStatus.FAILED


def test_another_process_under_the_pid_of_a_run_is_not_its_worker(
    launched: tuple[DagsterInstance, WarmRunLauncher, str],
) -> None:
    instance, launcher, _ = launched

    @job
    def empty() -> None: ...

    tags = {WARM_PID_TAG: str(os.getpid())}
    run = instance.create_run_for_job(empty, status=DagsterRunStatus.STARTING, tags=tags)
    began = psutil.Process().create_time() - 60
    start = DagsterEvent(event_type_value="PIPELINE_START", job_name=run.job_name)
    instance.report_dagster_event(start, run_id=run.run_id, timestamp=began)
    assert launcher.check_run_worker_health(run).status == WorkerStatus.FAILED
