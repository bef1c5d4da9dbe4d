with

features as (
    select
        customer_id,
        as_of_date,
        tenure_days
    from {{ ref('customer_features_daily') }}
)

select
    customer_id,
    as_of_date,
    'First seen ' || {{ in_words('tenure_days') }} || ' days before' as reason
from features
where tenure_days < 30
