-- One row per session, as sessions.
{{ config(unique_key='session_id') }}

select
    session_id,
    customer_id,
    min(event_at) as started_at,
    max(event_at) as ended_at,
    floor(extract(epoch from max(event_at)) - extract(epoch from min(event_at))) as duration_seconds,
    count(*) as events,
    count(*) filter (where event = 'Page Viewed') as page_views,
    count(*) filter (where event = 'Product Viewed') as product_views,
    bool_or(event = 'Purchase Completed') as has_purchase,
    arg_min(page_path, event_at) as landing_path,
    arg_min(channel, event_at) as channel,
    arg_min(device, event_at) as device
from {{ ref('lookback_timeline') }}
where
    session_id is not null
    {% if is_incremental() %}
        and event_at > (
            select max(ended_at) - interval '{{ var("lookback_days") }} days' from {{ this }}
        )
    {% endif %}
group by session_id, customer_id
