"""The SQL of a plan: a sync model's rows as actions, compared with what the ledger knows."""

from __future__ import annotations

from syncs.spec import SyncSpec

_TIMESTAMP = "'%Y-%m-%dT%H:%M:%S.%gZ'"

# Kinds of change whose values go on: all others keep nothing but their kind.
_WITH_VALUES = "('create', 'update', 'resend', 'message', 'expired', 'suppressed')"


def model_rows(spec: SyncSpec, relation: str, types: dict[str, str], consents: str | None) -> str:
    """The CTE `model_rows`: one row per action that the model asks for.

    Needs the parameters `only` and, with `consents`, `purpose`.
    """

    def text(column: str) -> str:
        return f"replace(cast({quoted(column)} as varchar), chr(0), '')"

    def moment(column: str) -> str:
        if column not in types or not spec.has(column):
            return "cast(null as timestamptz)"
        name = quoted(column)
        zoned = types[column] == "TIMESTAMP WITH TIME ZONE"
        return name if zoned else f"cast({name} as timestamp) at time zone 'UTC'"

    # Sorted, so that moving a column in the model changes no hash.
    fields = ", ".join(
        f"{quoted(column)} := {_value(quoted(column), types[column])}"
        for column in sorted(spec.fields)
    )
    customer = text("customer_id") if spec.has("customer_id") else "cast(null as varchar)"
    trigger = text("trigger_id") if spec.is_message else "cast(null as varchar)"
    parts = ("customer_id", "trigger_id") if spec.is_message else ("row_key",)
    name = literal(spec.name)
    pieces = [f"strlen({name})", "':'", name]
    pieces += [piece for part in parts for piece in (f"strlen({part})", "':'", part)]
    complete = " and ".join(f"{part} is not null" for part in sorted({*parts, "row_key"}))
    expires = moment("expires_at")
    if spec.policies.expires_after is not None:
        seconds = int(spec.policies.expires_after.total_seconds())
        expires = f"least({expires}, {moment('fired_at')} + to_seconds({seconds}))"
    allowed = "true"
    if consents is not None:
        # The newest word counts.
        allowed = f"""coalesce(customer_id in (
            select customer_id from {consents} where purpose = $purpose
            group by customer_id having arg_max(coalesce(granted, false), changed_at)
        ), false)"""
    return f"""
with model as (
    select
        {text(spec.key)} as row_key,
        {customer} as customer_id,
        {trigger} as trigger_id,
        {moment("fired_at")} as event_at,
        {expires} as expires_at,
        cast(to_json(struct_pack({fields})) as varchar) as payload
    from {relation}
),

model_rows as (
    select *, {complete} as complete, {allowed} as allowed,
        sha256(concat({", ".join(pieces)})) as action_key, sha256(payload) as payload_hash
    from model
    where $only is null or row_key = $only or customer_id = $only
)
"""


STATES = f"""
select *
from (
    select
        case
            when k.log_seq > $position then 'ahead'
            when m.action_key is null or not m.allowed then case
                when k.state = 'sending' then 'in_flight'
                when $mirror and k.held and not k.leave then 'leave'
                when $mirror and k.held and k.state in ('planned', 'retrying') then 'waiting'
                when $mirror and k.held and k.state in ('rejected', 'waived') then k.state
                when k.state in ('planned', 'retrying', 'rejected') then 'gone'
                when k.state = 'suppressed' and k.payload_hash is not null then 'gone'
                when m.action_key is not null then 'no_consent'
            end
            when not m.complete then 'skipped'
            when k.action_key is null then 'create'
            when k.state = 'sending' then 'in_flight'
            when k.payload_hash = m.digits then
                case k.state
                    when 'delivered' then if($full, 'resend', 'unchanged')
                    when 'rejected' then 'rejected'
                    when 'suppressed' then 'suppressed'
                    when 'waived' then 'waived'
                    else 'waiting'
                end
            when k.delivered_hash = m.digits then 'revert'
            when k.was_delivered then 'update'
            else 'create'
        end as change,
        case when change <> 'unchanged' then coalesce(m.action_key, k.action_key) end as action_key,
        m.key_digits,
        case when change <> 'unchanged' then m.row_key end as row_key,
        case when change in {_WITH_VALUES} then m.customer_id end as customer_id,
        cast(null as varchar) as trigger_id,
        case when change in {_WITH_VALUES} then m.payload_hash end as payload_hash,
        case when change in {_WITH_VALUES} then m.payload end as payload,
        cast(null as timestamptz) as expires_at,
        case when change in {_WITH_VALUES} then m.event_at end as event_at,
        cast(null as varchar) as reason,
        case when change in ('create', 'update') then k.updated_at end as updated_at,
        change in ('rejected', 'suppressed') as settled,
        m.action_key is not null and m.allowed as in_model
    from (
        select *, cast('0x' || left(payload_hash, 16) as ubigint) as digits,
            cast('0x' || left(action_key, 16) as ubigint) as key_digits
        from model_rows
    ) as m
    full outer join signalbox_known k on m.action_key = k.action_key
) as compared
where change is not null
"""

MESSAGES = """
select
    case
        when not m.complete then 'skipped'
        when k.action_key is not null then 'known'
        when m.expires_at <= $now then 'expired'
        when m.event_at < $began_at then 'suppressed'
        else 'message'
    end as change,
    m.action_key, m.row_key, m.customer_id, m.trigger_id, m.payload_hash, m.payload,
    m.expires_at, m.event_at,
    case change
        when 'expired' then 'expired before it was planned'
        when 'suppressed' then 'fired before this ledger began'
    end as reason,
    false as settled, true as in_model
from model_rows m
left join signalbox_known k on m.action_key = k.action_key
qualify
    not m.complete
    or row_number() over (partition by m.action_key order by m.payload_hash) = 1
"""

