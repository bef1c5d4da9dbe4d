with

tickets as (
    select
        ticket_id,
        requester_email,
        subject,
        status,
        priority,
        created_at,
        updated_at
    from {{ source('raw', 'support_tickets') }}
)

select
    ticket_id,
    'email:' || lower(trim(requester_email)) as id_key,
    lower(trim(requester_email)) as requester_email,
    subject,
    lower(status) as status,
    lower(status) not in ('solved', 'closed') as is_open,
    lower(priority) as priority,
    created_at as opened_at,
    updated_at
from tickets
