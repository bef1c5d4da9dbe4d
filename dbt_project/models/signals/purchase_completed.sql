with

purchases as (
    select
        customer_id,
        event_at,
        properties,
        coalesce({{ json_string('properties', 'order_id') }}, event_id) as order_id,
        row_number() over (
            partition by customer_id, coalesce({{ json_string('properties', 'order_id') }}, event_id)
            order by event_number
        ) as copy_number
    from {{ ref('customer_timeline') }}
    where event = 'Purchase Completed'
)

-- Shop and till may both tell of an order; the first word counts.
select
    customer_id,
    'purchase_completed' as signal,
    order_id as trigger_id,
    event_at as fired_at,
    {{ moved_by('event_at', var('purchase_completed_expires_hours'), 'hour') }} as expires_at,
    {{ json_build({
        'order_id': 'order_id',
        'total': json_money('properties', 'total'),
        'currency': json_string('properties', 'currency'),
        'items': json_part('properties', 'items'),
    }) }} as payload
from purchases
where copy_number = 1
