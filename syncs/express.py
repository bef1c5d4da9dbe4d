"""Rows of one sync at once, recorded and sent beside its runs, which find nothing left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from syncs.claims import Worker
from syncs.destinations import Destination
from syncs.ledger import Ledger
from syncs.pacing import Lane
from syncs.plan import plan_sync
from syncs.report import SyncReport
from syncs.results import HttpClient, Row, Target
from syncs.rules import Paused, Rules
from syncs.sending import Pace, Run, repeatable
from syncs.spec import SyncSpec


@dataclass
class Express:
    """The messages of one sync, or who joins its audience, as soon as they are known.

    Made by `Pusher.express`.
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

    def record(
        self,
        connection: duckdb.DuckDBPyConnection,
        relation: str,
        *,
        schema: str,
        customers: Sequence[str],
        keys: Sequence[str],
        log_seq: int,
        lane: str,
    ) -> dict[str, int]:
        """Write down what `relation`, rows of the sync's model, asks for; counts by change.

        Of a mirror these are members, and nobody leaves because the relation lacks them. While its
        last run waits for approval nothing is written.

        Args:
            connection: reads the relation.
            relation: rows of the model for some customers, as of the log up to `log_seq`.
            schema: has identity_map and identity_edges, for a mirror also customer_consents.
            customers: all names under which those in `relation` may have been sent something.
            keys: action keys of the rows.
            log_seq: plans of whoever has read less of the log leave the members alone.
            lane: what the ledger shall call it.

        Raises SyncError or SQLAlchemyError: nothing was written.
        """
        is_message = self.spec.is_message
        with self.ledger.planning(self.spec.name):
            if not is_message and self.ledger.last_status(self.spec.name) == "blocked":
                return {}
            read_at = self.ledger.now()
            if is_message:
                known = self.ledger.known(self.spec, customers=customers)
            else:
                known = self.ledger.known(self.spec, sandbox=self.target.sandbox, keys=keys)
            plan = plan_sync(
                connection,
                self.spec,
                known,
                now=read_at,
                began_at=self.ledger.began_at(),
                relation=relation,
                schema=schema,
            )
            with contextlib.closing(plan):
                again = repeatable(self.spec, self.destination)
                self.ledger.record(
                    self.spec, plan, repeatable=again, read_at=read_at,
                    sandbox=self.target.sandbox, lane=lane,
                )  # fmt: skip
                if not is_message:
                    self.ledger.read_up_to(self.spec, keys, log_seq)
                return plan.counts

    def send(
        self, keys: Collection[str], on_send: Callable[[Sequence[Row]], None] | None = None
    ) -> SyncReport:
        """Send those of these actions that may go now; the rest is left to the sync's runs.

        Who is to leave an audience is left to them, too.

        Raises SQLAlchemyError when the ledger is away; nothing more can be sent with this object.
        """
        report = SyncReport(sync=self.spec.name, destination=self.spec.destination)
        report.sandbox = self.target.sandbox
        if pause := self.ledger.pause_of(self.spec.name):
            report.status, report.message, report.paused_by = "paused", str(pause), pause.by
            return report
        run = Run(
            self.ledger, self.worker, self.spec, self.destination, self.target, self.http,
            self.lane, self.pace, self.rules, report, on_send=on_send,
        )  # fmt: skip
        try:
            run.send_of(keys)
        except Paused as error:
            report.status, report.message = "paused", str(error)
        return report
