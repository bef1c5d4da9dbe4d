"""Sending what is due: batches, pace, retries, and the rules judged at the moment of sending."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import msgspec
from sqlalchemy.exc import SQLAlchemyError

from syncs import destinations, policies, templates
from syncs.destinations import Destination, Sandbox
from syncs.facts import ReadFacts, Recipient, needs_facts
from syncs.http import Http
from syncs.ledger import Action, Batch, History, Ledger, LookBack, SyncBusy, Worker, backoff
from syncs.pacing import Lane
from syncs.plan import KNOWN_CONTACTS, Plan, plan_sync
from syncs.policies import Cap, Facts, Verdict
from syncs.report import Preview, SyncReport
from syncs.results import (
    Fatal,
    HttpClient,
    Rejected,
    Retryable,
    Row,
    RowResult,
    SyncError,
    Target,
    Unanswered,
    mask,
)
from syncs.spec import SyncSpec

log = logging.getLogger("signalbox.syncs")

#: Called with the sync's name, actions finished in this run, actions known to be due.
Progress = Callable[[str, int, int], None]

#: After this many refusals in the same words, with no success between, a person must look.
SAME_REFUSALS = 50


@dataclass(frozen=True)
class Pace:
    """Waits in seconds. A refused row is tried again rarely: the row or the destination's setup
    must change first."""

    retry_base: float = 1.0
    retry_cap: float = 900.0
    rejected_base: float = 3600.0
    rejected_cap: float = 86400.0
    breaker_failures: int = 5
    breaker_cooldown: float = 30.0


class Paused(SyncError):
    """A rule that decides about sending cannot be read, so nothing is sent."""


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
                rules = _Rules(spec, facts, self._channel_caps)
                report.preview = _preview(self._ledger, spec, destination, plan, rules)
            else:
                with self._ledger.worker(spec.name) as worker:
                    report.recovered = self._ledger.recover()
                    plan = planner.plan()
                    report.planned = plan.counts
                    if plan.blocked and not approve:
                        report.status, report.message = "blocked", plan.blocked
                    else:
                        self._ledger.record(
                            spec, plan.changes, repeatable=_repeatable(spec, destination)
                        )
                        run = _Run(
                            self._ledger,
                            worker,
                            spec,
                            destination,
                            target,
                            self._http,
                            self._lane(destination, target),
                            self._pace,
                            _Rules(spec, facts, self._channel_caps),
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


@dataclass
class _Rules:
    """The policies of one sync, and where the facts that they need come from."""

    spec: SyncSpec
    facts: ReadFacts | None
    channel_caps: Mapping[str, Cap]

    def judge(
        self, due: Sequence[Action], look_back: LookBack, now: datetime
    ) -> dict[str, Verdict]:
        """The verdicts on what is due. Raises Paused when a fact that decides cannot be read."""
        cap = self.channel_caps.get(self.spec.policies.channel or "")
        address = self.spec.policies.address
        facts = self.read(
            [
                Recipient(
                    action.action_key,
                    action.customer_id,
                    str(action.payload.get(address) or "") if address else None,
                )
                for action in due
            ]
        )
        window = policies.history_needed(self.spec.policies, cap)
        if window is not None:
            # After the warehouse was asked: from here on other processes may have to wait.
            past = look_back(now - window)
            facts = replace(facts, messages=past.messages, ahead=past.ahead, channel_cap=cap)
        return policies.judge(self.spec.policies, due, facts, now)

    def read(self, recipients: Sequence[Recipient]) -> Facts:
        if not needs_facts(self.spec.policies) or not recipients:
            return Facts()
        if self.facts is None:
            raise Paused(f"{self.spec.name} has policies, and what they need cannot be read")
        try:
            return self.facts(self.spec.policies, recipients)
        except Exception as error:
            raise Paused(
                f"consent, suppression list or time zones cannot be read ({type(error).__name__}); "
                "nothing is sent (are the models built? signalbox build)"
            ) from None


@dataclass
class _Run:
    """One run's sending loop."""

    ledger: Ledger
    worker: Worker
    spec: SyncSpec
    destination: Destination
    target: Target[Any]
    http: HttpClient
    lane: Lane
    pace: Pace
    rules: _Rules
    report: SyncReport
    stop: str | None = None  # why no further request may be made in this run
    postponed: str | None = None  # why the last row that was not taken was not
    refusal: tuple[str, int] = ("", 0)  # the last refusal's words and how often in a row
    _secrets: list[str] = field(default_factory=list)

    def send(
        self, retry_budget: float, time_limit: float | None, progress: Progress | None
    ) -> None:
        self._secrets = destinations.secrets(self.target)
        self._revive()
        patience = time.monotonic() + retry_budget
        limit = None if time_limit is None else time.monotonic() + time_limit
        states = self.ledger.counts(self.spec.name)
        total = sum(states.get(state, 0) for state in ("planned", "retrying"))
        done = idle = 0
        while self.stop is None:
            if limit is not None and time.monotonic() >= limit:
                self._leave("time limit reached")
                return
            held = self.lane.held()
            if held and time.monotonic() + held > patience:
                self._leave(self._why_held(held))
                return
            time.sleep(held)
            batch = self.worker.claim(self.spec, self.destination.batch_size, self._judge)
            self._count(batch.withheld)
            if batch.send:
                idle = 0
                self._deliver_batch(batch)
            elif not batch.withheld:
                wait = self.ledger.next_due(self.spec.name)
                # Due and yet not to be had: another worker has it in hand.
                idle = idle + 1 if wait is not None and wait <= 0 else 0
                if wait is None or idle > 1:
                    return
                if time.monotonic() + wait > patience:
                    self._leave(None)
                    return
                time.sleep(max(wait, 0.0) + 0.002)
            done += len(batch.send) + sum(batch.withheld.values())
            if progress is not None:
                progress(self.spec.name, min(done, total), total)
        self.report.status, self.report.message = "failed", self.stop

    def _leave(self, message: str | None) -> None:
        wait = self.ledger.next_due(self.spec.name)
        if wait is not None:
            reason = message or self.postponed or "the rest is not due yet"
            self.report.status = "partial"
            self.report.message = f"{reason}; next attempt in {max(wait, 0):.0f} s"

    def _why_held(self, held: float) -> str:
        if self.lane.failing:
            return f"{self.destination.name} keeps failing; it is left alone for {held:.0f} s"
        return f"{self.destination.name} asked to wait {held:.0f} s"

    def _revive(self) -> None:
        """State rows held back for want of consent leave again once it is granted."""
        if self.spec.policies.consent is None or self.spec.is_message:
            return
        customers = self.ledger.suppressed_customers(self.spec.name)
        facts = self.rules.read([Recipient("", customer) for customer in customers])
        if facts.consented:
            self.ledger.revive(self.spec.name, facts.consented)

    def _judge(self, due: Sequence[Action], look_back: LookBack) -> Mapping[str, Verdict]:
        verdicts = self.rules.judge(due, look_back, datetime.now(UTC))
        for verdict in verdicts.values():
            if verdict.state == "later":
                self.postponed = verdict.reason
        return verdicts

    def _deliver_batch(self, batch: Batch) -> None:
        results: dict[str, RowResult] = {}
        rows = []
        for action in batch.send:
            try:
                rows.append(
                    row_of(
                        self.spec,
                        self.destination,
                        action.action_key,
                        action.row_key,
                        action.payload,
                        action.customer_id,
                        action.event_at,
                    )
                )
            except Rejected as error:
                results[action.action_key] = RowResult.rejected(str(error))
            except Fatal as error:
                # A broken template is not the message's fault: it leaves once it is mended.
                results[action.action_key] = RowResult.retrying(str(error))
                self.report.message = str(error)
        if rows:
            for row, result in zip(rows, self._deliver(rows), strict=True):
                results[row.action_key] = self._clean(row, result)
        ordered = [results[action.action_key] for action in batch.send]
        waits = [
            self._wait(result, action.attempts + 1)
            for action, result in zip(batch.send, ordered, strict=True)
        ]
        self.worker.settle(self.spec, batch, ordered, waits)
        for result in ordered:
            self._count({result.outcome: 1})
            if result.outcome == "retrying":
                self.postponed = result.reason

    def _deliver(self, rows: list[Row]) -> list[RowResult]:
        """One result per row. A refused batch is halved until only the guilty rows are refused."""
        if self.stop is not None:
            return [RowResult.retrying(f"not sent: {self.stop}") for _ in rows]
        if closed := self.lane.take():
            reason = f"not sent: {self._why_held(closed)}"
            return [RowResult.retrying(reason, retry_after=closed) for _ in rows]
        try:
            results = self.destination.push(rows, self.target, self.http)
            if len(results) != len(rows):
                raise RuntimeError(f"{len(results)} results for {len(rows)} rows")
        except Rejected as error:
            self.lane.succeeded()
            if len(rows) > 1:
                middle = len(rows) // 2
                return self._deliver(rows[:middle]) + self._deliver(rows[middle:])
            results = [RowResult.rejected(str(error), error.status_code)]
        except Unanswered as error:
            self._failed(error.retry_after)
            results = [self._unsure(str(error), error) for _ in rows]
        except Retryable as error:
            self._failed(error.retry_after)
            results = [
                RowResult.retrying(str(error), error.status_code, error.retry_after) for _ in rows
            ]
        except Fatal as error:
            self.stop = mask(str(error), secrets=self._secrets)
            results = [RowResult.retrying(str(error), error.status_code) for _ in rows]
        except Exception as error:
            # Its text may hold anything, so only its kind is kept.
            self.stop = f"destinations/{self.destination.name}.py failed: {type(error).__name__}"
            log.error("%s", self.stop)
            results = [self._unsure(self.stop, None) for _ in rows]
        else:
            self._heard(results)
        return results

    def _heard(self, results: list[RowResult]) -> None:
        """The destination answered row by row."""
        waits = [result.retry_after or 0.0 for result in results if result.outcome == "retrying"]
        if results and len(waits) == len(results):
            self._failed(max(waits))
        else:
            self.lane.succeeded()
        for result in results:
            if result.outcome == "delivered":
                self.refusal = ("", 0)

    def _failed(self, retry_after: float | None) -> None:
        self.lane.failed()
        if retry_after:
            self.lane.hold(retry_after)

    def _unsure(self, reason: str, error: Retryable | None) -> RowResult:
        code = error.status_code if error else None
        if _repeatable(self.spec, self.destination):
            return RowResult.retrying(reason, code, error.retry_after if error else None)
        return RowResult.unknown(reason, code)

    def _clean(self, row: Row, result: RowResult) -> RowResult:
        """The result as the ledger may keep it; notes refusals that repeat themselves."""
        if result.outcome == "delivered":
            return result
        reason = mask(result.reason or "", fields=row.fields, secrets=self._secrets)
        outcome = result.outcome
        if outcome == "unknown" and _repeatable(self.spec, self.destination):
            outcome = "retrying"
        if outcome == "rejected":
            words, times = self.refusal
            self.refusal = (reason, times + 1 if words == reason else 1)
            if self.refusal[1] >= SAME_REFUSALS and self.stop is None:
                self.stop = (
                    f"{self.destination.name} refused {SAME_REFUSALS} rows in a row with the same "
                    f"words: {reason}"
                )
        return RowResult(outcome, reason, result.status_code, result.retry_after)

    def _wait(self, result: RowResult, attempt: int) -> float:
        if result.outcome == "rejected":
            return backoff(attempt, base=self.pace.rejected_base, cap=self.pace.rejected_cap)
        wait = backoff(attempt, base=self.pace.retry_base, cap=self.pace.retry_cap)
        return max(wait, result.retry_after or 0.0)

    def _count(self, counts: Mapping[str, int]) -> None:
        for state, count in counts.items():
            self.report.sent[state] = self.report.sent.get(state, 0) + count


