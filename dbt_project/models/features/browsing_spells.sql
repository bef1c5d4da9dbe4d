{{ config(materialized='incremental', incremental_strategy='by_customer') }}

{% set long_look_seconds = var('browsed_longest_look_minutes') * 60 %}
{% set category_seconds = var('browsed_category_minutes') * 60 %}

with

touched_customers as (
    {{ touched_customers() }}
),

events as (
    select
        timeline.customer_id,
        timeline.event_number,
        timeline.event_at,
        timeline.session_id,
        timeline.event = 'Purchase Completed' as is_purchase,
        timeline.properties,
        case
            when timeline.event = 'Product Viewed' then {{ json_string('timeline.properties', 'product_id') }}
        end as product_id,
        lower(case
            when timeline.event = 'Product Viewed' then {{ json_string('timeline.properties', 'category') }}
            when timeline.event = 'Page Viewed' and timeline.page_path like '{{ var("category_path") }}_%'
                then substr(timeline.page_path, {{ var('category_path') | length + 1 }})
        end) as category
    from {{ rebuilt('customer_timeline') }} as timeline
    inner join touched_customers on timeline.customer_id = touched_customers.customer_id
    where timeline.is_activity and {{ is_rebuilt('timeline', 'customer_timeline') }}
),

purchased_items as (
    select
        customer_id,
        event_number,
        event_at,
        {{ json_unnest(json_fragment('properties', 'items')) }} as item
    from events
    where is_purchase
),

views_and_purchases as (
    select
        customer_id,
        product_id,
        event_number,
        event_at,
        false as is_purchase
    from events
    where product_id is not null

    union all

    select distinct
        customer_id,
        {{ json_string('item', 'product_id') }} as product_id,
        event_number,
        event_at,
        true as is_purchase
    from purchased_items
),

product_histories as (
    select
        customer_id,
        product_id,
        event_number,
        event_at,
        is_purchase,
        sum(case when is_purchase then 1 else 0 end) over (
            partition by customer_id, product_id
            order by event_number
            rows between unbounded preceding and current row
        ) as purchases_before,
        min(case when is_purchase then event_at end) over (
            partition by customer_id, product_id
            order by event_number
            rows between 1 following and unbounded following
        ) as bought_at
    from views_and_purchases
),

-- With the last of so many views the first is not long ago, and no purchase lies between.
counted_views as (
    select
        customer_id,
        product_id,
        event_number,
        event_at,
        purchases_before,
        bought_at,
        lag(event_at, {{ var('browsed_product_views') - 1 }}) over (
            partition by customer_id, product_id, purchases_before
            order by event_number
        ) as first_view_at
    from product_histories
    where not is_purchase
),

repeated_views as (
    select
        customer_id,
        product_id,
        event_number,
        event_at,
        bought_at,
        lag(event_at) over (
            partition by customer_id, product_id, purchases_before
            order by event_number
        ) as previous_at
    from counted_views
    where first_view_at > {{ moved_by('event_at', -var('browsed_product_days'), 'day') }}
),

-- Who goes on looking at it is told once.
product_spells as (
    select
        repeated_views.customer_id,
        'product:' || repeated_views.product_id as topic,
        repeated_views.event_at as fired_at,
        repeated_views.product_id,
        events.category,
        {{ var('browsed_product_views') }} as views,
        {{ cast_to('null', 'bigint') }} as seconds,
        repeated_views.bought_at,
        events.properties
    from repeated_views
    inner join events
        on repeated_views.customer_id = events.customer_id and repeated_views.event_number = events.event_number
    where
        repeated_views.previous_at is null
        or repeated_views.event_at > {{ moved_by('repeated_views.previous_at', var('browsed_product_days'), 'day') }}
),

looks as (
    select
        customer_id,
        session_id,
        category,
        event_number,
        event_at,
        lead(event_at) over (
            partition by customer_id, session_id
            order by event_number
        ) as looked_until,
        sum(case when is_purchase then 1 else 0 end) over (
            partition by customer_id, session_id
            order by event_number
            rows between unbounded preceding and 1 following
        ) as purchases_until
    from events
),

-- How long a page was looked at is known with what comes next. Who left for coffee was not looking.
timed_looks as (
    select
        customer_id,
        session_id,
        category,
        event_number,
        looked_until,
        purchases_until,
        least({{ seconds_between('event_at', 'looked_until') }}, {{ long_look_seconds }}) as seconds
    from looks
    where category is not null and looked_until is not null
),

summed_looks as (
    select
        customer_id,
        session_id,
        category,
        event_number,
        looked_until,
        purchases_until,
        seconds,
        sum(seconds) over (
            partition by customer_id, session_id, category
            order by event_number
            rows between unbounded preceding and current row
        ) as seconds_so_far
    from timed_looks
),

long_looks as (
    select
        customer_id,
        session_id,
        category,
        event_number,
        looked_until as fired_at,
        seconds_so_far
    from summed_looks
    where
        seconds_so_far >= {{ category_seconds }}
        and seconds_so_far - seconds < {{ category_seconds }}
        and purchases_until = 0
),

bought_after as (
    select
        long_looks.customer_id,
        long_looks.session_id,
        long_looks.category,
        min(purchases.event_at) as bought_at
    from long_looks
    inner join events as purchases
        on long_looks.customer_id = purchases.customer_id and long_looks.event_number < purchases.event_number
    where purchases.is_purchase
    group by long_looks.customer_id, long_looks.session_id, long_looks.category
),

products_in_view as (
    select
        long_looks.customer_id,
        long_looks.session_id,
        long_looks.category,
        events.product_id,
        count(*) as views,
        {{ latest_value('events.properties', 'events.event_number') }} as properties,
        row_number() over (
            partition by long_looks.customer_id, long_looks.session_id, long_looks.category
            order by count(*) desc, max(events.event_number) desc
        ) as place
    from long_looks
    inner join events
        on
            long_looks.customer_id = events.customer_id
            and long_looks.session_id = events.session_id
            and long_looks.category = events.category
            and long_looks.event_number >= events.event_number
    where events.product_id is not null
    group by long_looks.customer_id, long_looks.session_id, long_looks.category, events.product_id
),

category_spells as (
    select
        long_looks.customer_id,
        'category:' || long_looks.category as topic,
        long_looks.fired_at,
        products_in_view.product_id,
        long_looks.category,
        coalesce(products_in_view.views, 0) as views,
        long_looks.seconds_so_far as seconds,
        bought_after.bought_at,
        products_in_view.properties
    from long_looks
    left join products_in_view
        on
            long_looks.customer_id = products_in_view.customer_id
            and long_looks.session_id = products_in_view.session_id
            and long_looks.category = products_in_view.category
            and products_in_view.place = 1
    left join bought_after
        on
            long_looks.customer_id = bought_after.customer_id
            and long_looks.session_id = bought_after.session_id
            and long_looks.category = bought_after.category
),

spells as (
    select
        customer_id,
        topic,
        fired_at,
        product_id,
        category,
        views,
        seconds,
        bought_at,
        properties
    from product_spells

    union all

    select
        customer_id,
        topic,
        fired_at,
        product_id,
        category,
        views,
        seconds,
        bought_at,
        properties
    from category_spells
)

select
    customer_id,
    topic,
    fired_at,
    category,
    product_id,
    {{ json_string('properties', 'name') }} as product_name,
    {{ json_money('properties', 'price') }} as price,
    {{ json_string('properties', 'currency') }} as currency,
    {{ cast_to('views', 'integer') }} as views,
    {{ cast_to('seconds', 'integer') }} as seconds,
    bought_at
from spells
