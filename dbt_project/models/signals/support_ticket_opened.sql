with

ticket_events as (
    select
        customer_id,
        coalesce({{ json_string('properties', 'ticket_id') }}, event_id) as ticket_id,
        event_at as opened_at,
        {{ json_string('properties', 'subject') }} as subject,
        {{ json_string('properties', 'priority') }} as priority
    from {{ ref('customer_timeline') }}
    where event = 'Support Ticket Opened'
),

desk_tickets as (
    select
        support_customers.customer_id,
        tickets.ticket_id,
        tickets.opened_at,
        tickets.subject,
        tickets.priority
    from {{ ref('stg_support_tickets') }} as tickets
    inner join {{ ref('support_customers') }} as support_customers
        on tickets.desk_ticket_id = support_customers.desk_ticket_id
),

all_tickets as (
    select
        customer_id,
        ticket_id,
        opened_at,
        subject,
        priority,
        1 as preference
    from ticket_events

    union all

    select
        customer_id,
        ticket_id,
        opened_at,
        subject,
        priority,
        2 as preference
    from desk_tickets
),

-- The event and the support desk tell of the same ticket; the event is usually first.
tickets as (
    select
        customer_id,
        ticket_id,
        opened_at,
        subject,
        priority,
        row_number() over (
            partition by customer_id, ticket_id
            order by preference, opened_at
        ) as copy_number
    from all_tickets
)

select
    customer_id,
    'support_ticket_opened' as signal,
    ticket_id as trigger_id,
    opened_at as fired_at,
    {{ moved_by('opened_at', var('support_ticket_opened_expires_hours'), 'hour') }} as expires_at,
    {{ json_build({'ticket_id': 'ticket_id', 'subject': 'subject', 'priority': 'priority'}) }} as payload
from tickets
where copy_number = 1
