{{ config(materialized='incremental', incremental_strategy='delete+insert', unique_key='log_seq') }}

-- A table: identify calls are few, and to look for them among all events takes as long as the history is.
with

events as (
    select
        event_id,
        log_seq,
        id_key,
        event_at,
        email,
        timezone,
        traits
    from {{ rebuilt('stg_events') }}
    where
        type = 'identify'
        {% if is_incremental() %}
            and log_seq > {{ watermark() }}
        {% endif %}
)

select
    event_id,
    log_seq,
    id_key,
    event_at,
    email,
    coalesce(
        {{ json_string('traits', 'name') }},
        nullif(trim(
            coalesce({{ json_string('traits', 'firstName') }}, '') || ' '
            || coalesce({{ json_string('traits', 'lastName') }}, '')
        ), '')
    ) as name,
    {{ json_string('traits', 'phone') }} as phone,
    coalesce({{ json_string('traits', 'company.name') }}, {{ json_string('traits', 'company') }}) as company,
    {{ json_string('traits', 'plan') }} as plan,
    coalesce({{ json_string('traits', 'timezone') }}, timezone) as timezone,
    {{ json_timestamp('traits', 'created_at') }} as signed_up_at,
    {{ json_fragment('traits', 'consent') }} as consent
from events
