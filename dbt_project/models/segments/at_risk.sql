with

features as (
    select
        customer_id,
        as_of_date,
        changed_seq,
        days_since_last_seen,
        typical_gap_days
    from {{ ref('customer_features_daily') }}
),

scores as (
    select
        customer_id,
        as_of_date,
        changed_seq,
        churn_score,
        churn_band
    from {{ ref('churn_scores_daily') }}
)

-- Likely to leave, not gone yet: who is gone is in lapsed.
select
    features.customer_id,
    features.as_of_date,
    features.changed_seq,
    'Churn score ' || {{ cast_to(rounded('scores.churn_score', 2), 'text') }} || ', last seen '
    || {{ in_words('features.days_since_last_seen') }} || ' days before' as reason
from features
inner join scores
    on
        features.customer_id = scores.customer_id
        and features.as_of_date = scores.as_of_date
        and features.changed_seq = scores.changed_seq
where
    scores.churn_band in ('medium', 'high')
    and features.days_since_last_seen < greatest(90, 3 * coalesce(features.typical_gap_days, 0))
