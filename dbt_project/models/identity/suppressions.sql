with

identity_map as (
    select
        id_key,
        customer_id
    from {{ ref('identity_map') }}
),

-- Segment's email spec names the recipient in context.traits.email.
mail_events as (
    select
        id_key,
        event,
        event_at,
        'email' as channel,
        coalesce({{ json_string('properties', 'email') }}, email) as address,
        coalesce({{ json_string('properties', 'bounce_type') }}, 'hard') as bounce_type
    from {{ ref('stg_events') }}
    where type = 'track' and event in ('Unsubscribed', 'Email Bounced', 'Email Marked as Spam')
),

told as (
    select
        mail_events.channel,
        {{ normalised_address('mail_events.channel', 'mail_events.address') }} as address,
        identity_map.customer_id,
        case mail_events.event
            when 'Unsubscribed' then 'unsubscribed'
            when 'Email Bounced' then 'bounced'
            else 'marked as spam'
        end as reason,
        mail_events.event_at as since
    from mail_events
    left join identity_map on mail_events.id_key = identity_map.id_key
    where mail_events.event <> 'Email Bounced' or mail_events.bounce_type <> 'soft'
),

written as (
    select
        channel,
        {{ normalised_address('channel', 'address') }} as address,
        nullif(trim(customer_id), '') as customer_id,
        reason,
        since
    from {{ ref('suppression_list') }}
),

-- Who is lifted by address is lifted as a person too: the address is all that support knows.
written_for as (
    select
        written.channel,
        written.address,
        coalesce(written.customer_id, identity_map.customer_id) as customer_id,
        written.reason,
        written.since
    from written
    left join identity_map
        on written.reason = 'lifted' and 'email:' || written.address = identity_map.id_key
),

entries as (
    select
        channel,
        address,
        {{ cast_to('null', 'text') }} as customer_id,
        reason,
        since
    from told
    where address is not null

    union all

    -- A wish is the person's, whatever the address; a bounce is only the address's.
    select
        channel,
        {{ cast_to('null', 'text') }} as address,
        customer_id,
        reason,
        since
    from told
    where customer_id is not null and (reason <> 'bounced' or address is null)

    union all

    select
        channel,
        address,
        {{ cast_to('null', 'text') }} as customer_id,
        reason,
        since
    from written_for
    where address is not null

    union all

    select
        channel,
        {{ cast_to('null', 'text') }} as address,
        customer_id,
        reason,
        since
    from written_for
    where customer_id is not null
),

numbered_entries as (
    select
        channel,
        address,
        customer_id,
        reason,
        since,
        row_number() over (
            partition by channel, address, customer_id
            order by since desc, case when reason = 'lifted' then 1 else 0 end asc, reason asc
        ) as entry_number
    from entries
)

select
    channel,
    address,
    customer_id,
    reason,
    since
from numbered_entries
where entry_number = 1 and reason <> 'lifted'
