with

watermarks as (
    select
        model,
        log_seq,
        as_of_ts,
        built_at
    from {{ source('builds', 'build_watermarks') }}
    -- The views are remembered there too, without a position of their own.
    where log_seq is not null
),

raw_events as (
    select
        max(log_seq) as log_seq,
        max(received_at) as received_at
    from {{ source('raw', 'events') }}
)

select
    watermarks.model,
    watermarks.log_seq,
    raw_events.log_seq as raw_log_seq,
    raw_events.log_seq - watermarks.log_seq as log_seq_behind,
    raw_events.received_at as newest_received_at,
    watermarks.as_of_ts,
    watermarks.built_at,
    {{ seconds_between('watermarks.built_at', as_of_ts()) }} as seconds_since_built
from watermarks
cross join raw_events
