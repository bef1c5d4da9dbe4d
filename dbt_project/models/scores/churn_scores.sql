with

scores as (
    select
        scores.customer_id,
        scores.as_of_date,
        scores.churn_score,
        scores.churn_band,
        scores.is_risen,
        scores.last_event_at
    from {{ ref('churn_scores_daily') }} as scores
    where scores.as_of_date = (select max(latest.as_of_date) from {{ ref('churn_scores_daily') }} as latest)
),

{{ churn_reasons() }}

select
    scores.customer_id,
    scores.as_of_date,
    scores.churn_score,
    scores.churn_band,
    {{ first_churn_reason() }} as reason_1,
    reasons.reason_2,
    reasons.reason_3,
    scores.last_event_at
from scores
left join reasons on scores.customer_id = reasons.customer_id
