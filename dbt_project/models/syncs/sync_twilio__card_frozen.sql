with

signals as (
    select
        customer_id,
        trigger_id,
        fired_at,
        expires_at,
        payload
    from {{ ref('card_fraud') }}
    where expires_at > {{ as_of_ts() }}
),

customers as (
    select
        customer_id,
        phone
    from {{ ref('customers') }}
    where phone is not null
)

select
    signals.customer_id,
    signals.trigger_id,
    signals.fired_at,
    signals.expires_at,
    customers.phone as to_phone,
    {{ json_money('signals.payload', 'amount') }} as amount,
    {{ json_string('signals.payload', 'currency') }} as currency,
    {{ json_string('signals.payload', 'merchant') }} as merchant
from signals
inner join customers on signals.customer_id = customers.customer_id
