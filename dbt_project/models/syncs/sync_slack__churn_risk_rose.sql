with

signals as (
    select
        customer_id,
        trigger_id,
        fired_at,
        expires_at,
        payload
    from {{ ref('churn_risk_rose') }}
    where expires_at > {{ as_of_ts() }}
),

customers as (
    select
        customer_id,
        user_id,
        name,
        email,
        company,
        plan,
        signed_up_at
    from {{ ref('customers') }}
),

-- Not churn_scores, which would put the reasons of all customers into words.
scores as (
    select
        customer_id,
        churn_score,
        churn_band
    from {{ ref('churn_scores_daily') }}
    where as_of_date = (select max(latest.as_of_date) from {{ ref('churn_scores_daily') }} as latest)
),

{{ churn_reasons(among='signals') }},

features as (
    select
        customer_id,
        last_event_at,
        revenue_lifetime,
        open_tickets,
        subscription_expires_in_days
    from {{ ref('customer_features') }}
),

accounts as (
    select
        members.customer_id,
        max(accounts.mrr) as mrr
    from {{ ref('account_members') }} as members
    inner join {{ ref('accounts') }} as accounts on members.account_id = accounts.account_id
    group by members.customer_id
)

select
    signals.customer_id,
    signals.trigger_id,
    signals.fired_at,
    signals.expires_at,
    '{{ var("slack_channel") }}' as channel,
    coalesce(customers.name, customers.email, customers.user_id, signals.customer_id) as customer_name,
    customers.email,
    customers.company,
    customers.plan,
    scores.churn_score,
    scores.churn_band,
    {{ first_churn_reason() }} as reason_1,
    reasons.reason_2,
    reasons.reason_3,
    features.revenue_lifetime as lifetime_value,
    features.last_event_at as last_seen_at,
    features.open_tickets,
    {{ json_number('signals.payload', 'lowest_score_7d') }} as churn_score_before,
    {{ json_number('signals.payload', 'session_minutes_recent') }} as session_minutes_recent,
    {{ json_number('signals.payload', 'session_minutes_usual') }} as session_minutes_usual,
    {{ cast_to(json_number('signals.payload', 'days_since_core_feature'), 'integer') }} as days_since_core_feature,
    {{ json_timestamp('signals.payload', 'cancellation_page_seen_at') }} as cancellation_page_seen_at,
    accounts.mrr,
    customers.signed_up_at as customer_since,
    features.subscription_expires_in_days
from signals
inner join customers on signals.customer_id = customers.customer_id
inner join scores on signals.customer_id = scores.customer_id
left join reasons on signals.customer_id = reasons.customer_id
inner join features on signals.customer_id = features.customer_id
left join accounts on signals.customer_id = accounts.customer_id
