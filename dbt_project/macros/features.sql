{# The running window of the last n days of one customer, the day itself included. Needs one row per day. #}
{% macro last_days(days) -%}
    over (
        partition by customer_id
        order by as_of_date
        rows between {{ days - 1 }} preceding and current row
    )
{%- endmacro %}

{# Everything of one customer up to and including the day. #}
{% macro until_day() -%}
    over (
        partition by customer_id
        order by as_of_date
        rows between unbounded preceding and current row
    )
{%- endmacro %}

{# What is counted per day, and how to recognise it in the timeline. #}
{% macro counted_events() -%}
    {{ return({
        'sessions': "is_session_start",
        'purchases': "event = 'Purchase Completed'",
        'product_views': "event = 'Product Viewed'",
        'cart_updates': "event = 'Cart Updated'",
        'tickets_opened': "event = 'Support Ticket Opened'",
        'logins': "event = 'Logged In'",
        'feature_uses': "event = 'Feature First Used'",
        'pricing_page_visits': "event = 'Page Viewed' and lower(page_path) like '%pricing%'",
        'cancellation_page_visits': "event = 'Page Viewed' and lower(page_path) like '%cancel%'",
        'emails_opened': "event = 'Email Opened'",
        'emails_clicked': "event = 'Email Clicked'",
    }) }}
{%- endmacro %}

{# The windows, in days, over which each count is told. #}
{% macro feature_windows() -%}
    {{ return({
        'active_days': [7, 30, 90],
        'sessions': [7, 30, 90],
        'purchases': [7, 30, 90],
        'revenue': [7, 30, 90],
        'product_views': [7, 30, 90],
        'cart_updates': [7, 30],
        'tickets_opened': [7, 30, 90],
        'logins': [7, 30, 90],
        'feature_uses': [30, 90],
        'pricing_page_visits': [30],
        'cancellation_page_visits': [30],
        'emails_opened': [30, 90],
        'emails_clicked': [30, 90],
    }) }}
{%- endmacro %}

{# What is also told since the first event. #}
{% macro lifetime_features() -%}
    {{ return(['active_days', 'sessions', 'purchases', 'revenue']) }}
{%- endmacro %}
