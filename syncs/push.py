"""Running syncs: plan, record, send; several destinations side by side."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
from sqlalchemy.exc import SQLAlchemyError

from syncs import destinations
from syncs.destinations import Destination, Sandbox
from syncs.facts import ReadFacts
from syncs.http import Http
from syncs.ledger import Ledger, SyncBusy
from syncs.pacing import Lane
from syncs.plan import KNOWN_CONTACTS, Plan, plan_sync
from syncs.policies import Cap
from syncs.preview import preview_of
from syncs.report import SyncReport
from syncs.results import HttpClient, SyncError, Target
from syncs.rules import Paused, Rules
from syncs.sending import Pace, Progress, Run, log, repeatable
from syncs.spec import SyncSpec


class Pusher:
    """Runs syncs. Keep one per process: it reuses connections.

    `sandbox` is where destinations without credentials deliver. `channel_caps` limit what one
    customer gets of all syncs on a channel together.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        sandbox: Sandbox,
        env_file: Path | None = Path(".env"),
        http: HttpClient | None = None,
        pace: Pace | None = None,
        channel_caps: Mapping[str, Cap] | None = None,
    ) -> None:
        self._ledger = ledger
        self._sandbox = sandbox
        self._env_file = env_file
        self._http = http or Http()
        self._pace = pace or Pace()
        self._channel_caps = dict(channel_caps or {})
        self._lanes: dict[str, Lane] = {}
        self._mutex = threading.Lock()

    def run(
        self,
        spec: SyncSpec,
        connection: duckdb.DuckDBPyConnection,
        *,
        facts: ReadFacts | None = None,
        dry_run: bool = False,
        approve: bool = False,
        retry_budget: float = 15.0,
        time_limit: float | None = None,
        progress: Progress | None = None,
        relation: str | None = None,
        known_contacts: str = KNOWN_CONTACTS,
    ) -> SyncReport:
        """Plan one sync and send what is due. Never raises for what a report can say.

        Retries and imposed waits take at most `retry_budget` seconds of this run and the whole run
        about `time_limit`; what is left stays in the ledger for the next. `approve` lifts the
        blast limit once. `relation` replaces the model's table as dbt names it.
        """
        started = datetime.now(UTC)
        clock = time.monotonic()
        report = SyncReport(sync=spec.name, destination=spec.destination)
        try:
            destination = destinations.load(spec.destination).of(spec.object)
            target = destinations.aim(
                destinations.resolve(destination, self._sandbox, env_file=self._env_file),
                object_name=spec.object,
                key=spec.key,
            )
            report.sandbox = target.sandbox
            planner = _Planner(self._ledger, spec, connection, relation, known_contacts)
            if dry_run:
                plan = planner.plan()
                report.status, report.message = "dry_run", plan.blocked
                report.planned = plan.counts
                rules = Rules(spec, facts, self._channel_caps)
                report.preview = preview_of(self._ledger, spec, destination, plan, rules)
            else:
                with self._ledger.worker(spec.name) as worker:
                    report.recovered = self._ledger.recover()
                    plan = planner.plan()
                    report.planned = plan.counts
                    if plan.blocked and not approve:
                        report.status, report.message = "blocked", plan.blocked
                    else:
                        self._ledger.record(
                            spec, plan.changes, repeatable=repeatable(spec, destination)
                        )
                        run = Run(
                            self._ledger,
                            worker,
                            spec,
                            destination,
                            target,
                            self._http,
                            self._lane(destination, target),
                            self._pace,
                            Rules(spec, facts, self._channel_caps),
                            report,
                        )
                        run.send(retry_budget, time_limit, progress)
        except SyncBusy as error:
            report.status, report.message = "busy", str(error)
        except Paused as error:
            report.status, report.message = "paused", str(error)
        except SyncError as error:
            report.status, report.message = "failed", str(error)
        except SQLAlchemyError as error:
            report.status = "failed"
            report.message = f"the ledger cannot be used ({type(error).__name__})"
        report.seconds = round(time.monotonic() - clock, 3)
        if not dry_run:
            # A ledger that is away is already what the report says.
            with contextlib.suppress(SyncError, SQLAlchemyError):
                self._conclude(report, started)
        return report

    def run_all(
        self,
        specs: Sequence[SyncSpec],
        connection: duckdb.DuckDBPyConnection,
        *,
        on_report: Callable[[SyncReport], None] | None = None,
        **options: Any,
    ) -> list[SyncReport]:
        """Run many syncs: one destination's by priority, destinations side by side.

        `options` are those of `run`. Reports come back in the order of `specs`.
        """
        by_destination: dict[str, list[SyncSpec]] = {}
        for spec in specs:
            by_destination.setdefault(spec.destination, []).append(spec)
        for group in by_destination.values():
            group.sort(key=lambda spec: -spec.policies.priority)

        def in_turn(group: list[SyncSpec]) -> dict[str, SyncReport]:
            reports = {}
            for spec in group:
                reports[spec.name] = self.run(spec, connection, **options)
                if on_report is not None:
                    on_report(reports[spec.name])
            return reports

        if not by_destination:
            return []
        reports: dict[str, SyncReport] = {}
        with ThreadPoolExecutor(len(by_destination), thread_name_prefix="sync") as pool:
            for part in pool.map(in_turn, by_destination.values()):
                reports |= part
        return [reports[spec.name] for spec in specs]

    def _lane(self, destination: Destination, target: Target[Any]) -> Lane:
        name = f"{destination.name} sandbox" if target.sandbox else destination.name
        with self._mutex:
            if name not in self._lanes:
                self._lanes[name] = Lane(
                    self._ledger.engine,
                    name,
                    destination.rate,
                    failures=self._pace.breaker_failures,
                    cooldown=self._pace.breaker_cooldown,
                )
            return self._lanes[name]

    def _conclude(self, report: SyncReport, started: datetime) -> None:
        log.info("%s: %s %s", report.sync, report.status, report.sent)
        report.states = self._ledger.counts(report.sync)
        report.next_due_seconds = self._ledger.next_due(report.sync)
        self._ledger.record_run(
            sync=report.sync,
            destination=report.destination,
            sandbox=report.sandbox,
            status=report.status,
            message=report.message,
            counts={"planned": report.planned, "sent": report.sent, "recovered": report.recovered},
            started_at=started,
        )


@dataclass
class _Planner:
    ledger: Ledger
    spec: SyncSpec
    connection: duckdb.DuckDBPyConnection
    relation: str | None
    known_contacts: str

    def plan(self) -> Plan:
        return plan_sync(
            self.connection,
            self.spec,
            self.ledger.known(self.spec.name),
            now=datetime.now(UTC),
            began_at=self.ledger.began_at(),
            relation=self.relation,
            known_contacts=self.known_contacts,
        )
