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
)

select
    customer_id,
    as_of_date,
    purchases_lifetime as orders,
    revenue_lifetime as lifetime_value,
    case
        when purchases_lifetime > 0
            then {{ cast_to('revenue_lifetime / purchases_lifetime', 'money') }}
    end as average_order_value,
    purchases_90d as orders_90d,
    revenue_90d as value_90d,
    -- A customer of three weeks is compared by the pace of those weeks, not as if it were a quarter.
    {{ cast_to('revenue_90d * 90.0 / least(greatest(tenure_days, 30), 90)', 'money') }} as run_rate_90d
from features
