with

signals as (
    select
        customer_id,
        trigger_id,
        fired_at,
        expires_at,
        {{ json_string('payload', 'product_id') }} as product_id,
        coalesce({{ json_string('payload', 'product_name') }}, {{ json_string('payload', 'product_id') }}) as product_name,
        {{ json_money('payload', 'price') }} as price,
        {{ json_string('payload', 'currency') }} as currency,
        {{ json_string('payload', 'complement_name') }} as complement_name
    from {{ ref('browsed_not_bought') }}
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
    signals.product_name,
    signals.price,
    signals.currency,
    signals.complement_name
from signals
inner join customers on signals.customer_id = customers.customer_id
where signals.product_id is not null
