with

signals as (
    select
        customer_id,
        trigger_id,
        fired_at,
        expires_at,
        payload
    from {{ ref('support_ticket_opened') }}
    where expires_at > {{ as_of_ts() }}
),

customers as (
    select
        customer_id,
        company,
        email
    from {{ ref('customers') }}
),

scores as (
    select
        customer_id,
        churn_band
    from {{ ref('churn_scores_daily') }}
    where as_of_date = (select max(latest.as_of_date) from {{ ref('churn_scores_daily') }} as latest)
)

select
    signals.customer_id,
    signals.trigger_id,
    signals.fired_at,
    signals.expires_at,
    {{ json_string('signals.payload', 'ticket_id') }} as ticket_id,
    {{ json_string('signals.payload', 'subject') }} as subject,
    {{ json_string('signals.payload', 'priority') }} as priority,
    scores.churn_band,
    customers.company,
    customers.email
from signals
inner join customers on signals.customer_id = customers.customer_id
left join scores on signals.customer_id = scores.customer_id
