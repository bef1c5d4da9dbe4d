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
    }) }} as payload
from rises
