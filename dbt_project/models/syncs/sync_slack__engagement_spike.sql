with

signals as (
    select
        customer_id,
        trigger_id,
        fired_at,
        expires_at,
        payload
    from {{ ref('engagement_spike') }}
    where expires_at > {{ as_of_ts() }}
),

customers as (
    select
        customer_id,
        user_id,
        name,
        email,
        company,
        plan
    from {{ ref('customers') }}
),

-- Not customer_features, which would count the open tickets of all customers.
features as (
    select
        customer_id,
        revenue_lifetime
    from {{ ref('customer_features_daily') }}
    where as_of_date = (select max(latest.as_of_date) from {{ ref('customer_features_daily') }} as latest)
)

select
    signals.customer_id,
    signals.trigger_id,
    signals.fired_at,
    signals.expires_at,
    '{{ var("sales_slack_channel") }}' as channel,
    coalesce(customers.name, customers.email, customers.user_id, signals.customer_id) as customer_name,
    customers.email,
    customers.company,
    customers.plan,
    {{ cast_to(json_number('signals.payload', 'sessions_7d'), 'integer') }} as sessions_7d,
    {{ json_number('signals.payload', 'sessions_usual') }} as sessions_usual,
    {{ cast_to(json_number('signals.payload', 'pricing_page_visits_30d'), 'integer') }} as pricing_page_visits_30d,
    {{ cast_to(json_number('signals.payload', 'feature_uses_30d'), 'integer') }} as feature_uses_30d,
    features.revenue_lifetime as lifetime_value
from signals
inner join customers on signals.customer_id = customers.customer_id
inner join features on signals.customer_id = features.customer_id
