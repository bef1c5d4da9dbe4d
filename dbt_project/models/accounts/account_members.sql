with

group_calls as (
    select
        id_key,
        account_id,
        event_at,
        log_seq,
        role
    from {{ ref('stg_groups') }}
),

identity_map as (
    select
        id_key,
        customer_id
    from {{ ref('identity_map') }}
),

calls as (
    select
        identity_map.customer_id,
        group_calls.account_id,
        group_calls.event_at,
        group_calls.role,
        row_number() over (
            partition by identity_map.customer_id, group_calls.account_id
            order by group_calls.event_at, group_calls.log_seq
        ) as call_number
    from group_calls
    inner join identity_map on group_calls.id_key = identity_map.id_key
)

select
    account_id,
    customer_id,
    {{ latest_value('role', 'call_number') }} as role,
    min(event_at) as joined_at
from calls
group by account_id, customer_id
