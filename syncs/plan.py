"""What is due: the sync model against the ledger, in SQL. Reads both, changes neither."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa

from syncs.plan_sql import (
    KNOWN_BY_NOW,
    MERGED,
    MESSAGES,
    PARTED,
    PARTING,
    STATES,
    model_rows,
    read_back_steps,
)
from syncs.results import Fatal
from syncs.spec import SyncSpec

#: Columns of a plan's changes: what is to be done, and everything the ledger keeps about it.
CHANGE_COLUMNS = (
    "change",
    "action_key",
    "row_key",
    "customer_id",
    "trigger_id",
    "payload_hash",
    "payload",
    "expires_at",
    "event_at",
    "reason",
)

#: What the ledger is told; all other kinds need nothing.
CHANGES = (
    "create", "update", "resend", "already_there", "leave", "revert", "gone",
    "message", "expired", "suppressed",
)  # fmt: skip

#: Columns of `Ledger.known`. State rows have no customer and no trigger, messages no hashes and no
#: log_seq.
#: Of a hash, 16 digits are enough: one change in 10¹⁹ would be missed.
KNOWN_SCHEMA = pa.schema(
    {
        "action_key": pa.string(),
        "state": pa.string(),
        "payload_hash": pa.string(),
        "delivered_hash": pa.string(),
        "was_delivered": pa.bool_(),
        "held": pa.bool_(),
        "leave": pa.bool_(),
        "updated_at": pa.timestamp("us", "UTC"),
        "customer_id": pa.string(),
        "trigger_id": pa.string(),
        "log_seq": pa.int64(),
    }
)

#: Below this many rows a large share of changes is nothing unusual.
BLAST_MINIMUM = 100

#: How much the number of rows may change from one run to the next where a sync names no limit.
ROW_CHANGE = 0.5


class PlanError(Fatal):
    """The sync model's rows cannot be planned; the message says what is wrong with them."""


