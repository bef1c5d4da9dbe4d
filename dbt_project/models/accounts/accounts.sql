with

group_calls as (
    select
        account_id,
        name,
        industry,
        employees,
        plan,
        mrr,
        event_at,
        row_number() over (
            partition by account_id
            order by event_at, log_seq
        ) as call_number
    from {{ ref('stg_groups') }}
)

select
    account_id,
    {{ latest_value('name', 'call_number') }} as name,
    {{ latest_value('industry', 'call_number') }} as industry,
    {{ latest_value('employees', 'call_number') }} as employees,
    {{ latest_value('plan', 'call_number') }} as plan,
    {{ latest_value('mrr', 'call_number') }} as mrr,
    min(event_at) as first_seen_at
from group_calls
group by account_id
