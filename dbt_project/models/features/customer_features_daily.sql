{{ config(meta={'rolls_daily': true}) }}

{% set first_day -%}
    {{ cast_to(moved_by(as_of_date(), 1 - var('features_daily_days'), 'day'), 'date') }}
{%- endset %}
{% set first_counted_day -%}
    {{ cast_to(moved_by(as_of_date(), 1 - var('features_daily_days') - 89, 'day'), 'date') }}
{%- endset %}

{% set counts = counted_events() %}
{% set windows = feature_windows() %}
{% set lifetime = lifetime_features() %}
{# the last day of each kind that a customer had so far #}
{% set latest = ['active', 'purchase', 'login', 'ticket', 'core_feature', 'subscription_expiry'] %}
{% set rolled_day = cast_to(moved_by(first_counted_day, -1, 'day'), 'date') %}

with

touched_customers as (
    {{ touched_customers() }}
),

identified_customers as (
    select distinct identity_map.customer_id
    from {{ ref('identity_map') }} as identity_map
    inner join touched_customers on identity_map.customer_id = touched_customers.customer_id
    where identity_map.is_identified
),

events as (
    select
        timeline.customer_id,
        timeline.event_date,
        timeline.event_at,
        timeline.event,
        timeline.is_activity,
        timeline.is_session_start,
        timeline.page_path,
        case
            when timeline.event = 'Purchase Completed'
                then {{ json_money('timeline.properties', 'total') }}
        end as revenue,
        case
            when timeline.event = 'Subscription Expiring'
                then {{ utc_date(json_timestamp('timeline.properties', 'expires_at')) }}
        end as subscription_expiry_day
    from {{ ref('customer_timeline') }} as timeline
    inner join identified_customers on timeline.customer_id = identified_customers.customer_id
    where timeline.event_date <= {{ as_of_date() }} and {{ is_rebuilt('timeline', 'customer_timeline') }}
),

-- What happened on each day that something did. Days before the first window are rolled into one row,
-- so that a long history costs no more than a short one.
happened as (
    select
        customer_id,
        greatest(event_date, {{ rolled_day }}) as day,
        min(event_date) as first_day,
        max(event_at) as last_event_at,
        min(case when is_activity then event_date end) as first_active_day,
        max(case when is_activity then event_date end) as last_active_day,
        max(case when event = 'Purchase Completed' then event_date end) as last_purchase_day,
        max(case when event = 'Logged In' then event_date end) as last_login_day,
        max(case when event = 'Support Ticket Opened' then event_date end) as last_ticket_day,
        max(case when {{ is_core_feature() }} then event_date end) as last_core_feature_day,
        max(subscription_expiry_day) as last_subscription_expiry_day,
        count(distinct case when is_activity then event_date end) as active_days,
        {% for name, condition in counts.items() %}
            sum(case when {{ condition }} then 1 else 0 end) as {{ name }},
        {% endfor %}
        sum(coalesce(revenue, 0)) as revenue
    from events
    group by
        customer_id,
        greatest(event_date, {{ rolled_day }})
),

habits as (
    {{ habits_by_day('identified_customers', as_of_date(), first_day=rolled_day) }}
),

first_days as (
    select
        customer_id,
        min(first_day) as first_day,
        min(first_active_day) as first_active_day,
        min(day) as spine_start
    from happened
    group by customer_id
),

days as (
    {{ date_series(rolled_day, as_of_date()) }}
),

customer_days as (
    select
        first_days.customer_id,
        first_days.first_day,
        first_days.first_active_day,
        days.day as as_of_date
    from first_days
    inner join days on first_days.spine_start <= days.day
),

filled as (
    select
        customer_days.customer_id,
        customer_days.first_day,
        customer_days.first_active_day,
        customer_days.as_of_date,
        happened.last_event_at,
        habits.day as last_habit_day,
        {% for name in latest %}
            happened.last_{{ name }}_day,
        {% endfor %}
        {% for name in windows %}
            {{ 'coalesce(happened.' ~ name ~ ', 0) as ' ~ name }}{{ ',' if not loop.last }}
        {% endfor %}
    from customer_days
    left join happened
        on customer_days.customer_id = happened.customer_id and customer_days.as_of_date = happened.day
    left join habits
        on customer_days.customer_id = habits.customer_id and customer_days.as_of_date = habits.day
),

windowed as (
    select
        customer_id,
        as_of_date,
        first_day,
        first_active_day,
        max(last_event_at) {{ until_day() }} as last_event_at,
        max(last_habit_day) {{ until_day() }} as last_habit_day,
        {% for name in latest %}
            max(last_{{ name }}_day) {{ until_day() }} as last_{{ name }}_day,
        {% endfor %}
        {% for name in lifetime %}
            sum({{ name }}) {{ until_day() }} as {{ name }}_lifetime,
        {% endfor %}
        {% for name, spans in windows.items() %}
            {% set outer = loop %}
            {% for span in spans %}
                sum({{ name }}) {{ last_days(span) }} as {{ name }}_{{ span }}d{{ ',' if not (outer.last and loop.last) }}
            {% endfor %}
        {% endfor %}
    from filled
),

asked_days as (
    select
        customer_id,
        as_of_date,
        first_day,
        last_event_at,
        last_habit_day,
        last_purchase_day,
        last_login_day,
        last_ticket_day,
        last_core_feature_day,
        last_subscription_expiry_day,
        {% for name in lifetime %}
            {{ name }}_lifetime,
        {% endfor %}
        {% for name, spans in windows.items() %}
            {% for span in spans %}
                {{ name }}_{{ span }}d,
            {% endfor %}
        {% endfor %}
        {{ days_between('last_active_day', 'as_of_date') }} as days_since_last_seen,
        case
            when active_days_lifetime > 1
                then {{ days_between('first_active_day', 'last_active_day') }} / (active_days_lifetime - 1.0)
        end as typical_gap_days
    from windowed
    where as_of_date >= {{ first_day }}
)

select
    asked_days.customer_id,
    asked_days.as_of_date,
    {{ days_between('asked_days.first_day', 'asked_days.as_of_date') }} as tenure_days,
    asked_days.last_event_at,
    asked_days.days_since_last_seen,
    {{ days_between('asked_days.last_purchase_day', 'asked_days.as_of_date') }} as days_since_last_purchase,
    {{ days_between('asked_days.last_login_day', 'asked_days.as_of_date') }} as days_since_last_login,
    {{ days_between('asked_days.last_ticket_day', 'asked_days.as_of_date') }} as days_since_last_ticket,
    {{ days_between('asked_days.last_core_feature_day', 'asked_days.as_of_date') }} as days_since_core_feature,
    {% for name in habit_features() %}
        nullif(habits.{{ name }}, -1) as {{ name }},
    {% endfor %}
    case
        when asked_days.last_subscription_expiry_day >= asked_days.as_of_date
            then {{ days_between('asked_days.as_of_date', 'asked_days.last_subscription_expiry_day') }}
    end as subscription_expires_in_days,
    {{ cast_to('asked_days.typical_gap_days', 'double') }} as typical_gap_days,
    -- Without a rhythm silence says nothing: greatest() would quietly take the 3 where the gap is null.
    case
        when asked_days.typical_gap_days is not null
            then {{ cast_to('asked_days.days_since_last_seen / greatest(asked_days.typical_gap_days, 3)', 'double') }}
    end as silence_ratio,
    {% for name in lifetime %}
        {{ cast_to('asked_days.' ~ name ~ '_lifetime', 'money' if name == 'revenue' else 'integer') }} as {{ name }}_lifetime,
    {% endfor %}
    {% for name, spans in windows.items() %}
        {% for span in spans %}
            {{ cast_to('asked_days.' ~ name ~ '_' ~ span ~ 'd', 'money' if name == 'revenue' else 'integer') }} as {{ name }}_{{ span }}d,
        {% endfor %}
    {% endfor %}
    touched_customers.changed_seq
from asked_days
inner join touched_customers on asked_days.customer_id = touched_customers.customer_id
left join habits
    on asked_days.customer_id = habits.customer_id and asked_days.last_habit_day = habits.day
