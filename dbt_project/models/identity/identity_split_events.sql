{{ config(materialized='incremental', incremental_strategy='delete+insert', unique_key='event_id') }}

with

events as (
    select
        event_id,
        log_seq,
        event_at,
        event,
        properties
    from {{ rebuilt('stg_events') }}
    where
        source = 'signalbox'
        and event in ('Identity Split', 'Identity Split Undone')
        {% if is_incremental() %}
            and log_seq > {{ watermark() }}
        {% endif %}
),

commands as (
    select
        event_id,
        log_seq,
        event_at,
        event = 'Identity Split' as is_split,
        {{ json_string('properties', 'id') }} as one_id_key,
        {{ json_string('properties', 'other_id') }} as two_id_key,
        {{ json_string('properties', 'reason') }} as reason
    from events
)

-- An edge has no direction here: whoever splits need not know which of the two is the stronger.
select
    event_id,
    log_seq,
    event_at,
    least(one_id_key, two_id_key) as id_key,
    greatest(one_id_key, two_id_key) as other_id_key,
    is_split,
    reason
from commands
where one_id_key <> two_id_key
