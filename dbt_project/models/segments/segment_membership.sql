{{ config(materialized='incremental', incremental_strategy='by_customer', meta={'rolls_daily': true}) }}

{% set names = ['at_risk', 'champions', 'new', 'lapsed'] %}

with

touched_customers as (
    {{ touched_customers() }}
),

days_in_segment as (
    {% for name in names %}
        select
            members.customer_id,
            '{{ name }}' as segment,
            members.as_of_date,
            members.reason
        from {{ ref(name) }} as members
        inner join touched_customers on members.customer_id = touched_customers.customer_id
        where {{ is_rebuilt('members', name, above=['customer_features_daily', 'churn_scores_daily']) }}
        {{ 'union all' if not loop.last }}
    {% endfor %}
),

-- Consecutive days share the distance between the date and the count of days so far.
stays as (
    select
        customer_id,
        segment,
        as_of_date,
        reason,
        {{ days_between(cast_to("'2000-01-01'", 'date'), 'as_of_date') }} - row_number() over (
            partition by customer_id, segment
            order by as_of_date
        ) as stay
    from days_in_segment
),

memberships as (
    select
        customer_id,
        segment,
        stay,
        min(as_of_date) as entered_at,
        max(as_of_date) as last_day,
        {{ latest_value('reason', 'as_of_date') }} as reason
    from stays
    group by customer_id, segment, stay
)

select
    customer_id,
    segment,
    entered_at,
    case
        when last_day < {{ as_of_date() }} then {{ cast_to(moved_by('last_day', 1, 'day'), 'date') }}
    end as exited_at,
    last_day >= {{ as_of_date() }} as is_current,
    entered_at <= {{ cast_to(moved_by(as_of_date(), 1 - var('features_daily_days'), 'day'), 'date') }} as is_entry_unknown,
    reason
from memberships
