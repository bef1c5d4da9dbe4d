-- One row per customer as of today, made anew at each run: what customer_features_daily says of its last day.
{{ config(materialized='table') }}

{% set names = [
    'purchases', 'product_views', 'cart_updates', 'tickets_opened', 'logins', 'emails_opened', 'emails_clicked',
    'sessions', 'revenue',
] %}

select
    customer_id,
    current_date - min(event_date) as tenure_days,
    max(last_event_at) as last_event_at,
    current_date - max(event_date) filter (where is_active) as days_since_last_seen,
    current_date - max(event_date) filter (where purchases > 0) as days_since_last_purchase,
    {% for name in names %}
        sum({{ name }}) as {{ name }}_lifetime,
        {% for days in [7, 30, 90] %}
            coalesce(sum({{ name }}) filter (where event_date > current_date - {{ days }}), 0) as {{ name }}_{{ days }}d,
        {% endfor %}
    {% endfor %}
    count(*) filter (where is_active and event_date > current_date - 30) as active_days_30d
from {{ ref('lookback_customer_days') }}
group by customer_id
