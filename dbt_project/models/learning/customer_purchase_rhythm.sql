{% set horizon = var('churn_horizon_days') %}

with

known_people as (
    select distinct customer_id
    from {{ ref('identity_map') }}
    where is_identified
),

-- Two purchases on one day are one occasion to buy.
purchase_days as (
    select
        timeline.customer_id,
        timeline.event_date as day,
        sum(coalesce({{ json_money('timeline.properties', 'total') }}, 0)) as revenue
    from {{ ref('customer_timeline') }} as timeline
    inner join known_people on timeline.customer_id = known_people.customer_id
    where timeline.event = 'Purchase Completed'
    group by timeline.customer_id, timeline.event_date
),

days as (
    select {{ cast_to(moved_by(as_of_date(), -1, 'day'), 'date') }} as as_of_date
    union all
    select {{ cast_to(moved_by(as_of_date(), -1 - horizon, 'day'), 'date') }} as as_of_date
),

until_day as (
    select
        purchase_days.customer_id,
        days.as_of_date,
        count(*) as purchases,
        min(purchase_days.day) as first_day,
        max(purchase_days.day) as last_day,
        sum(purchase_days.revenue) as revenue
    from purchase_days
    inner join days on purchase_days.day <= days.as_of_date
    group by purchase_days.customer_id, days.as_of_date
),

after_day as (
    select
        purchase_days.customer_id,
        days.as_of_date,
        count(*) as purchases,
        sum(purchase_days.revenue) as revenue
    from purchase_days
    inner join days
        on
            purchase_days.day > days.as_of_date
            and purchase_days.day <= {{ cast_to(moved_by('days.as_of_date', horizon, 'day'), 'date') }}
            and purchase_days.day < {{ as_of_date() }}
    group by purchase_days.customer_id, days.as_of_date
)

select
    until_day.customer_id,
    until_day.as_of_date,
    {{ cast_to(horizon, 'integer') }} as horizon_days,
    until_day.as_of_date < {{ cast_to(moved_by(as_of_date(), -1, 'day'), 'date') }} as is_past,
    {{ cast_to('until_day.purchases', 'integer') }} as purchases,
    {{ days_between('until_day.first_day', 'until_day.last_day') }} as last_purchase_at,
    {{ days_between('until_day.first_day', 'until_day.as_of_date') }} as observed_days,
    {{ cast_to('until_day.revenue', 'double') }} / until_day.purchases as mean_value,
    {{ cast_to('coalesce(after_day.purchases, 0)', 'integer') }} as purchases_after,
    {{ cast_to('coalesce(after_day.revenue, 0)', 'double') }} as value_after
from until_day
left join after_day
    on
        until_day.customer_id = after_day.customer_id
        and until_day.as_of_date = after_day.as_of_date
