with

contacts as (
    select
        contact_id,
        contact_key,
        id_key,
        email,
        is_archived,
        updated_at
    from {{ ref('stg_crm_contacts') }}
),

identity_map as (
    select
        id_key,
        customer_id
    from {{ ref('identity_map') }}
    where is_identified
)

-- The contact's own id says more than an address; until a micro-batch has read it, the address does.
select
    contacts.contact_id,
    coalesce(by_contact.customer_id, by_email.customer_id) as customer_id,
    contacts.email,
    contacts.is_archived,
    contacts.updated_at
from contacts
left join identity_map as by_contact on contacts.contact_key = by_contact.id_key
left join identity_map as by_email on contacts.id_key = by_email.id_key
where coalesce(by_contact.customer_id, by_email.customer_id) is not null
