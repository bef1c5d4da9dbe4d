"""The ledger: every action's intent, attempts and outcome. It alone decides what is sent.

States of an action:

    planned ──▶ sending ──▶ delivered
       ▲          │  │ └──▶ rejected    (state rows: tried again later, or when the row changes)
       │          │  └────▶ unknown     (a message that left and was not answered; never resent)
       └─retrying◀┘
    planned, retrying ──▶ suppressed | expired

`sending` is committed before the first byte leaves. Who is sending holds an advisory lock whose
number stands on the row: a row in `sending` whose lock is free belongs to a process that died.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import secrets as random_numbers
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import psycopg2
import pyarrow as pa
import pyarrow.csv
import sqlalchemy as sa

from syncs.claims import History, Worker, history, number
from syncs.policies import Policies
from syncs.results import SyncError
from syncs.spec import SyncSpec
from syncs.tables import UPGRADES, VERSION, WAITING, actions, ledger_info, metadata, sync_runs

_SETUP_LOCK = 0x5160_0001
_WORKER_CLASS = 0x5160_0002
_SYNC_CLASS = 0x5160_0003


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

    def known(self, sync: str) -> pa.Table:
        """All actions of a sync: action_key, row_key, state, payload_hash, delivered_hash,
        was_delivered (boolean). Streamed, so that a million rows take a second or two."""
        query = (
            "select action_key, row_key, state, payload_hash, delivered_hash,"
            " delivered_payload is not null as was_delivered"
            " from actions where sync = %s"
        )
        names = ["action_key", "row_key", "state", "payload_hash", "delivered_hash"]
        types = {name: pa.string() for name in names} | {"was_delivered": pa.bool_()}
        buffer = io.BytesIO()
        with self._raw() as cursor:
            statement = cursor.mogrify(query, (sync,)).decode()
            cursor.copy_expert(f"copy ({statement}) to stdout (format csv, header)", buffer)
        buffer.seek(0)
        return pyarrow.csv.read_csv(
            buffer,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types,
                true_values=["t"],
                false_values=["f"],
                # Only Postgres' own null: a key may well be "NA".
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    def delivered_payloads(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What the destination last confirmed, by action key."""
        query = sa.select(actions.c.action_key, actions.c.delivered_payload).where(
            actions.c.action_key == sa.any_(sa.cast(list(keys), sa.ARRAY(sa.Text))),
            actions.c.delivered_payload.is_not(None),
        )
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def record(self, spec: SyncSpec, changes: pa.Table, *, repeatable: bool) -> int:
        """Write a plan's changes in one transaction and return how many rows it touched.

        `changes` has the columns of `plan.CHANGE_COLUMNS`. A row that is being sent at this moment
        is left alone: the next plan will find the difference again.
        """
        if changes.num_rows == 0:
            return 0
        buffer = io.BytesIO()
        pyarrow.csv.write_csv(changes, buffer)
        buffer.seek(0)
        columns = ", ".join(changes.column_names)
        with self._raw() as cursor:
            cursor.execute(
                "create temporary table incoming (change text, action_key text, row_key text,"
                " customer_id text, trigger_id text, payload_hash text, payload jsonb,"
                " expires_at timestamptz, event_at timestamptz, reason text) on commit drop"
            )
            cursor.copy_expert(f"copy incoming ({columns}) from stdin (format csv, header)", buffer)
            # Of a table just made Postgres knows nothing, and would loop over it for each action.
            cursor.execute("create unique index on incoming (action_key)")
            cursor.execute("analyze incoming")
            parameters = {
                "sync": spec.name,
                "destination": spec.destination,
                "mode": spec.mode,
                "repeatable": repeatable,
                "channel": spec.policies.channel,
                "priority": spec.policies.priority,
            }
            conflict = _SKIP_KNOWN if spec.is_message else _REPLACE_WAITING
            cursor.execute(_INSERT + conflict, parameters)
            touched = cursor.rowcount
            cursor.execute(_WITHDRAW, parameters)
            return int(touched + cursor.rowcount)

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
                # Closing the session frees its locks; the pool would keep both.
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
                for state, count in connection.execute(sa.text(_RECOVER), {"worker": worker}):
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

    def history(
        self, sync: str, policies: Policies, customers: Sequence[str], since: datetime
    ) -> History:
        """What the caps of a sync would look back on now, for looking only: nothing is locked."""
        with self._engine.connect() as connection:
            return history(connection, sync, policies, customers, since, [])

    # Reporting

    def counts(self, sync: str | None = None) -> dict[str, int]:
        """Number of actions by state."""
        query = sa.select(actions.c.state, sa.func.count()).group_by(actions.c.state)
        if sync is not None:
            query = query.where(actions.c.sync == sync)
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def next_due(self, sync: str) -> float | None:
        """Seconds until the next waiting action of a sync is due; None when nothing waits."""
        due_in = sa.func.extract("epoch", sa.func.min(actions.c.next_attempt_at) - sa.func.now())
        query = sa.select(due_in).where(actions.c.sync == sync, actions.c.state.in_(WAITING))
        with self._engine.connect() as connection:
            seconds = connection.scalar(query)
        return None if seconds is None else float(seconds)

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


