with

contacts as (
    select
        contact_id,
        email,
        properties,
        created_at,
        updated_at,
        archived
    from {{ source('raw', 'crm_contacts') }}
)

select
    contact_id,
    'crm_contact:' || contact_id as contact_key,
    'email:' || lower(trim(email)) as id_key,
    lower(trim(email)) as email,
    {{ json_string('properties', 'firstname') }} as first_name,
    {{ json_string('properties', 'lastname') }} as last_name,
    {{ json_string('properties', 'company') }} as company,
    properties,
    created_at,
    updated_at,
    coalesce(archived, false) as is_archived
from contacts
