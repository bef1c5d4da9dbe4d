"""The ledger: every action's intent, attempts and outcome. It alone decides what is sent.

States of an action:

    planned ──▶ sending ──▶ delivered
       ▲          │  │ └──▶ rejected    (state rows: tried again later, or when the row changes)
       │          │  └────▶ unknown     (a message that left and was not answered; never resent)
       └─retrying◀┘
    planned, retrying ──▶ suppressed | expired
    planned, retrying, rejected, unknown ──▶ waived    (by a person; until the row changes)

`sending` is committed before the first byte leaves. Who is sending holds an advisory lock whose
number stands on the row: a row in `sending` whose lock is free belongs to a process that died.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets as random_numbers
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg2
import pyarrow as pa
import pyarrow.csv
import sqlalchemy as sa

from syncs.claims import History, Worker, history, number
from syncs.csv_stream import CsvStream
from syncs.facts import Recipient
from syncs.ledger_sql import (
    ALREADY_THERE,
    INSERT,
    KNOWN_MESSAGES,
    KNOWN_STATES,
    LEAVE,
    READ_UP_TO,
    RECOVER,
    REPLACE_WAITING,
    SKIP_KNOWN,
    WITHDRAW,
)
from syncs.plan import CHANGE_COLUMNS, CHANGES, KNOWN_SCHEMA, Plan
from syncs.policies import Policies
from syncs.results import SyncError
from syncs.spec import SyncSpec
from syncs.tables import (
    UPGRADES,
    VERSION,
    WAITING,
    actions,
    ledger_info,
    metadata,
    paused_syncs,
    sync_runs,
)

#: Up to so many changes Postgres may loop over what it is told for each.
FEW_CHANGES = 100

_SETUP_LOCK = 0x5160_0001
_WORKER_CLASS = 0x5160_0002
_SYNC_CLASS = 0x5160_0003
_PLAN_CLASS = 0x5160_0005


class LedgerError(SyncError):
    """The ledger cannot be used; the message says why."""


def action_key(sync: str, *parts: str) -> str:
    """The action's identity: SHA-256 over the sync and its parts, in hex.

    Parts are (customer_id, trigger_id) for a message and (key,) for a state row. Each is preceded
    by its length in bytes, so no two lists of parts can run together. `plan.py` computes the same
    in SQL.
    """
    text = "".join(f"{len(part.encode())}:{part}" for part in (sync, *parts))
    return hashlib.sha256(text.encode()).hexdigest()


class Pause(NamedTuple):
    """Who keeps a sync from running, since when, and why."""

    sync: str
    by: str
    at: datetime
    reason: str | None

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return (
            f"paused by {self.by} since {self.at:%Y-%m-%d %H:%M} UTC{why}; "
            f"`signalbox sync resume {self.sync}` lets it run again"
        )


class Ledger:
    """The ledger in the Postgres database at `url`. One object may serve many threads."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(
            sa.make_url(url).set(drivername="postgresql+psycopg2"),
            pool_pre_ping=True,
            pool_size=8,
            max_overflow=64,
            # An error's text must not quote a payload.
            hide_parameters=True,
            # An intent that is not on disk is not an intent, whatever the server's default.
            connect_args={"options": "-c synchronous_commit=on -c timezone=UTC"},
        )

    @property
    def engine(self) -> sa.Engine:
        """Connections to the ledger's Postgres."""
        return self._engine

    def close(self) -> None:
        self._engine.dispose()

    def ensure(self) -> None:
        """Create what is missing. Any number of processes may call it at once.

        Raises LedgerError when a newer version of Signalbox made the tables.
        """
        with _reachable(), self._engine.begin() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SETUP_LOCK)))
            metadata.create_all(connection)
            found = connection.scalar(sa.select(sa.func.max(ledger_info.c.version)))
            if found is None:
                connection.execute(ledger_info.insert().values(version=VERSION))
            elif found > VERSION:
                raise LedgerError(
                    f"the ledger has version {found} and this Signalbox knows {VERSION}: update it"
                )
            for version in range((found or VERSION) + 1, VERSION + 1):
                connection.execute(sa.text(UPGRADES[version]))
                connection.execute(ledger_info.update().values(version=version))

    def began_at(self) -> datetime:
        """When this ledger began. A message whose trigger is older is never sent from here."""
        with _reachable(), self._engine.connect() as connection:
            moment: datetime | None = connection.scalar(
                sa.select(sa.func.min(ledger_info.c.began_at))
            )
        if moment is None:
            raise LedgerError("the ledger is not set up; start Signalbox once (signalbox up)")
        return moment

    def begin_at(self, moment: datetime) -> None:
        """Move the beginning, after a restore from a backup: to the moment of the restore."""
        with self._engine.begin() as connection:
            connection.execute(ledger_info.update().values(began_at=moment))

    # Planning

    def now(self) -> datetime:
        """The time of the ledger's clock, which all processes share."""
        with _reachable(), self._engine.connect() as connection:
            moment = connection.scalar(sa.select(sa.func.clock_timestamp()))
        assert isinstance(moment, datetime)
        return moment

    def known(
        self,
        spec: SyncSpec,
        *,
        sandbox: bool = False,
        only: str | None = None,
        customers: Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
    ) -> pa.RecordBatchReader:
        """All actions of a sync, with `plan.KNOWN_SCHEMA`, in batches, without payloads.

        State rows whose last attempt went to the sandbox count as not sent where `sandbox` is
        false, and the other way round. `only` leaves out state rows with another key and customer,
        `keys` those with other action keys, `customers` messages to anybody else.
        """
        query = KNOWN_MESSAGES if spec.is_message else KNOWN_STATES
        # On disk, so that neither we nor Postgres must hold a million rows until they are read.
        kept = tempfile.TemporaryFile()  # noqa: SIM115 (the reader keeps it)
        with self._raw() as cursor:
            parameters = {
                "sync": spec.name,
                "sandbox": sandbox,
                "only": only,
                "customers": None if customers is None else list(customers),
                "keys": None if keys is None else list(keys),
            }
            statement = cursor.mogrify(query, parameters).decode()
            cursor.copy_expert(f"copy ({statement}) to stdout (format csv)", kept, 1 << 20)
        kept.seek(0)
        if os.fstat(kept.fileno()).st_size == 0:
            return pa.RecordBatchReader.from_batches(KNOWN_SCHEMA, [])
        return pyarrow.csv.open_csv(
            kept,
            read_options=pyarrow.csv.ReadOptions(column_names=KNOWN_SCHEMA.names),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=KNOWN_SCHEMA,
                true_values=["t"],
                false_values=["f"],
                # Only Postgres' own null: a key may well be "NA".
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    @contextlib.contextmanager
    def planning(self, sync: str) -> Iterator[None]:
        """Plan and record a sync alone: waits for whoever does so at this moment.

        Two lanes that planned at once could each take the same trigger for new, under two ids of a
        customer who has just become one, or the same row.
        """
        with _reachable(), self._engine.begin() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_PLAN_CLASS, number(sync))))
            yield

    def held_rows(self, keys: Sequence[str]) -> dict[str, tuple[str, dict[str, Any]]]:
        """Key and values that the destination last confirmed, by action key.

        A row that was never confirmed and may have arrived has the values that were sent.
        """
        values = sa.func.coalesce(
            actions.c.delivered_payload,
            sa.case((actions.c.held, actions.c.payload)),
        )
        query = sa.select(actions.c.action_key, actions.c.row_key, values).where(
            actions.c.action_key == sa.any_(sa.cast(list(keys), sa.ARRAY(sa.Text))),
            values.is_not(None),
        )
        with self._engine.connect() as connection:
            return {row[0]: (row[1], row[2]) for row in connection.execute(query)}

    def record(
        self,
        spec: SyncSpec,
        plan: Plan,
        *,
        repeatable: bool,
        read_at: datetime | None = None,
        sandbox: bool = False,
        lane: str = "batch",
    ) -> int:
        """Write a plan's changes in one transaction and return how many rows it touched.

        `read_at` is when the plan's reading began, by `now()`: what was planned by a later reading
        stays. A row that is being sent at this moment is left alone: the next plan will find the
        difference again.
        """
        if not plan.count(*CHANGES):
            return 0
        with self._raw() as cursor:
            cursor.execute(
                "create temporary table incoming (change text, action_key text, row_key text,"
                " customer_id text, trigger_id text, payload_hash text, payload jsonb,"
                " expires_at timestamptz, event_at timestamptz, reason text) on commit drop"
            )
            into = f"copy incoming ({', '.join(CHANGE_COLUMNS)}) from stdin (format csv)"
            cursor.copy_expert(into, CsvStream(plan.changes()), 1 << 20)
            if plan.count(*CHANGES) > FEW_CHANGES:
                # Of a table just made Postgres knows nothing, and would loop over it for each one.
                cursor.execute("create unique index on incoming (action_key)")
                cursor.execute("analyze incoming")
            parameters = {
                "sync": spec.name,
                "destination": spec.destination,
                "mode": spec.mode,
                "repeatable": repeatable,
                "channel": spec.policies.channel,
                "priority": spec.policies.priority,
                "read_at": read_at or datetime.now(UTC),
                "sandbox": sandbox,
                "lane": lane,
            }
            conflict = SKIP_KNOWN if spec.is_message else REPLACE_WAITING
            cursor.execute(INSERT + conflict, parameters)
            touched = cursor.rowcount
            if plan.count("already_there"):
                cursor.execute(ALREADY_THERE, parameters)
            for statement, changes in ((LEAVE, ("leave",)), (WITHDRAW, ("revert", "gone"))):
                if plan.count(*changes):
                    cursor.execute(statement, parameters)
                    touched += cursor.rowcount
            return int(touched)

    def read_up_to(self, spec: SyncSpec, keys: Sequence[str], log_seq: int) -> None:
        """Note that a reading of the log up to `log_seq` wants these state rows to be held.

        Plans of what has read less leave them alone.
        """
        with _reachable(), self._engine.begin() as connection:
            connection.execute(
                sa.text(READ_UP_TO), {"sync": spec.name, "keys": list(keys), "log_seq": log_seq}
            )

    # Sending

    @contextlib.contextmanager
    def worker(self, sync: str, *, alone: bool = True) -> Iterator[Worker]:
        """A place at the counter for one run of one sync. Raises SyncBusy if another has it.

        `alone` is false for a sender that only adds messages beside a running sync.
        """
        with self._engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            own = random_numbers.randbelow(2**31 - 1) + 1
            connection.execute(sa.select(sa.func.pg_advisory_lock(_WORKER_CLASS, own)))
            if alone and not connection.scalar(
                sa.select(sa.func.pg_try_advisory_lock(_SYNC_CLASS, number(sync)))
            ):
                connection.invalidate()
                raise SyncBusy(f"{sync} is being run by another process; it will take its turn")
            try:
                yield Worker(self._engine, connection, own)
            finally:
                # The server frees the locks of a closed session when it comes to it; who asks next
                # should find them free. The pool keeps the session only if it holds none.
                freed = False
                try:
                    with contextlib.suppress(sa.exc.SQLAlchemyError):
                        connection.execute(sa.select(sa.func.pg_advisory_unlock_all()))
                        freed = True
                finally:
                    if not freed:
                        connection.invalidate()

    def recover(self) -> dict[str, int]:
        """Settle what dead processes left in `sending`; returns counts by new state.

        What may be repeated is retried at once; a message that may not becomes `unknown`.
        """
        counts: dict[str, int] = {}
        with self._engine.begin() as connection:
            numbers = connection.scalars(
                sa.select(actions.c.worker).where(actions.c.state == "sending").distinct()
            ).all()
            for worker in numbers:
                free = connection.scalar(
                    sa.select(sa.func.pg_try_advisory_xact_lock(_WORKER_CLASS, worker))
                )
                if not free:
                    continue
                for state, count in connection.execute(sa.text(RECOVER), {"worker": worker}):
                    counts[state] = counts.get(state, 0) + count
        return counts

    def suppressed_customers(self, sync: str) -> list[str]:
        """Customers whose state row was held back for want of consent."""
        query = sa.select(actions.c.customer_id.distinct()).where(
            actions.c.sync == sync,
            actions.c.state == "suppressed",
            actions.c.mode != "message",
            actions.c.payload_hash != "",
            actions.c.customer_id.is_not(None),
        )
        with self._engine.connect() as connection:
            return list(connection.scalars(query))

    def revive(self, sync: str, customers: Iterable[str]) -> int:
        """Put suppressed state rows of these customers back in line; returns how many."""
        statement = (
            actions.update()
            .where(
                actions.c.sync == sync,
                actions.c.state == "suppressed",
                actions.c.mode != "message",
                actions.c.payload_hash != "",
                actions.c.customer_id == sa.any_(sa.cast(list(customers), sa.ARRAY(sa.Text))),
            )
            .values(
                state="planned",
                reason=None,
                policy=None,
                next_attempt_at=sa.func.now(),
                updated_at=sa.func.now(),
            )
        )
        with self._engine.begin() as connection:
            return connection.execute(statement).rowcount

    def upcoming(self, spec: SyncSpec, limit: int = 500) -> list[Recipient]:
        """To whom the actions go that are due next."""
        address = spec.policies.address
        query = (
            sa.select(
                actions.c.action_key,
                actions.c.customer_id,
                sa.cast(sa.null(), sa.Text)
                if address is None
                else actions.c.payload[address].astext,
            )
            .where(
                actions.c.sync == spec.name,
                actions.c.state.in_(WAITING),
                actions.c.next_attempt_at <= sa.func.now(),
            )
            .order_by(actions.c.next_attempt_at, actions.c.action_key)
            .limit(limit)
        )
        with self._engine.connect() as connection:
            return [Recipient(*row) for row in connection.execute(query)]

    def history(
        self,
        sync: str,
        policies: Policies,
        customers: Sequence[str],
        since: datetime,
        *,
        but: Sequence[str] = (),
    ) -> History:
        """What the caps of a sync would look back on now, for looking only: nothing is locked.

        Actions whose keys are in `but` are left out.
        """
        with self._engine.connect() as connection:
            return history(connection, sync, policies, customers, since, but)

    def pause_of(self, sync: str) -> Pause | None:
        """The pause of a sync, if a person paused it."""
        query = sa.select(
            paused_syncs.c.paused_by, paused_syncs.c.paused_at, paused_syncs.c.reason
        ).where(paused_syncs.c.sync == sync)
        with _reachable(), self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Pause(sync, *row)

    # Reporting

    def counts(self, sync: str | None = None) -> dict[str, int]:
        """Number of actions by state."""
        query = sa.select(actions.c.state, sa.func.count()).group_by(actions.c.state)
        if sync is not None:
            query = query.where(actions.c.sync == sync)
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def standing(self, sync: str) -> tuple[dict[str, int], float | None]:
        """What `counts` and `next_due` say of a sync, in one question."""
        due_in = sa.func.extract("epoch", sa.func.min(actions.c.next_attempt_at) - sa.func.now())
        query = (
            sa.select(actions.c.state, sa.func.count(), due_in)
            .where(actions.c.sync == sync)
            .group_by(actions.c.state)
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        dues = [float(due) for state, _, due in rows if state in WAITING and due is not None]
        return {state: count for state, count, _ in rows}, min(dues, default=None)

    def next_due(self, sync: str, *, only: str | None = None) -> float | None:
        """Seconds until the next waiting action of a sync is due; None when nothing waits."""
        due_in = sa.func.extract("epoch", sa.func.min(actions.c.next_attempt_at) - sa.func.now())
        query = sa.select(due_in).where(actions.c.sync == sync, actions.c.state.in_(WAITING))
        if only is not None:
            query = query.where(sa.or_(actions.c.row_key == only, actions.c.customer_id == only))
        with self._engine.connect() as connection:
            seconds = connection.scalar(query)
        return None if seconds is None else float(seconds)

    def usual_rows(self, sync: str) -> int | None:
        """How many rows the sync's model had when a plan of it was last accepted."""
        rows = sync_runs.c.counts["rows"]
        query = (
            sa.select(rows.as_integer())
            .where(sync_runs.c.sync == sync, sync_runs.c.counts.has_key("rows"))
            .order_by(sync_runs.c.run_id.desc())
            .limit(1)
        )
        with self._engine.connect() as connection:
            return connection.scalar(query)

    def recorded(self, keys: Collection[str]) -> set[str]:
        """Which of these action keys the ledger knows, in whatever state."""
        query = sa.select(actions.c.action_key).where(
            actions.c.action_key == sa.any_(sa.cast(list(keys), sa.ARRAY(sa.Text)))
        )
        with _reachable(), self._engine.connect() as connection:
            return set(connection.scalars(query))

    def last_status(self, sync: str) -> str | None:
        """How the sync's last run ended."""
        query = (
            sa.select(sync_runs.c.status)
            .where(sync_runs.c.sync == sync)
            .order_by(sync_runs.c.run_id.desc())
            .limit(1)
        )
        with _reachable(), self._engine.connect() as connection:
            return connection.scalar(query)

    def record_run(self, **values: Any) -> None:
        """Keep a run's report: the columns of `sync_runs` but run_id and finished_at."""
        with self._engine.begin() as connection:
            connection.execute(sync_runs.insert().values(**values))

    @contextlib.contextmanager
    def _raw(self) -> Iterator[Any]:
        connection = self._engine.raw_connection()
        try:
            yield connection.cursor()
            connection.commit()
        except psycopg2.Error as error:
            # Postgres' own words quote the row.
            raise LedgerError(f"the ledger refused it ({type(error).__name__})") from None
        finally:
            connection.close()


class SyncBusy(LedgerError):
    """Another process is running this sync."""


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    """Turns the driver's errors, whose text holds the URL's parts, into one plain sentence."""
    try:
        yield
    except sa.exc.OperationalError:
        raise LedgerError("the ledger's Postgres cannot be reached") from None
    except sa.exc.ProgrammingError:
        raise LedgerError("the ledger is not set up; start Signalbox once (signalbox up)") from None
