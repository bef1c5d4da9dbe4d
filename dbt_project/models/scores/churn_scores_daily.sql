{{ config(
    materialized='incremental', incremental_strategy='by_customer',
    meta={'rolls_daily': true, 'laid_out_by': ['as_of_date', 'customer_id']}
) }}

with

touched_customers as (
    {{ touched_customers() }}
),

features as (
    {{ churn_features(rebuilt('customer_features_daily')) }}
    inner join touched_customers on features.customer_id = touched_customers.customer_id
    where {{ is_rebuilt('features', 'customer_features_daily') }}
),

rules as (
    select
        rule,
        feature,
        starts_at,
        full_at,
        points
    from {{ ref('churn_points') }}
),

points as (
    select
        features.customer_id,
        features.as_of_date,
        features.last_event_at,
        {{ rounded('sum(' ~ churn_points('features', 'rules') ~ ')', 6) }} as points
    from features
    cross join rules
    group by features.customer_id, features.as_of_date, features.last_event_at
),

scored as (
    select
        customer_id,
        as_of_date,
        last_event_at,
        points as churn_points,
        {{ rounded('1 / (1 + exp(-points))', 4) }} as churn_score
    from points
),

banded as (
    select
        customer_id,
        as_of_date,
        last_event_at,
        churn_points,
        churn_score,
        {{ churn_band('churn_score') }} as churn_band,
        min(churn_score) over (
            partition by customer_id
            order by as_of_date
            rows between 7 preceding and 1 preceding
        ) as lowest_score_7d,
        count(*) over (
            partition by customer_id
            order by as_of_date
            rows between 7 preceding and 1 preceding
        ) as days_before
    from scored
),

with_alarm as (
    select
        customer_id,
        as_of_date,
        last_event_at,
        churn_points,
        churn_score,
        churn_band,
        lowest_score_7d,
        churn_band = 'high'
        or (churn_band = 'medium' and churn_score - lowest_score_7d >= {{ var('churn_risk_rise') }}) as is_alarming,
        days_before > 0 as has_past
    from banded
),

with_previous as (
    select
        customer_id,
        as_of_date,
        last_event_at,
        churn_points,
        churn_score,
        churn_band,
        lowest_score_7d,
        is_alarming,
        has_past,
        max(case when is_alarming then 1 else 0 end) over (
            partition by customer_id
            order by as_of_date
            rows between 7 preceding and 1 preceding
        ) as alarms_before
    from with_alarm
)

-- A risk has risen on the first alarming day after a week without one. The first day of the window has
-- no past to rise from.
select
    with_previous.customer_id,
    with_previous.as_of_date,
    with_previous.churn_score,
    with_previous.churn_band,
    with_previous.churn_points,
    with_previous.lowest_score_7d,
    with_previous.is_alarming and with_previous.has_past and with_previous.alarms_before = 0 as is_risen,
    with_previous.last_event_at,
    touched_customers.changed_seq
from with_previous
inner join touched_customers on with_previous.customer_id = touched_customers.customer_id
{{ laid_out() }}
