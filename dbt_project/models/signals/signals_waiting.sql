{% set wait_seconds = (var('cart_abandoned_minutes') * 60) | int %}

with

recent_cart_updates as (
    select
        customer_id,
        event_at
    from {{ ref('customer_timeline') }}
    where
        event = 'Cart Updated'
        -- Older carts were looked at by builds since.
        and event_at > {{ moved_by(as_of_ts(), -wait_seconds - 86400, 'second') }}
)

select
    customer_id,
    'cart_abandoned' as signal,
    {{ moved_by('max(event_at)', wait_seconds, 'second') }} as due_at
from recent_cart_updates
group by customer_id
