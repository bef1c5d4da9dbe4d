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

{# A look at the page where one cancels. #}
{% macro is_cancellation_page(events) -%}
    ({{ events }}.event = 'Page Viewed' and lower(coalesce({{ events }}.page_path, '')) like '%cancel%')
{%- endmacro %}

{# Use of what the product is for: one of core_feature_events, or a page or screen below core_feature_path. #}
{% macro is_core_feature(events=none) -%}
    {%- set of = events ~ '.' if events else '' -%}
    ({{ of }}event in ('{{ var("core_feature_events") | join("', '") }}')
    {%- if var('core_feature_path') %}
        or coalesce({{ of }}page_path, '') like '{{ var("core_feature_path") }}_%'
    {%- endif %})
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
        'core_feature_uses': is_core_feature(),
        'payments_failed': "event = 'Payment Failed'",
        'card_payments': "event = 'Card Transaction'",
        'pricing_page_visits': "event = 'Page Viewed' and lower(page_path) like '%pricing%'",
        'cancellation_page_visits': "event = 'Page Viewed' and lower(page_path) like '%cancel%'",
        'emails_opened': "event = 'Email Opened'",
        'emails_clicked': "event = 'Email Clicked'",
        'subscriptions_started': "event = 'Subscription Started'",
        'subscriptions_cancelled': "event = 'Subscription Cancelled'",
    }) }}
{%- endmacro %}

