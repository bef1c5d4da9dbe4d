with

accounts as (
    select
        account_id,
        name,
        plan,
        mrr
    from {{ ref('accounts') }}
),

members as (
    select
        account_id,
        customer_id
    from {{ ref('account_members') }}
),

features as (
    select
        customer_id,
        days_since_last_seen,
        active_days_30d,
        revenue_90d,
        open_tickets
    from {{ ref('customer_features') }}
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

rolled_up as (
    select
        members.account_id,
        count(*) as members,
        sum(case when features.days_since_last_seen < 30 then 1 else 0 end) as active_members_30d,
        sum(case when scores.churn_band = 'high' then 1 else 0 end) as high_risk_members,
        avg(scores.churn_score) as average_churn_score,
        min(features.days_since_last_seen) as days_since_last_seen,
        sum(coalesce(features.revenue_90d, 0)) as revenue_90d,
        sum(coalesce(features.open_tickets, 0)) as open_tickets
    from members
    left join features on members.customer_id = features.customer_id
    left join scores on members.customer_id = scores.customer_id
    group by members.account_id
)

-- Half of the health is who still comes, half is how likely those people are to stay.
select
    accounts.account_id,
    accounts.name,
    accounts.plan,
    accounts.mrr,
    {{ cast_to('rolled_up.members', 'integer') }} as members,
    {{ cast_to('rolled_up.active_members_30d', 'integer') }} as active_members_30d,
    {{ cast_to('rolled_up.high_risk_members', 'integer') }} as high_risk_members,
    {{ cast_to(rounded('rolled_up.average_churn_score', 4), 'double') }} as average_churn_score,
    rolled_up.days_since_last_seen,
    {{ cast_to('rolled_up.revenue_90d', 'money') }} as revenue_90d,
    {{ cast_to('rolled_up.open_tickets', 'integer') }} as open_tickets,
    {{ cast_to(rounded(
        '50.0 * rolled_up.active_members_30d / rolled_up.members'
        ~ ' + 50.0 * (1 - coalesce(rolled_up.average_churn_score, 0.5))', 0
    ), 'integer') }} as health
from accounts
inner join rolled_up on accounts.account_id = rolled_up.account_id
