with

purchases as (
    select
        customer_id,
        event_id,
        event_at,
        {{ json_string('properties', 'order_id') }} as order_id,
        {{ json_unnest(json_fragment('properties', 'items')) }} as item
    from {{ ref('customer_timeline') }}
    where
        event = 'Purchase Completed'
        and event_date <= {{ as_of_date() }}
        and event_date > {{ cast_to(moved_by(as_of_date(), -var('affinity_days'), 'day'), 'date') }}
),

lines as (
    select
        customer_id,
        event_id,
        event_at,
        coalesce(order_id, event_id) as order_id,
        {{ json_string('item', 'product_id') }} as product_id,
        {{ json_string('item', 'name') }} as name,
        {{ json_number('item', 'quantity') }} as quantity
    from purchases
)

select
    order_id,
    product_id,
    customer_id,
    min(event_at) as purchased_at,
    max(name) as name,
    sum(quantity) as quantity
from lines
where product_id is not null and coalesce(quantity, 1) > 0
group by order_id, product_id, customer_id