{# The windows, in days, over which each count is told. #}
{% macro feature_windows() -%}
    {{ return({
        'active_days': [7, 30, 90],
        'subscriptions_started': [],
        'subscriptions_cancelled': [],
        'sessions': [7, 30, 90],
        'purchases': [7, 30, 90],
        'revenue': [7, 30, 90],
        'product_views': [7, 30, 90],
        'cart_updates': [7, 30],
        'tickets_opened': [7, 30, 90],
        'logins': [7, 30, 90],
        'feature_uses': [30, 90],
        'core_feature_uses': [30, 90],
        'payments_failed': [30, 90],
        'card_payments': [30, 90],
        'pricing_page_visits': [30],
        'cancellation_page_visits': [30],
        'emails_opened': [30, 90],
        'emails_clicked': [30, 90],
    }) }}
{%- endmacro %}

{# What is also told since the first event. #}
{% macro lifetime_features() -%}
    {{ return(['active_days', 'sessions', 'purchases', 'revenue', 'subscriptions_started', 'subscriptions_cancelled']) }}
{%- endmacro %}

{# The habits of login_habits as of the last moment of each day that told of them, a select of one row per customer
   of `customers` and day up to `until`; days before `first_day`, if given, count as that day. -1 is unknown: null
   would be skipped, and an older value told instead. #}
{% macro habits_by_day(customers, until, first_day=none) -%}
    {%- set day = utc_date('habits.event_at') -%}
    {%- if first_day -%}
        {%- set day = 'greatest(' ~ day ~ ', ' ~ first_day ~ ')' -%}
    {%- endif -%}
    select
        habits.customer_id,
        {{ day }} as day,
        {% for name in habit_features() -%}
            {{ latest_value('coalesce(habits.' ~ name ~ ', -1)', 'habits.event_at') }} as {{ name }}{{ ',' if not loop.last }}
        {% endfor -%}
    from {{ ref('login_habits') }} as habits
    inner join {{ customers }} as customers on habits.customer_id = customers.customer_id
    where {{ utc_date('habits.event_at') }} <= {{ until }}
    group by habits.customer_id, {{ day }}
{%- endmacro %}

{% macro habit_features() -%}
    {{ return(['session_minutes_recent', 'session_minutes_usual', 'session_length_ratio']) }}
{%- endmacro %}

{# What customer_features_daily says of a day, told for a few days of any past, as a select: one row per customer
   and day of `days` (as_of_date) by which something had happened. `happened` has one row per customer and day with
   events (day, last_event_at, active_days (1 or 0), last_subscription_expiry_day, revenue, each of counted_events()),
   `habits` is habits_by_day().
   Sparse where the other is dense: it costs days asked times days with events, not every day of the calendar. #}
{% macro customer_features_on(happened, days, habits) -%}
    {%- set latest = {
        'active': 'active_days > 0', 'purchase': 'purchases > 0', 'login': 'logins > 0',
        'ticket': 'tickets_opened > 0', 'core_feature': 'core_feature_uses > 0',
    } -%}
    select
        summed.customer_id,
        summed.as_of_date,
        {{ days_between('summed.first_day', 'summed.as_of_date') }} as tenure_days,
        summed.last_event_at,
        {{ days_between('summed.last_active_day', 'summed.as_of_date') }} as days_since_last_seen,
        {{ days_between('summed.last_purchase_day', 'summed.as_of_date') }} as days_since_last_purchase,
        {{ days_between('summed.last_login_day', 'summed.as_of_date') }} as days_since_last_login,
        {{ days_between('summed.last_ticket_day', 'summed.as_of_date') }} as days_since_last_ticket,
        {{ days_between('summed.last_core_feature_day', 'summed.as_of_date') }} as days_since_core_feature,
        {% for name in habit_features() %}
            nullif(habits_then.{{ name }}, -1) as {{ name }},
        {% endfor %}
        case
            when summed.last_subscription_expiry_day >= summed.as_of_date
                then {{ days_between('summed.as_of_date', 'summed.last_subscription_expiry_day') }}
        end as subscription_expires_in_days,
        summed.typical_gap_days,
        case
            when summed.typical_gap_days is not null
                then {{ days_between('summed.last_active_day', 'summed.as_of_date') }}
                    / greatest(summed.typical_gap_days, 3)
        end as silence_ratio,
        {% for name in lifetime_features() %}
            summed.{{ name }}_lifetime,
        {% endfor %}
        {% for name, spans in feature_windows().items() %}
            {% set outer = loop %}
            {% for span in spans %}
                summed.{{ name }}_{{ span }}d{{ ',' if not (outer.last and loop.last) }}
            {% endfor %}
        {% endfor %}
    from (
        select
            happened.customer_id,
            days.as_of_date,
            min(happened.day) as first_day,
            max(happened.last_event_at) as last_event_at,
            max(happened.last_subscription_expiry_day) as last_subscription_expiry_day,
            {% for name, condition in latest.items() %}
                max(case when happened.{{ condition }} then happened.day end) as last_{{ name }}_day,
            {% endfor %}
            case
                when sum(happened.active_days) > 1
                    then {{ days_between(
                        'min(case when happened.active_days > 0 then happened.day end)',
                        'max(case when happened.active_days > 0 then happened.day end)',
                    ) }} / (sum(happened.active_days) - 1.0)
            end as typical_gap_days,
            {% for name in lifetime_features() %}
                sum(happened.{{ name }}) as {{ name }}_lifetime,
            {% endfor %}
            {% for name, spans in feature_windows().items() %}
                {% set outer = loop %}
                {% for span in spans %}
                    sum(
                        case
                            when happened.day > {{ cast_to(moved_by('days.as_of_date', -span, 'day'), 'date') }}
                                then happened.{{ name }}
                            else 0
                        end
                    ) as {{ name }}_{{ span }}d{{ ',' if not (outer.last and loop.last) }}
                {% endfor %}
            {% endfor %}
        from {{ happened }} as happened
        inner join {{ days }} as days on happened.day <= days.as_of_date
        group by happened.customer_id, days.as_of_date
    ) as summed
    left join (
        select
            habits.customer_id,
            days.as_of_date,
            {% for name in habit_features() -%}
                {{ latest_value('habits.' ~ name, 'habits.day') }} as {{ name }}{{ ',' if not loop.last }}
            {% endfor -%}
        from {{ habits }} as habits
        inner join {{ days }} as days on habits.day <= days.as_of_date
        group by habits.customer_id, days.as_of_date
    ) as habits_then
        on summed.customer_id = habits_then.customer_id and summed.as_of_date = habits_then.as_of_date
{%- endmacro %}
