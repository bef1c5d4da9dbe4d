with

-- Only the days above the line, so that looking back costs little.
lively_days as (
    select
        customer_id,
        as_of_date,
        last_event_at,
        sessions_7d,
        -- Sessions a week before that week.
        (sessions_90d - sessions_7d) * 7 / 83.0 as sessions_usual,
        pricing_page_visits_30d,
        feature_uses_30d
    from {{ ref('customer_features_daily') }}
    where
        tenure_days >= {{ var('engagement_spike_tenure_days') }}
        and sessions_7d >= {{ var('engagement_spike_sessions') }}
        and sessions_7d >= {{ var('engagement_spike_ratio') }} * (sessions_90d - sessions_7d) * 7 / 83.0
),

with_previous as (
    select
        customer_id,
        as_of_date,
        last_event_at,
        sessions_7d,
        sessions_usual,
        pricing_page_visits_30d,
        feature_uses_30d,
        lag(as_of_date) over (
            partition by customer_id
            order by as_of_date
        ) as previous_day
    from lively_days
)

-- Told on the first lively day after a quiet week, which the first days of the window cannot know of.
select
    customer_id,
    'engagement_spike' as signal,
    {{ cast_to('as_of_date', 'text') }} as trigger_id,
    greatest({{ day_start('as_of_date') }}, last_event_at) as fired_at,
    {{ moved_by(day_start('as_of_date'), var('engagement_spike_expires_hours'), 'hour') }} as expires_at,
    {{ json_build({
        'sessions_7d': 'sessions_7d',
        'sessions_usual': rounded('sessions_usual', 1),
        'pricing_page_visits_30d': 'pricing_page_visits_30d',
        'feature_uses_30d': 'feature_uses_30d',
    }) }} as payload
from with_previous
where
    (previous_day is null or {{ days_between('previous_day', 'as_of_date') }} > 7)
    and as_of_date > (
        select {{ cast_to(moved_by('min(earliest.as_of_date)', 7, 'day'), 'date') }}
        from {{ ref('customer_features_daily') }} as earliest
    )
