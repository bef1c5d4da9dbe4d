{{ config(materialized='incremental', incremental_strategy='by_customer') }}

with

touched_customers as (
    {{ touched_customers() }}
),

ids as (
    select
        identity_map.id_key,
        identity_map.customer_id,
        identity_map.id_kind,
        identity_map.id_value,
        identity_map.kind_rank,
        identity_map.first_event_at,
        identity_map.first_mentioned_at,
        identity_map.is_identified
    from {{ ref('identity_map') }} as identity_map
    inner join touched_customers on identity_map.customer_id = touched_customers.customer_id
),

identifies as (
    select
        ids.customer_id,
        identifies.email,
        identifies.name,
        identifies.phone,
        identifies.company,
        identifies.plan,
        identifies.timezone,
        identifies.signed_up_at,
        row_number() over (
            partition by ids.customer_id
            order by identifies.event_at, identifies.log_seq
        ) as identify_number
    from {{ ref('stg_identifies') }} as identifies
    inner join ids on identifies.id_key = ids.id_key
),

latest_traits as (
    select
        customer_id,
        {{ latest_value('email', 'identify_number') }} as email,
        {{ latest_value('name', 'identify_number') }} as name,
        {{ latest_value('phone', 'identify_number') }} as phone,
        {{ latest_value('company', 'identify_number') }} as company,
        {{ latest_value('plan', 'identify_number') }} as plan,
        {{ latest_value('timezone', 'identify_number') }} as timezone,
        {{ latest_value('signed_up_at', 'identify_number') }} as signed_up_at
    from identifies
    group by customer_id
),

ids_by_strength as (
    select
        customer_id,
        id_kind,
        id_value,
        first_mentioned_at,
        is_identified,
        row_number() over (
            partition by customer_id, id_kind
            order by first_event_at nulls last, first_mentioned_at, id_key
        ) as id_number
    from ids
),

id_summary as (
    select
        customer_id,
        min(first_mentioned_at) as first_seen_at,
        {{ any_true('is_identified') }} as is_identified,
        count(*) as ids,
        max(case when id_kind = 'user' and id_number = 1 then id_value end) as user_id,
        max(case when id_kind = 'email' and id_number = 1 then id_value end) as known_email
    from ids_by_strength
    group by customer_id
)

select
    id_summary.customer_id,
    id_summary.user_id,
    coalesce(latest_traits.email, id_summary.known_email) as email,
    latest_traits.name,
    latest_traits.phone,
    latest_traits.company,
    latest_traits.plan,
    latest_traits.timezone,
    id_summary.is_identified,
    id_summary.ids,
    latest_traits.signed_up_at,
    id_summary.first_seen_at
from id_summary
left join latest_traits on id_summary.customer_id = latest_traits.customer_id
