with

features as (
    {{ churn_features() }}
    where features.as_of_date = (select max(latest.as_of_date) from {{ ref('customer_features_daily') }} as latest)
),

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

rules as (
    select
        rule,
        feature,
        starts_at,
        full_at,
        points,
        usual_points,
        reason
    from {{ ref('churn_points') }}
),

contributions as (
    select
        features.customer_id,
        rules.rule,
        rules.feature,
        {{ churn_feature_value('features', 'rules') }} is not null as is_known,
        {{ churn_points('features', 'rules') }} - rules.usual_points as points,
        rules.reason
    from features
    cross join rules
),

-- A learned model has several rules for one feature. What it says is one reason, told against what is usual.
weighed as (
    select
        customer_id,
        feature,
        reason,
        min(rule) as rule,
        {{ rounded('sum(points)', 6) }} as points
    from contributions
    where is_known
    group by customer_id, feature, reason
),

ranked as (
    select
        customer_id,
        feature,
        reason,
        row_number() over (
            partition by customer_id
            order by points desc, rule asc
        ) as reason_number
    from weighed
    where points >= {{ var('churn_reason_points_min') }}
),

-- Few rules are worth telling, and only they are put into words.
worded as (
    select
        ranked.customer_id,
        ranked.reason_number,
        replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(
            ranked.reason,
            '{value}', {{ in_words(churn_feature_value('features', 'ranked')) }}),
            '{days_since_last_seen}', {{ in_words('features.days_since_last_seen') }}),
            '{typical_gap_days}', {{ in_words('features.typical_gap_days') }}),
            '{sessions_30d}', {{ in_words('features.sessions_30d') }}),
            '{sessions_usual}', {{ in_words('features.sessions_usual') }}),
            '{purchases_30d}', {{ in_words('features.purchases_30d') }}),
            '{purchases_usual}', {{ in_words('features.purchases_usual') }}),
            '{session_minutes_recent}', {{ in_words('features.session_minutes_recent') }}),
            '{session_minutes_usual}', {{ in_words('features.session_minutes_usual') }}),
            '{core_feature_uses_30d}', {{ in_words('features.core_feature_uses_30d') }}),
            '{core_feature_uses_usual}', {{ in_words('features.core_feature_uses_usual') }}),
            '{subscription_expires_in_days}', {{ in_words('features.subscription_expires_in_days') }}
        ) as reason
    from ranked
    inner join features on ranked.customer_id = features.customer_id
    where ranked.reason_number <= 3
),

reasons as (
    select
        customer_id,
        max(case when reason_number = 1 then reason end) as reason_1,
        max(case when reason_number = 2 then reason end) as reason_2,
        max(case when reason_number = 3 then reason end) as reason_3
    from worded
    group by customer_id
)

select
    scores.customer_id,
    scores.as_of_date,
    scores.churn_score,
    scores.churn_band,
    coalesce(reasons.reason_1, 'No warning signs') as reason_1,
    reasons.reason_2,
    reasons.reason_3,
    scores.last_event_at
from scores
left join reasons on scores.customer_id = reasons.customer_id