def row_of(
    spec: SyncSpec,
    destination: Destination,
    action_key: str,
    key: str,
    payload: Mapping[str, Any],
    customer_id: str | None,
    event_at: datetime | None,
) -> Row:
    """A ledger row as a destination sees it, its message rendered.

    Raises Fatal for a broken template, Rejected for values it cannot work with.
    """
    message = None
    if spec.template is not None:
        message = templates.render(spec.template, payload, escape=destination.escape)
    fired_at = event_at.astimezone(UTC).isoformat().replace("+00:00", "Z") if event_at else None
    return Row(action_key, key, payload, customer_id, fired_at, message)


def _repeatable(spec: SyncSpec, destination: Destination) -> bool:
    """Whether an attempt whose end is not known may be made again."""
    return not spec.is_message or destination.idempotency_key


def _preview(
    ledger: Ledger, spec: SyncSpec, destination: Destination, plan: Plan, rules: _Rules
) -> Preview:
    states = ledger.counts(spec.name)
    preview = Preview(
        expired=plan.count("expired"),
        unchanged=plan.count("unchanged"),
        waiting=states.get("planned", 0) + states.get("retrying", 0),
        suppressed=[
            {"key": row["row_key"], "reason": row["reason"]} for row in plan.rows("suppressed")
        ],
    )
    going = list(plan.rows("create", "update", "message"))
    verdicts = _verdicts(ledger, rules, going)
    for row in going:
        if verdict := verdicts.get(row["action_key"]):
            kept_back = preview.postponed if verdict.state == "later" else preview.suppressed
            kept_back.append({"key": row["row_key"], **verdict._asdict()})
    going = [row for row in going if row["action_key"] not in verdicts]
    updated = [row["action_key"] for row in going if row["change"] == "update"]
    held = ledger.delivered_payloads(updated) if updated else {}
    for row in going:
        payload = msgspec.json.decode(row["payload"])
        fields = {name: payload[name] for name in spec.fields}
        if row["change"] == "create":
            preview.creates.append({"key": row["row_key"], "fields": fields})
        elif row["change"] == "update":
            old = held.get(row["action_key"], {})
            changed = {
                name: [old.get(name), value]
                for name, value in fields.items()
                if old.get(name) != value
            }
            preview.updates.append({"key": row["row_key"], "changes": changed})
        else:
            preview.messages.append(_message_preview(spec, destination, row, fields))
    return preview


