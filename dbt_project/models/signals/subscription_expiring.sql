with

notices as (
    select
        customer_id,
        event_id,
        event_number,
        event_at,
        coalesce({{ json_string('properties', 'subscription_id') }}, 'subscription') as subscription_id,
        {{ json_string('properties', 'plan') }} as plan,
        {{ json_money('properties', 'mrr') }} as mrr,
        {{ json_timestamp('properties', 'expires_at') }} as ends_at
    from {{ ref('customer_timeline') }}
    where event = 'Subscription Expiring'
),

-- Billing may announce the same end more than once.
first_notices as (
    select
        customer_id,
        event_at,
        subscription_id,
        plan,
        mrr,
        ends_at,
        row_number() over (
            partition by customer_id, subscription_id, {{ utc_date('ends_at') }}
            order by event_number
        ) as notice_number
    from notices
    where ends_at > event_at
)

select
    customer_id,
    'subscription_expiring' as signal,
    subscription_id || ':' || {{ cast_to(utc_date('ends_at'), 'text') }} as trigger_id,
    event_at as fired_at,
    ends_at as expires_at,
    {{ json_build({
        'subscription_id': 'subscription_id',
        'plan': 'plan',
        'mrr': 'mrr',
        'ends_at': cast_to('ends_at', 'text'),
    }) }} as payload
from first_notices
where notice_number = 1
