with

identity_map as (
    select
        id_key,
        customer_id
    from {{ ref('identity_map') }}
),

free_mail as (
    select domain
    from {{ ref('free_mail_domains') }}
),

addresses as (
    select
        identity_map.customer_id,
        identifies.event_id,
        identifies.event_at,
        identifies.log_seq,
        identifies.email,
        {{ domain_of('identifies.email') }} as domain
    from {{ ref('stg_identifies') }} as identifies
    inner join identity_map on identifies.id_key = identity_map.id_key
    where identifies.email is not null
),

-- Few have said addresses of two domains, and only theirs are looked back upon.
movers as (
    select customer_id
    from addresses
    group by customer_id
    having min(domain) <> max(domain)
),

changes as (
    select
        addresses.customer_id,
        addresses.event_id,
        addresses.event_at,
        addresses.email,
        addresses.domain,
        lag(addresses.email) over (
            partition by addresses.customer_id
            order by addresses.event_at, addresses.log_seq
        ) as previous_email,
        lag(addresses.domain) over (
            partition by addresses.customer_id
            order by addresses.event_at, addresses.log_seq
        ) as previous_domain
    from addresses
    inner join movers on addresses.customer_id = movers.customer_id
)

-- Who leaves a company takes the account along under an address of their own.
select
    changes.customer_id,
    'contact_changed_to_personal' as signal,
    changes.event_id as trigger_id,
    changes.event_at as fired_at,
    {{ moved_by('changes.event_at', var('contact_changed_expires_hours'), 'hour') }} as expires_at,
    {{ json_build({
        'email': 'changes.email',
        'previous_email': 'changes.previous_email',
        'previous_domain': 'changes.previous_domain',
    }) }} as payload
from changes
inner join free_mail on changes.domain = free_mail.domain
left join free_mail as previous_free_mail on changes.previous_domain = previous_free_mail.domain
where changes.previous_domain is not null and previous_free_mail.domain is null
