with

rises as (
    select
        customer_id,
        as_of_date,
        churn_score,
        churn_band,
        lowest_score_7d,
        -- The rise is seen with the event that caused it, else with the day that brought it.
        greatest({{ day_start('as_of_date') }}, coalesce(last_event_at, {{ day_start('as_of_date') }})) as fired_at
    from {{ ref('churn_scores_daily') }}
    where is_risen
),

-- Three signs at once: short visits, a core feature left alone, a look at the way out.
signs as (
    select
        customer_id,
        event_at,
        session_minutes_recent,
        session_minutes_usual,
        days_since_core_feature,
        last_cancellation_page_at,
        lag(event_at) over (
            partition by customer_id
            order by event_at, event_id
        ) as previous_at
    from {{ ref('login_habits') }}
    where
        session_length_ratio <= {{ var('short_visits_ratio') }}
        and days_since_core_feature >= {{ var('core_feature_unused_days') }}
        and last_cancellation_page_at >= {{ moved_by('event_at', -var('cancellation_page_days'), 'day') }}
),

first_signs as (
    select
        customer_id,
        {{ utc_date('event_at') }} as as_of_date,
        event_at,
        session_minutes_recent,
        session_minutes_usual,
        days_since_core_feature,
        last_cancellation_page_at
    from signs
    where
        previous_at is null
        or event_at > {{ moved_by('previous_at', var('cancellation_page_days'), 'day') }}
),

days as (
    select
        customer_id,
        as_of_date
    from rises

    {{ union_distinct() }}

    select
        customer_id,
        as_of_date
    from first_signs
),

days_with_previous as (
    select
        customer_id,
        as_of_date,
        lag(as_of_date) over (
            partition by customer_id
            order by as_of_date
        ) as previous_day
    from days
),

-- The score usually follows the signs, or leads them: one episode, named by its first day.
first_days as (
    select
        customer_id,
        as_of_date
    from days_with_previous
    where previous_day is null or {{ days_between('previous_day', 'as_of_date') }} > 7
),

episodes as (
    select
        first_days.customer_id,
        first_days.as_of_date,
        least(
            coalesce(rises.fired_at, first_signs.event_at), coalesce(first_signs.event_at, rises.fired_at)
        ) as fired_at,
        rises.churn_score,
        rises.churn_band,
        rises.lowest_score_7d,
        first_signs.session_minutes_recent,
        first_signs.session_minutes_usual,
        first_signs.days_since_core_feature,
        first_signs.last_cancellation_page_at
    from first_days
    left join rises
        on first_days.customer_id = rises.customer_id and first_days.as_of_date = rises.as_of_date
    left join first_signs
        on first_days.customer_id = first_signs.customer_id and first_days.as_of_date = first_signs.as_of_date
)

select
    customer_id,
    'churn_risk_rose' as signal,
    {{ cast_to('as_of_date', 'text') }} as trigger_id,
    fired_at,
    {{ moved_by('fired_at', var('churn_risk_rose_expires_hours'), 'hour') }} as expires_at,
    {{ json_build({
        'churn_score': 'churn_score',
        'churn_band': 'churn_band',
        'lowest_score_7d': 'lowest_score_7d',
        'session_minutes_recent': rounded('session_minutes_recent', 1),
        'session_minutes_usual': rounded('session_minutes_usual', 1),
        'days_since_core_feature': 'days_since_core_feature',
        'cancellation_page_seen_at': cast_to('last_cancellation_page_at', 'text'),
    }) }} as payload
from episodes
