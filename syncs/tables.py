"""The ledger's tables in Postgres, and what brings older ones to their present form."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

STATES = (
    "planned",
    "sending",
    "delivered",
    "rejected",
    "retrying",
    "unknown",
    "suppressed",
    "expired",
)

#: States in which something is still to be done.
WAITING = ("planned", "retrying")

VERSION = 2

metadata = sa.MetaData()
_moment = sa.DateTime(timezone=True)

actions = sa.Table(
    "actions",
    metadata,
    sa.Column("action_key", sa.Text, primary_key=True),
    sa.Column("sync", sa.Text, nullable=False),
    sa.Column("destination", sa.Text, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("row_key", sa.Text, nullable=False),
    sa.Column("customer_id", sa.Text),
    sa.Column("trigger_id", sa.Text),
    sa.Column("payload_hash", sa.Text, nullable=False),
    sa.Column("payload", JSONB, nullable=False),
    sa.Column(
        "state",
        sa.Text,
        sa.CheckConstraint("state in (" + ", ".join(f"'{state}'" for state in STATES) + ")"),
        nullable=False,
    ),
    sa.Column("reason", sa.Text),
    # Which policy held it back, if one did.
    sa.Column("policy", sa.Text),
    sa.Column("status_code", sa.Integer),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_at", _moment, nullable=False, server_default=sa.func.now()),
    sa.Column("updated_at", _moment, nullable=False, server_default=sa.func.now()),
    sa.Column("sent_at", _moment),
    sa.Column("delivered_at", _moment),
    sa.Column("expires_at", _moment),
    # Set while something is to be done: when, and thereby in which order.
    sa.Column("next_attempt_at", _moment),
    sa.Column("event_at", _moment),
    # State rows: what the destination last confirmed. The hash is cleared when a newer payload
    # leaves, because from then on nobody knows which of the two the destination holds.
    sa.Column("delivered_hash", sa.Text),
    sa.Column("delivered_payload", JSONB),
    # Whether an attempt with an unknown end may be repeated.
    sa.Column("repeatable", sa.Boolean, nullable=False),
    # Messages: what caps and priorities between syncs go by.
    sa.Column("channel", sa.Text),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("worker", sa.Integer),
)
_todo = sa.text("state in ('planned', 'retrying', 'rejected')")
sa.Index("actions_due", actions.c.sync, actions.c.next_attempt_at, postgresql_where=_todo)
sa.Index("actions_sending", actions.c.worker, postgresql_where=sa.text("state = 'sending'"))
sa.Index("actions_sync", actions.c.sync, actions.c.state)
sa.Index("actions_customer", actions.c.customer_id)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("attempt_id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("action_key", sa.Text, nullable=False, index=True),
    sa.Column("sync", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("payload_hash", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("status_code", sa.Integer),
    sa.Column("started_at", _moment),
    sa.Column("finished_at", _moment, nullable=False, server_default=sa.func.now()),
)

sync_runs = sa.Table(
    "sync_runs",
    metadata,
    sa.Column("run_id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("sync", sa.Text, nullable=False, index=True),
    sa.Column("destination", sa.Text, nullable=False),
    sa.Column("sandbox", sa.Boolean, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("message", sa.Text),
    sa.Column("counts", JSONB, nullable=False),
    sa.Column("started_at", _moment, nullable=False),
    sa.Column("finished_at", _moment, nullable=False, server_default=sa.func.now()),
)

lanes = sa.Table(
    "lanes",
    metadata,
    sa.Column("lane", sa.Text, primary_key=True),
    sa.Column("turn_at", _moment),
    sa.Column("held_until", _moment),
    sa.Column("failed", sa.Integer, nullable=False),
)

ledger_info = sa.Table(
    "ledger_info",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("began_at", _moment, nullable=False, server_default=sa.func.now()),
)

# What brings the tables of the version before to this one.
UPGRADES = {
    2: "alter table actions add column if not exists policy text,"
    " add column if not exists channel text,"
    " add column if not exists priority integer not null default 0",
}
