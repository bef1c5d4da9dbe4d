"""One run of a sync: batches, pace, retries, and the rules judged at the moment of sending."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from syncs import destinations, templates
from syncs.claims import Action, Batch, LookBack, Worker, backoff
from syncs.destinations import Destination
from syncs.facts import Recipient
from syncs.ledger import Ledger
from syncs.pacing import Lane
from syncs.policies import Verdict
from syncs.report import SyncReport
from syncs.results import (
    Fatal,
    HttpClient,
    Rejected,
    Retryable,
    Row,
    RowResult,
    Target,
    Unanswered,
    mask,
)
from syncs.rules import Rules
from syncs.spec import SyncSpec
from syncs.tables import WAITING

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


@dataclass
class Run:
    """One run's sending loop."""

    ledger: Ledger
    worker: Worker
    spec: SyncSpec
    destination: Destination
    target: Target[Any]
    http: HttpClient
    lane: Lane
    pace: Pace
    rules: Rules
    report: SyncReport
    stop: str | None = None  # why no further request may be made in this run
    postponed: str | None = None  # why the last row that was not taken was not
    refusal: tuple[str, int] = ("", 0)  # the last refusal's words and how often in a row
    _secrets: list[str] = field(default_factory=list)
    _latencies: dict[str, int] = field(default_factory=dict)  # milliseconds, by action key
    _without_effect: set[str] = field(default_factory=set)  # keys of what certainly did nothing

    def send(
        self,
        retry_budget: float,
        time_limit: float | None,
        progress: Progress | None,
        *,
        limit: int | None = None,
        only: str | None = None,
    ) -> None:
        """Send what is due: at most `limit` actions, `only` those with this key or customer."""
        self._secrets = destinations.secrets(self.target)
        self._revive()
        patience = time.monotonic() + retry_budget
        end = None if time_limit is None else time.monotonic() + time_limit
        states = self.ledger.counts(self.spec.name)
        total = sum(states.get(state, 0) for state in WAITING)
        total = total if limit is None else min(total, limit)
        done = idle = 0
        while self.stop is None:
            if end is not None and time.monotonic() >= end:
                self._leave("time limit reached")
                return
            room = self.destination.batch_size if limit is None else limit - done
            if room <= 0:
                self._leave(f"limit of {limit:,} actions reached")
                return
            held = self.lane.held()
            if held and time.monotonic() + held > patience:
                self._leave(self._why_held(held))
                return
            time.sleep(held)
            batch = self.worker.claim(
                self.spec,
                min(room, self.destination.batch_size),
                self._judge,
                max_bytes=self.destination.batch_bytes,
                only=only,
                sandbox=self.target.sandbox,
            )
            self._count(batch.withheld)
            if batch.send:
                idle = 0
                self._deliver_batch(batch)
            elif not batch.withheld:
                wait = self.ledger.next_due(self.spec.name, only=only)
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
        rows: list[Row] = []
        self._latencies.clear()
        self._without_effect = {action.action_key for action in batch.send}
        for action in batch.send:
            try:
                rows.append(
                    row_of(
                        self.spec,
                        self.destination,
                        self.target,
                        action.action_key,
                        action.row_key,
                        action.payload,
                        action.customer_id,
                        action.event_at,
                        leave=action.leave,
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
        self.worker.settle(
            self.spec,
            batch,
            ordered,
            waits,
            latencies=self._latencies,
            without_effect=self._without_effect,
        )
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
        self.worker.check()
        self._without_effect -= {row.action_key for row in rows}
        started = time.monotonic()
        try:
            try:
                results = self.destination.push(rows, self.target, self.http)
            finally:
                took = round((time.monotonic() - started) * 1000)
                self._latencies |= dict.fromkeys((row.action_key for row in rows), took)
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
            self._without_effect |= {row.action_key for row in rows}
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
        unheard = ("retrying", "unknown")
        waits = [result.retry_after or 0.0 for result in results if result.outcome in unheard]
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
        if repeatable(self.spec, self.destination):
            return RowResult.retrying(reason, code, error.retry_after if error else None)
        return RowResult.unknown(reason, code)

    def _clean(self, row: Row, result: RowResult) -> RowResult:
        """The result as the ledger may keep it; notes refusals that repeat themselves."""
        if result.outcome == "delivered":
            return result
        reason = mask(result.reason or "", fields=row.fields, secrets=self._secrets)
        outcome = result.outcome
        if outcome == "unknown" and repeatable(self.spec, self.destination):
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
    target: Target[Any],
    action_key: str,
    key: str,
    payload: Mapping[str, Any],
    customer_id: str | None,
    event_at: datetime | None,
    *,
    leave: bool = False,
) -> Row:
    """A ledger row as a destination sees it, its message rendered.

    Raises Fatal for a broken template, Rejected for values it cannot work with.
    """
    message = None
    if spec.template is not None:
        added = destination.variables(action_key, target.settings) if destination.variables else {}
        message = templates.render(spec.template, {**added, **payload}, escape=destination.escape)
    fired_at = event_at.astimezone(UTC).isoformat().replace("+00:00", "Z") if event_at else None
    return Row(action_key, key, payload, customer_id, fired_at, message, leave)


def repeatable(spec: SyncSpec, destination: Destination) -> bool:
    """Whether an attempt whose end is not known may be made again."""
    return not spec.is_message or destination.idempotency_key
