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
    "waived",
)

#: States in which something is still to be done.
WAITING = ("planned", "retrying")

VERSION = 6

metadata = sa.MetaData()
_moment = sa.DateTime(timezone=True)
_ONE_OF_THE_STATES = "state in (" + ", ".join(f"'{state}'" for state in STATES) + ")"

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
    # What the destination is to be told: empty for a row that it shall not have.
    sa.Column("payload_hash", sa.Text, nullable=False),
    # Null where its time of retention is over.
    sa.Column("payload", JSONB),
    sa.Column(
        "state",
        sa.Text,
        sa.CheckConstraint(_ONE_OF_THE_STATES, name="actions_state_check"),
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
    # State rows: whether the destination may hold the row, and whether it shall lose it.
    sa.Column("held", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("leave", sa.Boolean, nullable=False, server_default=sa.false()),
    # When the model was read: what was read earlier never replaces it.
    sa.Column("planned_at", _moment, nullable=False, server_default=sa.func.now()),
    # Where the last attempt went: what a sandbox has taken, its vendor has not.
    sa.Column("sandbox", sa.Boolean),
    # Whether an attempt with an unknown end may be repeated.
    sa.Column("repeatable", sa.Boolean, nullable=False),
    # Messages: what caps and priorities between syncs go by.
    sa.Column("channel", sa.Text),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("worker", sa.Integer),
    # Which lane recorded the intent: batch or hot. Null before there were two.
    sa.Column("lane", sa.Text),
    # State rows: how far the hot lane had read when it last said that the destination shall have
    # the row. A lake that has read less does not know better.
    sa.Column("log_seq", sa.BigInteger),
)
_todo = sa.text("state in ('planned', 'retrying', 'rejected')")
sa.Index("actions_due", actions.c.sync, actions.c.next_attempt_at, postgresql_where=_todo)
sa.Index("actions_sending", actions.c.worker, postgresql_where=sa.text("state = 'sending'"))
sa.Index("actions_sync", actions.c.sync, actions.c.state)
# What caps look back on. State rows, of which there may be millions, do without.
sa.Index("actions_customer", actions.c.customer_id, postgresql_where=sa.text("mode = 'message'"))

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("attempt_id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("action_key", sa.Text, nullable=False),
    sa.Column("sync", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("payload_hash", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("status_code", sa.Integer),
    sa.Column("latency_ms", sa.Integer),
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

paused_syncs = sa.Table(
    "paused_syncs",
    metadata,
    sa.Column("sync", sa.Text, primary_key=True),
    sa.Column("paused_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("paused_at", _moment, nullable=False, server_default=sa.func.now()),
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
    3: f"""
    alter table actions
        alter column payload drop not null,
        add column if not exists held boolean not null default false,
        add column if not exists leave boolean not null default false,
        add column if not exists planned_at timestamptz not null default now(),
        add column if not exists sandbox boolean,
        drop constraint if exists actions_state_check,
        add constraint actions_state_check check ({_ONE_OF_THE_STATES});
    alter table attempts add column if not exists latency_ms integer;
    update actions set held = true
    where mode <> 'message' and sent_at is not null
        and (delivered_payload is not null or state <> 'rejected');
    """,
    4: """
    drop index if exists ix_attempts_action_key, actions_customer;
    create index actions_customer on actions (customer_id) where mode = 'message';
    """,
    5: "alter table actions add column if not exists lane text",
    6: "alter table actions add column if not exists log_seq bigint",
}
