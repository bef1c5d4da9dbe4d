with

quarantined as (
    select
        received_date,
        source,
        event,
        event_version,
        reason,
        status,
        is_rejected,
        received_at
    from {{ ref('quarantined_messages') }}
)

select
    received_date,
    source,
    event,
    event_version,
    reason,
    count(*) as messages,
    count(case when status = 'waiting' then 1 end) as waiting,
    count(case when status = 'replayed' then 1 end) as replayed,
    count(case when is_rejected then 1 end) as rejected,
    min(received_at) as first_received_at,
    max(received_at) as last_received_at
from quarantined
group by received_date, source, event, event_version, reason
