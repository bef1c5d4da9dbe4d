with

records as (
    select distinct
        log_seq,
        source,
        message_id,
        type,
        event,
        event_version,
        reason,
        detail,
        rejected,
        received_at
    from {{ source('raw', 'quarantine') }}
),

replays as (
    select
        source,
        message_id,
        min(replayed_at) as replayed_at
    from {{ source('raw', 'events') }}
    where replayed_from is not null
    group by source, message_id
)

select
    records.log_seq,
    records.source,
    records.message_id,
    records.type,
    coalesce(records.event, 'unknown') as event,
    records.event_version,
    records.reason,
    records.detail,
    coalesce(records.rejected, false) as is_rejected,
    records.received_at,
    {{ utc_date('records.received_at') }} as received_date,
    case when replays.message_id is null then 'waiting' else 'replayed' end as status,
    replays.replayed_at
from records
left join replays
    on records.source = replays.source and records.message_id = replays.message_id
