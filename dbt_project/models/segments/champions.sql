with

features as (
    select
        customer_id,
        as_of_date,
        changed_seq,
        tenure_days,
        days_since_last_seen,
        days_since_last_purchase,
        purchases_90d,
        active_days_30d
    from {{ ref('customer_features_daily') }}
),

scores as (
    select
        customer_id,
        as_of_date,
        changed_seq,
        churn_band
    from {{ ref('churn_scores_daily') }}
)

-- Two ways to be a champion: to buy often, or to be there nearly every other day.
select
    features.customer_id,
    features.as_of_date,
    features.changed_seq,
    case
        when features.purchases_90d >= 3
            then
                {{ in_words('features.purchases_90d') }} || ' purchases in 90 days, the last '
                || {{ in_words('features.days_since_last_purchase') }} || ' days before'
        else 'Active on ' || {{ in_words('features.active_days_30d') }} || ' of the last 30 days'
    end as reason
from features
inner join scores
    on
        features.customer_id = scores.customer_id
        and features.as_of_date = scores.as_of_date
        and features.changed_seq = scores.changed_seq
where
    features.tenure_days >= 30
    and scores.churn_band = 'low'
    and (
        (features.purchases_90d >= 3 and features.days_since_last_purchase <= 30)
        or (features.active_days_30d >= 12 and features.days_since_last_seen <= 7)
    )
