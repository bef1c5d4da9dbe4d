"""The lane as a process: wired to this home, following the lake, reporting, until it is stopped."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

from orchestration import activate, dbt, ingest, lake, warehouse
from orchestration.hot import project as projects
from orchestration.hot.history import History, too_large
from orchestration.hot.lane import BROKER_POLL_SECONDS, FOLLOW_SECONDS, POLL_SECONDS, Lane
from orchestration.hot.project import IDENTITY, STAGING
from orchestration.hot.reporting import Latencies, Reporter
from orchestration.hot.sender import Sender
from orchestration.hot.window import Window
from orchestration.settings import Settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from orchestration.hot.project import Project

log = logging.getLogger("signalbox.hot")


def serve(settings: Settings, stop: threading.Event) -> None:
    """Run the lane until `stop` is set.

    Raises:
        HotError: the project cannot run hot, or the log no longer has what follows the last build.
    """
    # Before Polars is imported: its threads would be woken for work that is done before they come.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    warehouse.ensure(settings)
    project = projects.load(settings)
    for name, reason in too_large(settings, project).items():
        project = project.without(name, reason)
    for name, reason in project.refused.items():
        log.warning("%s does not run hot: it %s", name, reason)
    pusher = activate.pusher(settings)
    pusher.ledger.recover()
    specs = projects.specs(project, dbt.manifest(settings))
    with (
        closing(_history(settings, project)) as history,
        closing(
            Window(
                project,
                history,
                max_rows=settings.hot_window_rows,
                known=ingest.known_messages(settings),
            )
        ) as window,
    ):
        facts = activate.facts(settings, window.cursor, schema="facts")
        latencies = Latencies()
        reporter = Reporter(settings, latencies)
        reporter.prepare()
        senders = {spec.name: Sender(pusher, spec, facts, latencies.note) for spec in specs}
        lane = Lane(project, specs, history, window, ingest.open_reader(settings), senders)
        try:
            lane.start()
            # What is here now stays: to look through it for garbage stops all threads for 0.3 s.
            gc.collect()
            gc.freeze()
            log.info("the hot lane stands at log_seq %s", lane.position)
            # The end of a topic is asked for over the network.
            poll = BROKER_POLL_SECONDS if settings.log_url else POLL_SECONDS
            _run(lane, senders, reporter, stop, poll)
        finally:
            for sender in senders.values():
                sender.close()


def _run(
    lane: Lane,
    senders: dict[str, Sender],
    reporter: Reporter,
    stop: threading.Event,
    poll: float,
) -> None:
    beside = [
        threading.Thread(target=_follow, args=(lane, stop), name="hot follow", daemon=True),
        threading.Thread(
            target=reporter.run, args=(lane, senders, stop), name="hot report", daemon=True
        ),
    ]
    for thread in beside:
        thread.start()
    try:
        while not stop.is_set():
            if not lane.turn():
                time.sleep(poll)
    finally:
        stop.set()
        for thread in beside:
            thread.join(FOLLOW_SECONDS)


def _follow(lane: Lane, stop: threading.Event) -> None:
    while not stop.wait(FOLLOW_SECONDS):
        try:
            lane.follow()
        except Exception as error:
            # The lane goes on with what it has; what it holds grows until the lake is back.
            log.warning("the lake cannot be followed: %s", str(error).partition("\n")[0])


def _history(settings: Settings, project: Project) -> History:
    def connect() -> DuckDBPyConnection:
        return lake.connect(settings)

    def generation(connection: DuckDBPyConnection) -> str:
        return lake.generation(connection, (STAGING, IDENTITY))

    return History(settings.home / "hot", connect, project, generation=generation)