_INSERT = """
insert into actions as a (
    action_key, sync, destination, mode, row_key, customer_id, trigger_id, payload_hash, payload,
    state, reason, policy, expires_at, event_at, next_attempt_at, repeatable, channel, priority
)
select
    action_key, %(sync)s, %(destination)s, %(mode)s, row_key, customer_id, trigger_id,
    payload_hash, payload,
    case when change in ('expired', 'suppressed') then change else 'planned' end,
    reason,
    case change when 'expired' then 'expiry' when 'suppressed' then 'ledger_began' end,
    expires_at, event_at,
    case when change in ('expired', 'suppressed') then null
         else least(coalesce(event_at, now()), now()) end,
    %(repeatable)s, %(channel)s, %(priority)s
from incoming
where change in ('create', 'update', 'message', 'expired', 'suppressed')
"""

_SKIP_KNOWN = "on conflict (action_key) do nothing"

# The newest payload replaces a waiting older one; a new payload starts its own count of attempts.
_REPLACE_WAITING = """
on conflict (action_key) do update set
    destination = excluded.destination, mode = excluded.mode, customer_id = excluded.customer_id,
    payload_hash = excluded.payload_hash, payload = excluded.payload, state = excluded.state,
    reason = null, policy = null, status_code = null, attempts = 0, event_at = excluded.event_at,
    next_attempt_at = excluded.next_attempt_at, repeatable = excluded.repeatable,
    updated_at = now()
where a.state <> 'sending'
"""

# A change that went back to what the destination holds, or whose row left the model. The latter
# keeps no hash, so that the row is new again when it comes back.
_WITHDRAW = """
update actions a set
    state = case when i.change = 'revert' then 'delivered' else 'suppressed' end,
    payload_hash = case when i.change = 'revert' then a.delivered_hash else '' end,
    payload = case when i.change = 'revert' then a.delivered_payload else a.payload end,
    reason = case when i.change = 'revert' then null else 'the row left the sync model' end,
    next_attempt_at = null, updated_at = now()
from incoming i
where a.action_key = i.action_key and a.sync = %(sync)s and i.change in ('revert', 'gone')
    and a.state in ('planned', 'retrying', 'rejected', 'suppressed')
"""

_RECOVER = """
with orphans as (
    update actions set
        state = case when repeatable then 'retrying' else 'unknown' end,
        reason = 'the process died while it was sending',
        next_attempt_at = case when repeatable then now() end,
        updated_at = now()
    where state = 'sending' and worker = :worker
    returning action_key, sync, attempts, payload_hash, state, reason, sent_at
),

noted as (
    insert into attempts (action_key, sync, attempt, payload_hash, outcome, reason, started_at)
    select action_key, sync, attempts, payload_hash, state, reason, sent_at
    from orphans
)

select state, count(*) from orphans group by state
"""
