with

touched_customers as (
    {{ touched_customers() }}
),

events as (
    select
        timeline.customer_id,
        timeline.session_id,
        timeline.session_number,
        timeline.event_number,
        timeline.event_at,
        timeline.event,
        timeline.channel,
        timeline.device,
        timeline.page_path
    from {{ rebuilt('customer_timeline') }} as timeline
    inner join touched_customers on timeline.customer_id = touched_customers.customer_id
    where timeline.session_id is not null and {{ is_rebuilt('timeline', 'customer_timeline') }}
)

select
    session_id,
    customer_id,
    session_number,
    min(event_at) as started_at,
    max(event_at) as ended_at,
    {{ seconds_between('min(event_at)', 'max(event_at)') }} as duration_seconds,
    count(*) as events,
    {{ cast_to("sum(case when event = 'Page Viewed' then 1 else 0 end)", 'bigint') }} as page_views,
    {{ cast_to("sum(case when event = 'Product Viewed' then 1 else 0 end)", 'bigint') }} as product_views,
    {{ any_true("event = 'Purchase Completed'") }} as has_purchase,
    {{ latest_value('page_path', '-event_number') }} as landing_path,
    {{ latest_value('channel', '-event_number') }} as channel,
    {{ latest_value('device', '-event_number') }} as device
from events
group by session_id, customer_id, session_number
