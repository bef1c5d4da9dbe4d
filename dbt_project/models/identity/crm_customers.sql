with

contacts as (
    select
        contact_id,
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
)

select
    contacts.contact_id,
    identity_map.customer_id,
    contacts.email,
    contacts.is_archived,
    contacts.updated_at
from contacts
inner join identity_map on contacts.id_key = identity_map.id_key
