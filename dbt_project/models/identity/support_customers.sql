with

tickets as (
    select
        desk_ticket_id,
        ticket_id,
        requester_key,
        id_key
    from {{ ref('stg_support_tickets') }}
),

identity_map as (
    select
        id_key,
        customer_id
    from {{ ref('identity_map') }}
    where is_identified
)

-- The desk's own id says more than an address; until a micro-batch has read it, the address does.
select
    tickets.desk_ticket_id,
    tickets.ticket_id,
    coalesce(by_requester.customer_id, by_email.customer_id) as customer_id
from tickets
left join identity_map as by_requester on tickets.requester_key = by_requester.id_key
left join identity_map as by_email on tickets.id_key = by_email.id_key
where coalesce(by_requester.customer_id, by_email.customer_id) is not null
