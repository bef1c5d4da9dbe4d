with

tickets as (
    select
        ticket_id,
        {{ json_string('payload', 'external_id') }} as external_id,
        {{ json_string('payload', 'requester_id') }} as requester_id,
        requester_email,
        subject,
        status,
        priority,
        created_at,
        updated_at
    from {{ source('raw', 'support_tickets') }}
)

select
    -- A ticket that came to the desk from elsewhere keeps the id it has there, which its events carry.
    coalesce(external_id, ticket_id) as ticket_id,
    ticket_id as desk_ticket_id,
    'support_user:' || requester_id as requester_key,
    'email:' || lower(trim(requester_email)) as id_key,
    lower(trim(requester_email)) as requester_email,
    subject,
    lower(status) as status,
    lower(status) not in ('solved', 'closed') as is_open,
    lower(priority) as priority,
    created_at as opened_at,
    updated_at
from tickets
