with

signals as (
    select
        customer_id,
        trigger_id,
        fired_at,
        expires_at,
        payload
    from {{ ref('payment_failed') }}
    where expires_at > {{ as_of_ts() }}
),

customers as (
    select
        customer_id,
        email,
        name
    from {{ ref('customers') }}
    where email is not null
)

select
    signals.customer_id,
    signals.trigger_id,
    signals.fired_at,
    signals.expires_at,
    customers.email as to_email,
    coalesce(customers.name, customers.email) as customer_name,
    {{ json_money('signals.payload', 'amount') }} as amount,
    {{ json_string('signals.payload', 'currency') }} as currency,
    {{ json_timestamp('signals.payload', 'next_attempt_at') }} as next_attempt_at,
    {{ cast_to(("'" ~ var('billing_url') ~ "'") if var('billing_url') else 'null', 'text') }} as billing_url
from signals
inner join customers on signals.customer_id = customers.customer_id
