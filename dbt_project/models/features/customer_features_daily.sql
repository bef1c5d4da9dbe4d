{{ config(meta={'rolls_daily': true, 'laid_out_by': ['as_of_date', 'customer_id']}) }}

{% set first_day -%}
    {{ cast_to(moved_by(as_of_date(), 1 - var('features_daily_days'), 'day'), 'date') }}
{%- endset %}
{% set first_counted_day -%}
    {{ cast_to(moved_by(as_of_date(), 1 - var('features_daily_days') - 89, 'day'), 'date') }}
{%- endset %}

{% set windows = feature_windows() %}
{% set rolled_day = cast_to(moved_by(first_counted_day, -1, 'day'), 'date') %}

with

touched_customers as (
    {{ touched_customers() }}
),

identified_customers as (
    select distinct identity_map.customer_id
    from {{ rebuilt('identity_map') }} as identity_map
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
    from {{ rebuilt('customer_timeline') }} as timeline
    inner join identified_customers on timeline.customer_id = identified_customers.customer_id
    where timeline.event_date <= {{ as_of_date() }} and {{ is_rebuilt('timeline', 'customer_timeline') }}
),

-- Days before the first window are rolled into one row, so that a long history costs no more than a short one.
happened as (
    {{ happened_by_day('events', 'greatest(event_date, ' ~ rolled_day ~ ')') }}
),

habits as (
    {{ habits_by_day(
        'identified_customers', as_of_date(), first_day=rolled_day,
        relation=rebuilt('login_habits'), among=is_rebuilt('habits', 'login_habits')
    ) }}
),

told as (
    {{ with_habit_days('happened', 'habits') }}
),

{% if target.name == 'hot' %}
    asked_days as (
        {{ date_series(first_day, as_of_date()) }}
    ),

    days as (
        select day as as_of_date
        from asked_days
    ),

    -- The lane runs few customers at a time.
    summed as (
        {{ summed_until('told', 'days') }}
    ),
{% else %}
    first_days as (
        select
            customer_id,
            min(first_day) as first_day,
            min(first_active_day) as first_active_day,
            min(day) as spine_start
        from told
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
            told.last_event_at,
            {% for name in latest_days() %}
                told.last_{{ name }}_day,
            {% endfor %}
            {% for name in windows %}
                {{ 'coalesce(told.' ~ name ~ ', 0) as ' ~ name }}{{ ',' if not loop.last }}
            {% endfor %}
        from customer_days
        left join told on customer_days.customer_id = told.customer_id and customer_days.as_of_date = told.day
    ),

    summed as (
        select
            customer_id,
            as_of_date,
            first_day,
            first_active_day,
            max(last_event_at) {{ until_day() }} as last_event_at,
            {% for name in latest_days() %}
                max(last_{{ name }}_day) {{ until_day() }} as last_{{ name }}_day,
            {% endfor %}
            {% for name in lifetime_features() %}
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
{% endif %}

features as (
    {{ customer_features_of('summed', 'habits') }}
)

select
    features.*,
    touched_customers.changed_seq
from features
inner join touched_customers on features.customer_id = touched_customers.customer_id
where features.as_of_date >= {{ first_day }}
{{ laid_out() }}