# Of a plan that was made a moment ago.
KNOWN_BY_NOW = """
update signalbox_plan set change = 'known'
where change in ('message', 'suppressed', 'expired')
    and action_key in (select action_key from signalbox_known)
"""

# An id's own customer id is kept when it joins another customer.
MERGED = """
update signalbox_plan set change = 'known'
where change in ('message', 'suppressed', 'expired') and (customer_id, trigger_id) in (
    select i.customer_id, k.trigger_id
    from signalbox_known k
    inner join {schema}.identity_map i on k.customer_id = i.solo_customer_id
)
"""

# Whether a trigger that is to be acted on was acted on under a customer who does not have it now.
PARTING = """
select 1
from signalbox_known k
where k.trigger_id in (select trigger_id from signalbox_plan where change = 'message')
    and k.action_key not in (select action_key from signalbox_plan where action_key is not null)
limit 1
"""

PARTED = """
update signalbox_plan set change = 'known'
where change = 'message' and (customer_id, trigger_id) in (
    with parted as (
        select distinct e.id_key
        from {schema}.identity_edges e
        inner join {schema}.identity_map one on e.id_key = one.id_key
        inner join {schema}.identity_map other on e.other_id_key = other.id_key
        where one.customer_id <> other.customer_id
    ),

    ends as (
        select id_key, other_id_key from {schema}.identity_edges
        union all
        select other_id_key, id_key from {schema}.identity_edges
    ),

    sharers as (
        select p.id_key, i.customer_id
        from parted p
        inner join ends e on p.id_key = e.id_key
        inner join {schema}.identity_map i on e.other_id_key = i.id_key
        union
        select p.id_key, i.customer_id
        from parted p
        inner join {schema}.identity_map i on p.id_key = i.id_key
    )

    select other.customer_id, k.trigger_id
    from signalbox_known k
    inner join sharers one on k.customer_id = one.customer_id
    inner join sharers other on one.id_key = other.id_key
    where k.trigger_id in (select trigger_id from signalbox_plan where change = 'message')
        and k.action_key not in (select action_key from signalbox_plan where action_key is not null)
)
"""


def read_back_steps(
    spec: SyncSpec, types: dict[str, str], read_back: str, *, skip_equal: bool
) -> list[str]:
    """Statements that leave out what the destination has already or, in update_only, has not.

    What was read before our last word on a row proves nothing. Keys are compared without regard
    to case, as e-mail addresses are.
    """
    steps = [
        "create temporary table signalbox_read_back as"
        " select lower(cast(key as varchar)) as key, fields, read_at"
        f" from ({read_back}) where key is not null"
        " qualify row_number() over (partition by lower(cast(key as varchar))"
        " order by read_at desc nulls last) = 1"
    ]
    if spec.mode == "update_only":
        steps.append(
            "update signalbox_plan"
            " set change = case when change in ('waiting', 'rejected') then 'gone'"
            " else 'absent' end, settled = false"
            " where change in ('create', 'update', 'resend', 'waiting', 'rejected')"
            " and lower(row_key) not in (select key from signalbox_read_back)"
        )
    fields = [field for field in spec.fields if field != spec.key]
    if skip_equal and fields:
        equal = " and ".join(_equal(field, types[field]) for field in fields)
        steps.append(
            "update signalbox_plan p set change = 'already_there'"
            " from signalbox_read_back r"
            " where p.change in ('create', 'update') and lower(p.row_key) = r.key"
            f" and (p.updated_at is null or p.updated_at < r.read_at) and {equal}"
        )
    return steps


def _equal(field: str, column_type: str) -> str:
    """Whether the destination's value of a field is ours; it may write numbers its own way."""
    path = literal('$."' + field.replace('"', '\\"') + '"')
    theirs, ours = (
        f"json_extract_string(r.fields, {path})",
        f"json_extract_string(p.payload, {path})",
    )
    same = f"coalesce({theirs}, '') = coalesce({ours}, '')"
    if column_type.startswith(("DECIMAL", "DOUBLE", "FLOAT")) or "INT" in column_type:
        same += f" or try_cast({theirs} as double) = try_cast({ours} as double)"
    if column_type.startswith("TIMESTAMP"):
        same += f" or try_cast({theirs} as timestamptz) = try_cast({ours} as timestamptz)"
    return f"json_exists(r.fields, {path}) and coalesce({same}, false)"


def _value(name: str, column_type: str) -> str:
    """A column as it goes into the payload: the same text for the same value, always valid JSON."""
    if column_type == "VARCHAR":
        return f"replace({name}, chr(0), '')"
    if column_type == "JSON":
        return f"cast({name} as varchar)"
    if column_type in ("FLOAT", "DOUBLE"):
        return f"case when isfinite({name}) then {name} end"
    if column_type == "TIMESTAMP WITH TIME ZONE":
        return f"strftime({name} at time zone 'UTC', {_TIMESTAMP})"
    if column_type.startswith("TIMESTAMP"):
        return f"strftime(cast({name} as timestamp), {_TIMESTAMP})"
    if column_type == "DATE":
        return f"strftime({name}, '%Y-%m-%d')"
    return name


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
