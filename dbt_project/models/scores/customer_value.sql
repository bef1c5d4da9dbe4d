with

features as (
    select
        customer_id,
        as_of_date,
        tenure_days,
        purchases_lifetime,
        revenue_lifetime,
        purchases_90d,
        revenue_90d
    from {{ ref('customer_features') }}
),

expected as (
    select
        customer_id,
        as_of_date,
        horizon_days,
        probability_active,
        expected_purchases,
        expected_order_value,
        expected_value
    from {{ source('learned', 'customer_value_scores') }}
)

select
    features.customer_id,
    features.as_of_date,
    features.purchases_lifetime as orders,
    features.revenue_lifetime as lifetime_value,
    case
        when features.purchases_lifetime > 0
            then {{ cast_to('features.revenue_lifetime / features.purchases_lifetime', 'money') }}
    end as average_order_value,
    features.purchases_90d as orders_90d,
    features.revenue_90d as value_90d,
    -- A customer of three weeks is compared by the pace of those weeks, not as if it were a quarter.
    {{ cast_to('features.revenue_90d * 90.0 / least(greatest(features.tenure_days, 30), 90)', 'money') }} as run_rate_90d,
    expected.as_of_date as expected_since,
    expected.horizon_days as expected_days,
    expected.probability_active,
    expected.expected_purchases,
    {{ cast_to('expected.expected_order_value', 'money') }} as expected_order_value,
    {{ cast_to('expected.expected_value', 'money') }} as expected_value
from features
left join expected on features.customer_id = expected.customer_id
