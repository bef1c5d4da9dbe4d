{{ config(materialized='table', tags=['after_sync']) }}

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
        event_at,
        created_at,
        updated_at,
        sent_at,
        delivered_at
    from {{ source('ledger', 'actions') }}
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
    event_at,
    created_at,
    updated_at,
    sent_at,
    delivered_at,
    {{ seconds_between('event_at', 'delivered_at') }} as seconds_to_delivery
from actions
