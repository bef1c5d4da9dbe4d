with

quarantine as (
    select distinct
        log_seq,
        source,
        event,
        reason,
        received_at,
        {{ utc_date('received_at') }} as received_date
    from {{ source('raw', 'quarantine') }}
)

select
    received_date,
    source,
    coalesce(event, 'unknown') as event,
    reason,
    count(*) as messages,
    min(received_at) as first_received_at,
    max(received_at) as last_received_at
from quarantine
group by received_date, source, coalesce(event, 'unknown'), reason