class Plan:
    """What one run of a sync would change in the ledger. Lives in DuckDB; close it after use.

    Kinds of change are, for state rows, create, update, leave (the destination shall lose the row),
    already_there (it has these values, by what was read back), resend (unchanged, in a full plan),
    revert and gone (what was planned is not needed any more); and message, expired or suppressed
    for messages. `counts` also has what needs nothing: unchanged, waiting, in_flight, rejected,
    waived, suppressed, known, skipped (no key), absent (update_only: not in the destination),
    no_consent (mirror), ahead (the hot lane has read further than the model). `total` is the number
    of rows of the model, `blocked` the reason why nothing of the plan may be sent without approval.
    """

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        counts: dict[str, int],
        total: int,
        blocked: str | None,
        schema: str | None,
    ) -> None:
        self._cursor = cursor
        self._schema = schema
        self.counts = counts
        self.total = total
        self.blocked = blocked

    def close(self) -> None:
        self._cursor.close()

    def look_again(self, known: pa.RecordBatchReader | pa.Table) -> None:
        """Compare the messages of this plan with what the ledger knows by now.

        The model is not read again, so that another lane waits for this only.
        """
        if _take_known(self._cursor, known):
            self._cursor.execute(KNOWN_BY_NOW)
            if self._schema is not None:
                _follow_identities(self._cursor, self._schema)
        self.counts, _ = _counts(self._cursor)

    def count(self, *changes: str) -> int:
        return sum(self.counts.get(change, 0) for change in changes)

    def changes(self, *kinds: str) -> pa.RecordBatchReader:
        """The changes of these kinds, of all by default, with CHANGE_COLUMNS, in batches."""
        return self._cursor.execute(
            f"select {', '.join(CHANGE_COLUMNS)} from signalbox_plan"
            " where change in (select unnest($kinds)) and not settled",
            {"kinds": list(kinds or CHANGES)},
        ).to_arrow_reader(10_000)

    def rows(self, *kinds: str, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Changes of these kinds as dicts of CHANGE_COLUMNS, at most `limit`."""
        left = limit
        for batch in self.changes(*kinds):
            for row in batch.to_pylist():
                if left is not None and left <= 0:
                    return
                if left is not None:
                    left -= 1
                yield row


def plan_sync(
    connection: duckdb.DuckDBPyConnection,
    spec: SyncSpec,
    known: pa.RecordBatchReader | pa.Table,
    *,
    now: datetime,
    began_at: datetime,
    relation: str | None = None,
    schema: str | None = None,
    read_back: str | None = None,
    full: bool = False,
    only: str | None = None,
    usual: int | None = None,
) -> Plan:
    """Compare the sync model with `known` (`Ledger.known`) and say what is to be done.

    Args:
        connection: reads the sync model; the plan keeps a cursor of its own on it.
        spec: the sync.
        known: what the ledger knows, with KNOWN_SCHEMA; read once.
        now: a message that has expired by then is not sent.
        began_at: the ledger's beginning: an older trigger may have been sent from a ledger that is
            lost, so it is suppressed.
        relation: replaces the model's table as dbt names it.
        schema: where identity_map, identity_edges, customer_consents and build_watermarks are.
            None: customers never merge, no model is behind the hot lane, and a mirror that needs
            consent cannot be planned.
        read_back: a query for what the destination has: key, fields (JSON), read_at.
        full: send rows again that have not changed. Messages are never sent again.
        only: plan only rows with this key or customer.
        usual: rows of the model when it was last sent, for the blast limit.

    Raises:
        PlanError: the model cannot be read, lacks a column, or repeats a key.
    """
    source = relation or spec.relation
    cursor = connection.cursor()
    try:
        try:
            delivered = _compare(cursor, spec, source, known, schema, read_back, full, only,
                                 now=now, began_at=began_at)  # fmt: skip
        except duckdb.Error as error:
            # Only the kind and the first line: a cast error's text quotes the value.
            kind = type(error).__name__
            hint = (
                str(error).partition("\n")[0] if kind in _SAFE_ERRORS else "see the model's query"
            )
            raise PlanError(f"{spec.model} cannot be read: {kind}: {hint}") from None
        _check_unique(cursor, spec)
        counts, total = _counts(cursor)
    except BaseException:
        cursor.close()
        raise
    blocked = None
    if not spec.is_message and only is None:
        blocked = _blast(spec, counts, delivered, total, usual)
    return Plan(cursor, counts, total, blocked, schema)


def _counts(cursor: duckdb.DuckDBPyConnection) -> tuple[dict[str, int], int]:
    """How many of each kind of change, and how many rows of the model."""
    found = cursor.execute(
        "select change, count(*), count(*) filter (where in_model)"
        " from signalbox_plan group by change order by change"
    ).fetchall()
    counts = {str(change): int(count) for change, count, _ in found}
    return counts, sum(int(rows) for _, _, rows in found)


_SAFE_ERRORS = {"CatalogException", "BinderException", "ParserException"}


def _compare(
    cursor: duckdb.DuckDBPyConnection,
    spec: SyncSpec,
    relation: str,
    known: pa.RecordBatchReader | pa.Table,
    schema: str | None,
    read_back: str | None,
    full: bool,
    only: str | None,
    **moments: datetime,
) -> int:
    """Make the table `signalbox_plan`; returns how many rows the destination has of us."""
    consents = None
    if spec.mode == "mirror" and spec.policies.consent is not None:
        if schema is None:
            raise PlanError(f"{spec.name} needs consent, and none can be read; nothing is sent")
        consents = f"{schema}.customer_consents"
    known_actions = _take_known(cursor, known)
    parameters: dict[str, Any] = {"only": only}
    if consents is not None:
        parameters["purpose"] = spec.policies.consent
    delivered = 0
    if spec.is_message:
        parameters |= moments
    else:
        ((delivered, positions),) = cursor.execute(_OF_KNOWN).fetchall()
        # Before the model: what a build reads that ends in between is then not taken for read.
        position = _position(cursor, schema) if schema is not None and positions else None
        parameters |= {"full": full, "mirror": spec.mode == "mirror", "position": position}
    # Consents are to be of the same build as the model.
    cursor.execute("begin transaction")
    types = _take_model(cursor, spec, relation)
    rows = model_rows(spec, "signalbox_model", types, consents)
    cursor.execute(_CREATE + rows + (MESSAGES if spec.is_message else STATES), parameters)
    cursor.execute("drop table signalbox_model")
    cursor.execute("commit")
    if spec.is_message:
        if schema is not None and known_actions:
            _follow_identities(cursor, schema)
        return 0
    if read_back is not None and not _is_there(cursor, read_back):
        read_back = None
    if spec.mode == "update_only" and read_back is None and not spec.skips_absent:
        raise PlanError(f"{spec.name}: update_only needs what {spec.destination} has, read back")
    if read_back is not None and not (full and spec.mode != "update_only"):
        for step in read_back_steps(spec, types, read_back, skip_equal=not full):
            cursor.execute(step)
    return int(delivered)


def _take_known(cursor: duckdb.DuckDBPyConnection, known: pa.RecordBatchReader | pa.Table) -> int:
    """Make the table `signalbox_known`; returns how many actions it has."""
    cursor.register("signalbox_ledger", known)
    ((count,),) = cursor.execute(_KNOWN).fetchall()
    cursor.unregister("signalbox_ledger")
    return int(count)


def _follow_identities(cursor: duckdb.DuckDBPyConnection, schema: str) -> None:
    """Customers merge, and their messages are derived anew under the id that is left.

    A message is known when its trigger was acted on under any id that now belongs to the customer.
    Seldom customers part, when an id turns out to be shared by many or two ids are split by hand:
    an edge then has its ends in two customers. The message is known, too, when its trigger was
    acted on under a customer at the other end who no longer has the trigger.
    """
    if not cursor.execute(_HAS_MESSAGES).fetchall():
        return
    cursor.execute(MERGED.format(schema=schema))
    if cursor.execute(PARTING).fetchall():
        cursor.execute(PARTED.format(schema=schema))


def _position(cursor: duckdb.DuckDBPyConnection, schema: str) -> int | None:
    """How far in the log the models have read; None where models keep no account of it."""
    watermarks = f"{schema}.build_watermarks"
    if not _is_there(cursor, watermarks):
        return None
    query = f"select min(log_seq) from {watermarks} where model = 'identity_map'"
    row = cursor.execute(query).fetchone()
    return None if row is None else row[0]


def _is_there(cursor: duckdb.DuckDBPyConnection, read_back: str) -> bool:
    """Whether a relation exists."""
    try:
        cursor.execute(f"describe {read_back}")
    except (duckdb.CatalogException, duckdb.BinderException) as error:
        if "does not exist" in str(error):
            return False
        raise
    return True


def _take_model(cursor: duckdb.DuckDBPyConnection, spec: SyncSpec, relation: str) -> dict[str, str]:
    """Make the table `signalbox_model` of the model's rows; returns its columns' types.

    The table is asked for them, because a view with many others below it takes long to answer.

    Raises:
        PlanError: the model is not built, or a declared column is not there.
    """
    try:
        cursor.execute(f"create temporary table signalbox_model as select * from {relation}")
    except duckdb.CatalogException:
        raise PlanError(
            f"{spec.model} is not built; run `signalbox build --select {spec.model}`"
        ) from None
    described = cursor.execute("describe signalbox_model").fetchall()
    types = {str(row[0]): str(row[1]).upper() for row in described}
    missing = [column for column in spec.columns if column not in types]
    if missing:
        raise PlanError(
            f"{spec.model}: the table has no column {', '.join(missing)}; build the model again"
        )
    return types


_KNOWN = """
create or replace temporary table signalbox_known as
select
    action_key, state, was_delivered, held, leave, updated_at, customer_id, trigger_id, log_seq,
    try_cast('0x' || left(payload_hash, 16) as ubigint) as payload_hash,
    try_cast('0x' || left(delivered_hash, 16) as ubigint) as delivered_hash
from signalbox_ledger
"""

_OF_KNOWN = "select count(*) filter (where was_delivered), count(log_seq) from signalbox_known"

_HAS_MESSAGES = "select 1 from signalbox_plan where change = 'message' limit 1"

_CREATE = "create temporary table signalbox_plan as "


def _check_unique(cursor: duckdb.DuckDBPyConnection, spec: SyncSpec) -> None:
    if spec.is_message:
        return
    row = cursor.execute(
        "select count(*) - count(distinct key_digits) from signalbox_plan"
        " where in_model and change <> 'skipped'"
    ).fetchone()
    if row is not None and row[0]:
        raise PlanError(
            f"{spec.model}: {row[0]} rows repeat a value of the key {spec.key!r}; which one would "
            "win is chance, so nothing is sent (add a unique test to the model)"
        )


def _blast(
    spec: SyncSpec, counts: dict[str, int], delivered: int, total: int, usual: int | None
) -> str | None:
    """Why a state sync must be looked at by a person before it is sent, if it must."""
    limit = spec.max_change_ratio
    changed = sum(counts.get(change, 0) for change in ("create", "update", "leave"))
    if limit is not None and delivered >= BLAST_MINIMUM and changed > limit * delivered:
        return (
            f"{changed:,} of {delivered:,} delivered rows would change ({changed / delivered:.0%}, "
            f"allowed {limit:.0%}){_ASK.format(name=spec.name)}"
        )
    limit = limit or ROW_CHANGE
    if usual is not None and usual >= BLAST_MINIMUM and abs(total - usual) > limit * usual:
        more = "more" if total > usual else "fewer"
        return (
            f"the model has {total:,} rows, far {more} than the {usual:,} it had when it was last "
            f"sent (allowed {limit:.0%}){_ASK.format(name=spec.name)}"
        )
    return None


_ASK = (
    ": nothing is sent. Look with `signalbox sync {name} --dry-run`, "
    "then approve with `signalbox sync {name} --approve`"
)
