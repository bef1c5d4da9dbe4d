with

features as (
    select
        customer_id,
        as_of_date,
        changed_seq,
        tenure_days
    from {{ ref('customer_features_daily') }}
)

select
    customer_id,
    as_of_date,
    changed_seq,
    'First seen ' || {{ in_words('tenure_days') }} || ' days before' as reason
from features
where tenure_days < 30
