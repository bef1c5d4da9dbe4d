"""One run of a sync: batches, pace, retries, and the rules judged at the moment of sending."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from syncs import destinations, templates
from syncs.claims import Action, Batch, LookBack, Worker, backoff, in_requests
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

#: State rows taken from the ledger at once are of several requests: so many rows, and no more
#: requests than the destination's rate allows in a second, all who send together.
CLAIM_ROWS = 2000
#: The hot lane claims messages for so many requests at once where each can be repeated.
EXPRESS_REQUESTS = 16


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
class _Course:
    """How far a run goes, and how far it is. Moments are of the monotonic clock."""

    patience: float = math.inf  # until when to wait for retries and for the destination
    end: float = math.inf  # when to stop
    limit: float = math.inf  # actions
    only: str | None = None
    progress: Progress | None = None
    total: int = 0
    taken: int = 0
    finished: int = 0
    over: threading.Event = field(default_factory=threading.Event)  # something broke: come home

    def ended(self) -> bool:
        return self.over.is_set() or time.monotonic() >= self.end


class _Told(NamedTuple):
    """What became of an action in this run."""

    result: RowResult
    latency_ms: int | None = None
    effect: bool = False  # whether it may have reached the destination
    tried: bool = True


@dataclass
class Run:
    """One run's sending.

    Messages leave one request after the other, and so do rows of a mirror, which join and leave.
    Of rows that are created or updated as many requests are under way as the destination allows: a
    key has one row in the ledger, and a row that is being sent is not taken a second time.
    """

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
    on_send: Callable[[Sequence[Row]], None] | None = None  # told just before the first byte
    _secrets: list[str] = field(default_factory=list)
    _course: _Course = field(default_factory=_Course)
    _claiming: threading.Lock = field(default_factory=threading.Lock)
    _noting: threading.Lock = field(default_factory=threading.Lock)

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
        # The sandbox's are known to all, and one of them is the word "sandbox".
        self._secrets = [] if self.target.sandbox else destinations.secrets(self.target)
        self._revive()
        now = time.monotonic()
        states = self.ledger.counts(self.spec.name)
        if not any(states.get(state) for state in (*WAITING, "rejected")):
            return  # nothing that could be claimed
        waiting = sum(states.get(state, 0) for state in WAITING)
        self._course = _Course(
            patience=now + retry_budget,
            end=math.inf if time_limit is None else now + time_limit,
            limit=math.inf if limit is None else limit,
            only=only,
            progress=progress,
            total=waiting if limit is None else min(waiting, limit),
        )
        left = self._side_by_side(self._width(self._course.total))
        if self.stop is not None:
            self.report.status, self.report.message = "failed", self.stop
        elif left:
            self._leave(left[0])

    def _width(self, due: int) -> int:
        """How many requests may be under way at once."""
        if self.spec.mode not in ("upsert", "update_only"):
            return 1
        return max(1, min(self.destination.concurrency, due // self.destination.batch_size))

    def _side_by_side(self, width: int) -> list[str]:
        """Work in so many threads; returns the reasons why rows were left."""
        if width == 1:
            left = [self._work(width)]
        else:
            with ThreadPoolExecutor(width, thread_name_prefix=self.spec.name) as pool:
                try:
                    left = list(pool.map(self._work, [width] * width))
                except BaseException:
                    self._course.over.set()
                    raise
        return [reason for reason in left if reason is not None]

    def _work(self, width: int) -> str | None:
        """Take actions and send them until none is to be had; returns why the rest is left.

        The reason is empty where the rows themselves have one. `width` is how many work at this.
        """
        idle = 0
        try:
            while self.stop is None and not self._course.over.is_set():
                with self._claiming:
                    batch = self._take(width)
                if isinstance(batch, str):
                    return batch
                if batch.send or batch.withheld:
                    idle = 0
                    tried = self._deliver_batch(batch) if batch.send else 0
                    self._tell(tried + sum(batch.withheld.values()))
                    continue
                wait = self.ledger.next_due(self.spec.name, only=self._course.only)
                # Due and yet not to be had: another worker has it in hand.
                idle = idle + 1 if wait is not None and wait <= 0 else 0
                if wait is None or idle > 1:
                    return None
                if time.monotonic() + wait > self._course.patience:
                    return ""
                self._course.over.wait(max(wait, 0.0) + 0.002)
        except BaseException:
            self._course.over.set()
            raise
        return None

    def _take(self, width: int) -> Batch | str:
        """Take the next actions, or say why no more may be taken in this run."""
        course, destination = self._course, self.destination
        if course.ended():
            return "time limit reached"
        if course.taken >= course.limit:
            return f"limit of {course.limit:,} actions reached"
        held = self.lane.held()
        if held and time.monotonic() + held > course.patience:
            return self._why_held(held)
        course.over.wait(held)
        size, max_bytes = destination.batch_size, destination.batch_bytes
        if not self.spec.is_message:
            requests = min(CLAIM_ROWS // size, math.ceil(destination.rate / width))
            size, max_bytes = size * max(requests, 1), None
        batch = self.worker.claim(
            self.spec,
            int(min(course.limit - course.taken, size)),
            self._judge,
            max_bytes=max_bytes,
            only=course.only,
            sandbox=self.target.sandbox,
        )
        with self._noting:
            course.taken += len(batch.send) + sum(batch.withheld.values())
        self._count(batch.withheld)
        return batch

    def _tell(self, finished: int) -> None:
        with self._noting:
            course = self._course
            course.finished += finished
            if course.progress is not None:
                course.progress(self.spec.name, min(course.finished, course.total), course.total)

    def send_of(self, keys: Collection[str]) -> None:
        """Send those of these messages that are due, and leave what must wait to the runs."""
        self._secrets = destinations.secrets(self.target)
        size, max_bytes = self.destination.batch_size, self.destination.batch_bytes
        if repeatable(self.spec, self.destination):
            # After a crash it is sent again under its key: nothing stays unknown.
            size, max_bytes = size * EXPRESS_REQUESTS, None
        while self.stop is None and not self.lane.held():
            batch = self.worker.claim(
                self.spec,
                size,
                self._judge,
                max_bytes=max_bytes,
                keys=keys,
                sandbox=self.target.sandbox,
            )
            self._count(batch.withheld)
            if batch.send:
                self._deliver_batch(batch)
            elif not batch.withheld:
                return
        if self.stop is not None:
            self.report.status, self.report.message = "failed", self.stop

    def _leave(self, message: str | None) -> None:
        wait = self.ledger.next_due(self.spec.name)
        if wait is not None:
            wait = max(wait, self.lane.held())
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

    def _deliver_batch(self, batch: Batch) -> int:
        """Send what was taken, request by request, and write down what became of it.

        Returns how many were tried; the others stand in line again.
        """
        told: dict[str, _Told] = {}
        for request in in_requests(
            batch.send, self.destination.batch_size, self.destination.batch_bytes
        ):
            rows = []
            for action in request:
                try:
                    rows.append(self._row(action))
                except Rejected as error:
                    told[action.action_key] = _Told(RowResult.rejected(str(error)))
                except Fatal as error:
                    # A broken template is not the message's fault: it leaves once it is mended.
                    told[action.action_key] = _Told(RowResult.retrying(str(error)))
                    self.report.message = str(error)
            if rows:
                for row, one in zip(rows, self._deliver(rows), strict=True):
                    told[row.action_key] = one._replace(result=self._clean(row, one))
        found = [told[action.action_key] for action in batch.send]
        self.worker.settle(
            self.spec,
            batch,
            [one.result for one in found],
            [
                self._wait(one, action.attempts + 1)
                for action, one in zip(batch.send, found, strict=True)
            ],
            latencies={
                key: one.latency_ms for key, one in told.items() if one.latency_ms is not None
            },
            without_effect=[key for key, one in told.items() if not one.effect],
            unsent=[key for key, one in told.items() if not one.tried],
        )
        self._count(Counter(one.result.outcome for one in found if one.tried))
        for one in found:
            if one.result.outcome == "retrying":
                self.postponed = one.result.reason
        tried = sum(one.tried for one in found)
        with self._noting:
            self._course.taken -= len(found) - tried
        return tried

    def _row(self, action: Action) -> Row:
        return row_of(
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

    def _deliver(self, rows: list[Row]) -> list[_Told]:
        """One for each row. A refused batch is halved until only the guilty rows are refused."""
        if self.stop is not None or self._course.ended():
            return _unsent(rows, self.stop or "time limit reached", 0.0)
        if closed := self.lane.take():
            return _unsent(rows, self._why_held(closed), closed)
        self.worker.check()
        if self.on_send is not None:
            self.on_send(rows)
        effect = True
        started = time.monotonic()
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
            effect = False
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
        took = round((time.monotonic() - started) * 1000)
        return [_Told(result, took, effect) for result in results]

    def _heard(self, results: list[RowResult]) -> None:
        """The destination answered row by row."""
        unheard = ("retrying", "unknown")
        waits = [result.retry_after or 0.0 for result in results if result.outcome in unheard]
        if results and len(waits) == len(results):
            self._failed(max(waits))
        else:
            self.lane.succeeded()

    def _failed(self, retry_after: float | None) -> None:
        self.lane.failed()
        if retry_after:
            self.lane.hold(retry_after)

    def _unsure(self, reason: str, error: Retryable | None) -> RowResult:
        code = error.status_code if error else None
        if repeatable(self.spec, self.destination):
            return RowResult.retrying(reason, code, error.retry_after if error else None)
        return RowResult.unknown(reason, code)

    def _clean(self, row: Row, told: _Told) -> RowResult:
        """The result as the ledger may keep it; notes refusals that repeat themselves."""
        result = told.result
        if result.outcome == "delivered":
            self.refusal = ("", 0)
            return result
        reason = mask(result.reason or "", fields=row.fields, secrets=self._secrets)
        outcome = result.outcome
        if outcome == "unknown" and repeatable(self.spec, self.destination):
            outcome = "retrying"
        if outcome == "rejected":
            self._refused(reason)
        return RowResult(outcome, reason, result.status_code, result.retry_after)

    def _refused(self, reason: str) -> None:
        with self._noting:
            words, times = self.refusal
            self.refusal = (reason, times + 1 if words == reason else 1)
            if self.refusal[1] >= SAME_REFUSALS and self.stop is None:
                self.stop = (
                    f"{self.destination.name} refused {SAME_REFUSALS} rows in a row with the same "
                    f"words: {reason}"
                )

    def _wait(self, told: _Told, attempt: int) -> float:
        """Seconds until the next attempt."""
        result = told.result
        if not told.tried:
            return result.retry_after or 0.0
        if result.outcome == "rejected":
            return backoff(attempt, base=self.pace.rejected_base, cap=self.pace.rejected_cap)
        wait = backoff(attempt, base=self.pace.retry_base, cap=self.pace.retry_cap)
        return max(wait, result.retry_after or 0.0)

    def _count(self, counts: Mapping[str, int]) -> None:
        with self._noting:
            for state, count in counts.items():
                self.report.sent[state] = self.report.sent.get(state, 0) + count


def _unsent(rows: Sequence[Row], why: str, wait: float) -> list[_Told]:
    result = RowResult.retrying(f"not sent: {why}", retry_after=wait)
    return [_Told(result, tried=False) for _ in rows]


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