def _verdicts(
    ledger: Ledger, rules: _Rules, going: Sequence[Mapping[str, Any]]
) -> dict[str, Verdict]:
    """What the policies would say of a plan's rows if they were sent now."""
    if not rules.spec.is_message and rules.spec.policies.consent is None:
        return {}
    due = [
        Action(
            row["action_key"],
            row["row_key"],
            row["customer_id"],
            row["payload_hash"],
            msgspec.json.decode(row["payload"]),
            0,
            row["expires_at"],
            row["event_at"],
        )
        for row in going
    ]
    customers = sorted({action.customer_id for action in due if action.customer_id is not None})

    def look_back(since: datetime) -> History:
        return ledger.history(rules.spec.name, rules.spec.policies, customers, since)

    return rules.judge(due, look_back, datetime.now(UTC))


def _message_preview(
    spec: SyncSpec, destination: Destination, row: dict[str, Any], fields: dict[str, Any]
) -> dict[str, Any]:
    rendered = row_of(
        spec,
        destination,
        row["action_key"],
        row["row_key"],
        fields,
        row["customer_id"],
        row["event_at"],
    ).message
    return {
        "customer_id": row["customer_id"],
        "trigger_id": row["trigger_id"],
        "expires_at": row["expires_at"].isoformat() if row["expires_at"] else None,
        "fields": fields,
        "subject": rendered.subject if rendered else None,
        "text": rendered.text if rendered else None,
        "html": rendered.html if rendered else None,
    }
