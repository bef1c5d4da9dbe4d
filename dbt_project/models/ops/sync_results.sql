{{ config(
    materialized='incremental',
    incremental_strategy='delete+insert',
    unique_key='action_key',
    on_schema_change='append_new_columns',
    tags=['after_sync'],
) }}

with

actions as (
    select
        action_key,
        sync,
        destination,
        mode,
        customer_id,
        trigger_id,
        state,
        reason,
        policy,
        status_code,
        attempts,
        leave,
        sandbox,
        payload,
        event_at,
        created_at,
        updated_at,
        sent_at,
        delivered_at
    from {{ source('ledger', 'actions') }}
    {% if is_incremental() %}
        where updated_at > {{ moved_by(timestamp_literal(newest('updated_at') or '1970-01-01'), -10, 'minute') }}
    {% endif %}
)

select
    action_key,
    sync,
    destination,
    mode,
    customer_id,
    trigger_id,
    state,
    reason,
    policy,
    status_code,
    attempts,
    leave as is_leave,
    sandbox as is_sandbox,
    {{ masked_payload('sync', 'payload') }} as payload,
    event_at,
    created_at,
    updated_at,
    sent_at,
    delivered_at,
    {{ seconds_between('event_at', 'delivered_at') }} as seconds_to_delivery
from actions
