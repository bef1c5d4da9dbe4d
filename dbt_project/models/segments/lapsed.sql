with

features as (
    select
        customer_id,
        as_of_date,
        changed_seq,
        days_since_last_seen,
        typical_gap_days
    from {{ ref('customer_features_daily') }}
)

-- Three times the own rhythm, and never less than a quarter.
select
    customer_id,
    as_of_date,
    changed_seq,
    'Not seen for ' || {{ in_words('days_since_last_seen') }} || ' days' as reason
from features
where days_since_last_seen >= greatest(90, 3 * coalesce(typical_gap_days, 0))
