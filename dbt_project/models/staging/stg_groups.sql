{{ config(materialized='incremental', incremental_strategy='delete+insert', unique_key='log_seq') }}

-- A table, as stg_identifies is: accounts and their members are told from it whenever they are read.
with

events as (
    select
        event_id,
        log_seq,
        id_key,
        event_at,
        group_id,
        traits
    from {{ rebuilt('stg_events') }}
    where
        type = 'group'
        and group_id is not null
        {% if is_incremental() %}
            and log_seq > {{ watermark() }}
        {% endif %}
)

select
    event_id,
    log_seq,
    id_key,
    event_at,
    group_id as account_id,
    {{ json_string('traits', 'name') }} as name,
    {{ json_string('traits', 'industry') }} as industry,
    {{ safe_cast_to(json_string('traits', 'employees'), 'integer') }} as employees,
    {{ json_string('traits', 'plan') }} as plan,
    {{ json_money('traits', 'mrr') }} as mrr,
    {{ json_string('traits', 'role') }} as role
from events
