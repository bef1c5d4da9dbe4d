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

{{ splits_in_force() }}

select
    id_key,
    other_id_key,
    is_split,
    reason,
    since,
    changed_seq
from splits
