"""Running syncs: plan, record, send; several destinations side by side."""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
from sqlalchemy.exc import SQLAlchemyError

from syncs import destinations
from syncs.destinations import Destination, Sandbox
from syncs.express import Express
from syncs.facts import ReadFacts
from syncs.http import Http
from syncs.ledger import Ledger, SyncBusy
from syncs.pacing import Lane
from syncs.plan import CHANGES, Plan, plan_sync
from syncs.policies import Cap
from syncs.preview import preview_of
from syncs.report import SyncReport
from syncs.results import HttpClient, SyncError, Target
from syncs.rules import Paused, Rules
from syncs.sample import Sample, samples_of
from syncs.sending import Pace, Progress, Run, log, repeatable
from syncs.spec import SyncSpec


class Turns:
    """Lets one in at a time; of those who wait the one with the highest priority is next."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[int, int]] = []
        self._arrivals = itertools.count()
        self._taken = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @contextlib.contextmanager
    def turn(self, priority: int) -> Iterator[None]:
        """Wait, and hold the turn for the length of the block."""
        ticket = (-priority, next(self._arrivals))
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: not self._taken and min(self._waiting) == ticket)
            finally:
                self._waiting.remove(ticket)
            self._taken = True
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()


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
        self._turns = Turns()

    @property
    def ledger(self) -> Ledger:
        """Where it is written what was sent."""
        return self._ledger

    def run(
        self,
        spec: SyncSpec,
        connection: duckdb.DuckDBPyConnection,
        *,
        facts: ReadFacts | None = None,
        dry_run: bool = False,
        approve: bool = False,
        full: bool = False,
        limit: int | None = None,
        only: str | None = None,
        retry_budget: float = 15.0,
        time_limit: float | None = None,
        progress: Progress | None = None,
        relation: str | None = None,
        schema: str | None = None,
        live_sources: Collection[str] = (),
    ) -> SyncReport:
        """Plan one sync and send what is due. Never raises for what a report can say.

        Args:
            spec: the sync.
            connection: reads the sync model.
            facts: what policies need to know of customers.
            dry_run: say what would be sent, and send nothing.
            approve: lift the blast limit once.
            full: send rows again that have not changed; never messages.
            limit: send at most so many actions, or preview so many of each kind.
            only: only actions with this key or customer.
            retry_budget: seconds that retries and imposed waits may take of this run.
            time_limit: seconds that the whole run may take, about; the next one takes the rest.
            progress: told how far it is.
            relation: replaces the model's table as dbt names it.
            schema: where identity and consent are; see `plan_sync`.
            live_sources: sources that read their vendor, and not the sandbox: what is read back
                counts only where the sync sends to the same place.
        """
        started = datetime.now(UTC)
        clock = time.monotonic()
        report = SyncReport(sync=spec.name, destination=spec.destination)
        try:
            destination, target = self._aim(spec)
            report.sandbox = target.sandbox

            def plan() -> Plan:
                return self._plan(
                    spec, destination, target, connection, relation=relation, schema=schema,
                    live_sources=live_sources, full=full, only=only,
                )  # fmt: skip

            upcoming = functools.partial(self._ledger.upcoming, spec)
            rules = Rules(spec, facts, self._channel_caps, upcoming)
            if dry_run:
                with contextlib.closing(plan()) as planned:
                    report.status, report.message = "dry_run", planned.blocked
                    report.planned = planned.counts
                    report.preview = preview_of(
                        self._ledger, spec, destination, target, planned, rules, limit=limit
                    )
            elif pause := self._ledger.pause_of(spec.name):
                report.status, report.message = "paused", str(pause)
                report.paused_by = pause.by
            else:
                with self._ledger.worker(spec.name) as worker:
                    report.recovered = self._ledger.recover()
                    if self._record(report, spec, destination, target, plan, approve, only):
                        lane = self._lane(destination, target)
                        run = Run(
                            self._ledger, worker, spec, destination, target, self._http, lane,
                            self._pace, rules, report,
                        )  # fmt: skip
                        run.send(retry_budget, time_limit, progress, limit=limit, only=only)
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

    def plan(
        self,
        spec: SyncSpec,
        connection: duckdb.DuckDBPyConnection,
        *,
        relation: str | None = None,
        schema: str | None = None,
        live_sources: Collection[str] = (),
    ) -> Plan:
        """What a run would change now, of the model or of a relation in its place; see `run`.

        Nothing is written. Close it after use.

        Raises:
            SyncError: the destination's settings are incomplete, or the rows cannot be planned.
        """
        destination, target = self._aim(spec)
        return self._plan(
            spec, destination, target, connection, relation=relation, schema=schema,
            live_sources=live_sources,
        )  # fmt: skip

    def _plan(
        self,
        spec: SyncSpec,
        destination: Destination,
        target: Target[Any],
        connection: duckdb.DuckDBPyConnection,
        *,
        relation: str | None,
        schema: str | None,
        live_sources: Collection[str],
        full: bool = False,
        only: str | None = None,
    ) -> Plan:
        source, read_back = destination.read_back.get(spec.object, (None, None))
        if (source in live_sources) == target.sandbox:
            read_back = None
        return plan_sync(
            connection,
            spec,
            self._ledger.known(spec, sandbox=target.sandbox, only=only),
            now=datetime.now(UTC),
            began_at=self._ledger.began_at(),
            relation=relation,
            schema=schema,
            read_back=read_back,
            full=full,
            only=only,
            usual=None if spec.is_message else self._ledger.usual_rows(spec.name),
        )

    def samples(
        self,
        spec: SyncSpec,
        connection: duckdb.DuckDBPyConnection,
        customer_id: str,
        *,
        facts: ReadFacts | None = None,
    ) -> list[Sample]:
        """What a customer would be sent now, and what speaks against it; see `samples_of`."""
        destination, target = self._aim(spec)
        rules = Rules(spec, facts, self._channel_caps)
        return samples_of(self._ledger, spec, destination, target, rules, connection, customer_id)

    @contextlib.contextmanager
    def express(self, spec: SyncSpec, facts: ReadFacts) -> Iterator[Express]:
        """A way to send messages of one sync at once, beside its runs. For one thread.

        Raises SyncError when the destination's settings are incomplete.
        """
        destination, target = self._aim(spec)
        lane = self._lane(destination, target)
        with self._ledger.worker(spec.name, alone=False) as worker:
            yield Express(
                self._ledger, worker, spec, destination, target, self._http, lane, self._pace,
                Rules(spec, facts, self._channel_caps),
            )  # fmt: skip

    def _aim(self, spec: SyncSpec) -> tuple[Destination, Target[Any]]:
        destination = destinations.load(spec.destination).of(spec.object)
        target = destinations.aim(
            destinations.resolve(destination, self._sandbox, env_file=self._env_file),
            object_name=spec.object,
            key=spec.key,
            mode=spec.mode,
        )
        return destination, target

    def _record(
        self,
        report: SyncReport,
        spec: SyncSpec,
        destination: Destination,
        target: Target[Any],
        plan: Callable[[], Plan],
        approve: bool,
        only: str | None,
    ) -> bool:
        """Plan and write the intents down, unless the blast limit says to ask first."""
        with contextlib.ExitStack() as stack:
            # A message model may take long to read: the hot lane is not to wait for that.
            with self._turns.turn(spec.policies.priority):
                if not spec.is_message:
                    stack.enter_context(self._ledger.planning(spec.name))
                read_at = self._ledger.now()
                planned = stack.enter_context(contextlib.closing(plan()))
            report.planned = planned.counts
            if planned.blocked and not approve:
                report.status, report.message = "blocked", planned.blocked
                return False
            record = functools.partial(
                self._ledger.record, spec, planned, repeatable=repeatable(spec, destination),
                read_at=read_at, sandbox=target.sandbox,
            )  # fmt: skip
            if not spec.is_message:
                record()
            elif planned.count(*CHANGES):
                with self._ledger.planning(spec.name):
                    planned.look_again(self._ledger.known(spec, sandbox=target.sandbox))
                    report.planned = planned.counts
                    record()
            if only is None and not spec.is_message:
                report.rows = planned.total
        return True

    def run_all(
        self,
        specs: Sequence[SyncSpec],
        connection: duckdb.DuckDBPyConnection,
        *,
        on_report: Callable[[SyncReport], None] | None = None,
        **options: Any,
    ) -> list[SyncReport]:
        """Run many syncs: one destination's by priority, destinations side by side.

        Their models are read one after the other, by priority as well, so that what is most urgent
        leaves while the others are still read; no request is waited for.

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
        groups = sorted(by_destination.values(), key=lambda group: -group[0].policies.priority)
        reports: dict[str, SyncReport] = {}
        with ThreadPoolExecutor(len(groups), thread_name_prefix="sync") as pool:
            for part in pool.map(in_turn, groups):
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
        report.states, report.next_due_seconds = self._ledger.standing(report.sync)
        self._ledger.record_run(
            sync=report.sync,
            destination=report.destination,
            sandbox=report.sandbox,
            status=report.status,
            message=report.message,
            counts={
                "planned": report.planned,
                "sent": report.sent,
                "recovered": report.recovered,
                **({} if report.rows is None else {"rows": report.rows}),
            },
            started_at=started,
        )
