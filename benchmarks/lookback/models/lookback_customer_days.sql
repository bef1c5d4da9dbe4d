-- One row per customer and day with events, which lookback_features adds up.
{{ config(unique_key=['customer_id', 'event_date']) }}

select
    customer_id,
    event_date,
    max(event_at) as last_event_at,
    bool_or(is_activity) as is_active,
    {% for event, name in {
        'Purchase Completed': 'purchases', 'Product Viewed': 'product_views', 'Cart Updated': 'cart_updates',
        'Support Ticket Opened': 'tickets_opened', 'Logged In': 'logins', 'Email Opened': 'emails_opened',
        'Email Clicked': 'emails_clicked',
    }.items() %}
        count(*) filter (where event = '{{ event }}') as {{ name }},
    {% endfor %}
    count(*) filter (where is_session_start) as sessions,
    sum(case when event = 'Purchase Completed' then cast(properties ->> '$.total' as decimal(18, 2)) end) as revenue
from {{ ref('lookback_timeline') }}
{% if is_incremental() %}
    where
        event_date >= (
            select max(event_date) - interval '{{ var("lookback_days") }} days' from {{ this }}
        )
{% endif %}
group by customer_id, event_date
