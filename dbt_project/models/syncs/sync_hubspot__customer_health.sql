with

customers as (
    select
        customer_id,
        email
    from {{ ref('customers') }}
    where email is not null and is_identified
),

scores as (
    select
        customer_id,
        churn_score,
        churn_band,
        reason_1,
        last_event_at
    from {{ ref('churn_scores') }}
),

memberships as (
    select
        customer_id,
        segment,
        row_number() over (
            partition by customer_id
            order by case segment when 'at_risk' then 1 when 'lapsed' then 2 when 'champions' then 3 else 4 end
        ) as place
    from {{ ref('segment_membership') }}
    where is_current
),

-- Where several people share one address, the CRM hears of the one seen last.
contacts as (
    select
        customers.customer_id,
        customers.email,
        scores.churn_score,
        scores.churn_band,
        scores.reason_1,
        scores.last_event_at,
        row_number() over (
            partition by customers.email
            order by scores.last_event_at desc, customers.customer_id asc
        ) as place
    from customers
    inner join scores on customers.customer_id = scores.customer_id
)

select
    contacts.customer_id,
    contacts.email,
    contacts.churn_score,
    contacts.churn_band,
    contacts.reason_1 as churn_top_reason,
    coalesce(memberships.segment, 'regular') as customer_segment,
    contacts.last_event_at as last_seen_at
from contacts
left join memberships on contacts.customer_id = memberships.customer_id and memberships.place = 1
where contacts.place = 1
