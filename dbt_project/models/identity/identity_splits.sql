with

split_events as (
    select
        event_id,
        log_seq,
        event_at,
        id_key,
        other_id_key,
        is_split,
        reason
    from {{ ref('identity_split_events') }}
),

numbered_events as (
    select
        id_key,
        other_id_key,
        is_split,
        reason,
        event_at,
        max(log_seq) over (partition by id_key, other_id_key) as changed_seq,
        row_number() over (
            partition by id_key, other_id_key
            order by event_at desc, event_id desc
        ) as event_number
    from split_events
)

select
    id_key,
    other_id_key,
    is_split,
    reason,
    event_at as since,
    changed_seq
from numbered_events
where event_number = 1
