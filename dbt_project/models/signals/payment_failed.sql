with

payments as (
    select
        customer_id,
        event_id,
        event_number,
        event_at,
        event,
        properties,
        coalesce({{ json_string('properties', 'invoice_id') }}, event_id) as invoice_id
    from {{ ref('customer_timeline') }}
    where
        event in ('Payment Failed', 'Payment Succeeded')
        -- By a beginning DuckDB skips events where they are stored, by a list only once it has read them.
        and event like 'Payment %'
),

-- An invoice that is tried again and again is one failure; only its being paid ends it.
invoices as (
    select
        customer_id,
        invoice_id,
        min(case when event = 'Payment Failed' then event_at end) as failed_at,
        max(case when event = 'Payment Succeeded' then event_at end) as paid_at,
        {{ latest_value("case when event = 'Payment Failed' then properties end", '-event_number') }} as properties
    from payments
    group by customer_id, invoice_id
)

select
    customer_id,
    'payment_failed' as signal,
    invoice_id as trigger_id,
    failed_at as fired_at,
    least(
        {{ moved_by('failed_at', var('payment_failed_expires_hours'), 'hour') }},
        coalesce(
            case when paid_at > failed_at then paid_at end,
            {{ moved_by('failed_at', var('payment_failed_expires_hours'), 'hour') }}
        )
    ) as expires_at,
    {{ json_build({
        'invoice_id': 'invoice_id',
        'amount': json_money('properties', 'amount'),
        'currency': json_string('properties', 'currency'),
        'next_attempt_at': json_string('properties', 'next_attempt_at'),
    }) }} as payload
from invoices
where failed_at is not null and (paid_at is null or paid_at > failed_at)
