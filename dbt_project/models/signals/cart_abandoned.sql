{{ config(materialized='incremental', incremental_strategy='by_customer') }}

{% set wait_seconds = (var('cart_abandoned_minutes') * 60) | int %}

with

touched_customers as (
    select customer_id
    from ({{ touched_customers() }}) as touched

    {% if is_incremental() %}
        -- Silence makes no event: also the customers whose cart fell due since the last build.
        {{ union_distinct() }}

        select customer_id
        from {{ ref('customer_timeline') }}
        where
            event = 'Cart Updated'
            and event_at > {{ moved_by(last_as_of_ts(), -wait_seconds, 'second') }}
            and event_at <= {{ moved_by(as_of_ts(), -wait_seconds, 'second') }}
    {% endif %}
),

events as (
    select
        timeline.customer_id,
        timeline.event_number,
        timeline.event_at,
        timeline.event,
        timeline.properties,
        case when timeline.event = 'Cart Updated' then {{ json_string('timeline.properties', 'cart_id') }} end as cart_id,
        min(case when timeline.event = 'Purchase Completed' then timeline.event_at end) over (
            partition by timeline.customer_id
            order by timeline.event_number
            rows between 1 following and unbounded following
        ) as next_purchase_at
    from {{ ref('customer_timeline') }} as timeline
    inner join touched_customers on timeline.customer_id = touched_customers.customer_id
    where timeline.event in ('Cart Updated', 'Purchase Completed')
),

cart_updates as (
    select
        customer_id,
        event_at,
        properties,
        next_purchase_at,
        coalesce(cart_id, 'cart') as cart_id,
        {{ json_array_length_of(json_fragment('properties', 'items')) }} as items,
        lead(event_at) over (
            partition by customer_id, cart_id
            order by event_number
        ) as next_update_at
    from events
    where event = 'Cart Updated'
),

with_next as (
    select
        customer_id,
        cart_id,
        event_at,
        properties,
        items,
        {{ moved_by('event_at', wait_seconds, 'second') }} as due_at,
        least(
            coalesce(next_update_at, next_purchase_at), coalesce(next_purchase_at, next_update_at)
        ) as next_at
    from cart_updates
),

idle_carts as (
    select
        customer_id,
        cart_id,
        event_at,
        properties,
        due_at,
        next_at,
        lag(due_at) over (
            partition by customer_id, cart_id
            order by event_at
        ) as previous_due_at
    from with_next
    where items > 0 and due_at <= {{ as_of_ts() }} and (next_at is null or next_at >= due_at)
),

-- Someone who comes back to the cart every hour is told once a day, not every hour.
episodes as (
    select
        customer_id,
        cart_id,
        event_at,
        properties,
        due_at,
        next_at
    from idle_carts
    where
        previous_due_at is null
        or due_at > {{ moved_by('previous_due_at', var('cart_abandoned_expires_hours'), 'hour') }}
)

select
    customer_id,
    'cart_abandoned' as signal,
    cart_id || ':' || {{ cast_to(epoch_milliseconds('event_at'), 'text') }} as trigger_id,
    due_at as fired_at,
    -- A cart that was touched or bought since is nobody's business any more.
    least({{ moved_by('due_at', var('cart_abandoned_expires_hours'), 'hour') }}, coalesce(
        next_at, {{ moved_by('due_at', var('cart_abandoned_expires_hours'), 'hour') }}
    )) as expires_at,
    properties as payload
from episodes
