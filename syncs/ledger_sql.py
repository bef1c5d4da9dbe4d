"""The SQL of the ledger: what a plan reads of it, what it writes, and what a dead process left."""

KNOWN_STATES = """
select
    action_key, state,
    case when here then left(nullif(payload_hash, ''), 16) end,
    case when here then left(delivered_hash, 16) end,
    here and delivered_payload is not null, here and held, leave,
    case when here then updated_at else timestamptz '2999-01-01 00:00:00+00' end,
    null, null, case when here then log_seq end
from (
    select *, coalesce(sandbox = %(sandbox)s, true) as here
    from actions
    where sync = %(sync)s
        and (%(only)s::text is null or row_key = %(only)s or customer_id = %(only)s)
        and (%(keys)s::text[] is null or action_key = any(%(keys)s))
) as known
"""

KNOWN_MESSAGES = """
select action_key, state, null, null, null, null, null, null, customer_id, trigger_id, null
from actions
where sync = %(sync)s and mode = 'message'
    and (%(customers)s::text[] is null or customer_id = any(%(customers)s))
"""

# In the order of the keys, so that neighbours in the table, and so in a claim, are neighbours in
# the index too: half the work for a million rows.
INSERT = """
insert into actions as a (
    action_key, sync, destination, mode, row_key, customer_id, trigger_id, payload_hash, payload,
    state, reason, policy, expires_at, event_at, next_attempt_at, repeatable, channel, priority,
    planned_at, lane
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
    %(repeatable)s, %(channel)s, %(priority)s, %(read_at)s,
    %(lane)s
from incoming
where change not in ('leave', 'revert', 'gone')
order by action_key
"""

SKIP_KNOWN = "on conflict (action_key) do nothing"

# The newest payload replaces a waiting older one; a new payload starts its own count of attempts.
REPLACE_WAITING = """
on conflict (action_key) do update set
    destination = excluded.destination, mode = excluded.mode, customer_id = excluded.customer_id,
    payload_hash = excluded.payload_hash, payload = excluded.payload, state = excluded.state,
    reason = null, policy = null, status_code = null, attempts = 0, event_at = excluded.event_at,
    next_attempt_at = excluded.next_attempt_at, repeatable = excluded.repeatable,
    planned_at = excluded.planned_at, lane = excluded.lane, leave = false, updated_at = now()
where a.state <> 'sending' and a.planned_at <= excluded.planned_at
"""

READ_UP_TO = """
update actions set log_seq = greatest(log_seq, :log_seq)
where sync = :sync and action_key = any(:keys)
"""

# Noted as delivered, so that it is compared with the model from here on.
ALREADY_THERE = """
update actions a set
    state = 'delivered', reason = 'the destination already has it', held = true,
    delivered_hash = a.payload_hash, delivered_payload = a.payload, delivered_at = now(),
    sandbox = %(sandbox)s, next_attempt_at = null
from incoming i
where a.action_key = i.action_key and i.change = 'already_there'
    and a.state = 'planned' and a.payload_hash = i.payload_hash
"""

# What identifies the row to the destination is what it was last told.
LEAVE = """
update actions a set
    state = 'planned', leave = true, payload = coalesce(a.delivered_payload, a.payload),
    payload_hash = '', reason = null, policy = null, status_code = null, attempts = 0,
    next_attempt_at = now(), planned_at = %(read_at)s, updated_at = now()
from incoming i
where a.action_key = i.action_key and a.sync = %(sync)s and i.change = 'leave'
    and a.state <> 'sending' and a.planned_at <= %(read_at)s
"""

# A change that went back to what the destination holds, or whose row left the model. The latter
# keeps no hash, so that the row is new again when it comes back.
WITHDRAW = """
update actions a set
    state = case when i.change = 'revert' then 'delivered' else 'suppressed' end,
    payload_hash = case when i.change = 'revert' then a.delivered_hash else '' end,
    payload = case when i.change = 'revert' then a.delivered_payload else a.payload end,
    reason = case when i.change = 'revert' then null else 'the row left the sync model' end,
    policy = null, leave = false, next_attempt_at = null, planned_at = %(read_at)s,
    updated_at = now()
from incoming i
where a.action_key = i.action_key and a.sync = %(sync)s and i.change in ('revert', 'gone')
    and a.state not in ('sending', 'delivered') and a.planned_at <= %(read_at)s
"""

RECOVER = """
with orphans as (
    update actions set
        state = case when repeatable then 'retrying' else 'unknown' end,
        reason = 'the process died while it was sending',
        held = true,
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
