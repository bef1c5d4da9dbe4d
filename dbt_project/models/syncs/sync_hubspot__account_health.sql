with

accounts as (
    select
        account_id,
        name,
        plan,
        mrr,
        members,
        active_members_30d,
        high_risk_members,
        health,
        open_tickets
    from {{ ref('account_health') }}
)

select
    account_id,
    name,
    plan as account_plan,
    mrr as account_mrr,
    health as account_health,
    members as account_members,
    active_members_30d as account_active_members,
    high_risk_members as account_high_risk_members,
    open_tickets as account_open_tickets
from accounts
