with

identity_map as (
    select
        id_key,
        customer_id
    from {{ ref('identity_map') }}
),

identifies as (
    select
        id_key,
        event_at,
        log_seq,
        consent
    from {{ ref('stg_identifies') }}
    where consent is not null
),

purposes as (
    select
        identity_map.customer_id,
        identifies.event_at,
        identifies.log_seq,
        identifies.consent,
        {{ json_unnest_keys('identifies.consent') }} as purpose
    from identifies
    inner join identity_map on identifies.id_key = identity_map.id_key
),

answers as (
    select
        customer_id,
        purpose,
        event_at,
        log_seq,
        {{ safe_cast_to(json_string_at('consent', 'purpose'), 'boolean') }} as granted
    from purposes
),

numbered_answers as (
    select
        customer_id,
        purpose,
        granted,
        event_at,
        row_number() over (
            partition by customer_id, purpose
            order by event_at desc, log_seq desc
        ) as answer_number
    from answers
)

-- An answer that is not plainly yes is a no.
select
    customer_id,
    purpose,
    coalesce(granted, false) as granted,
    event_at as changed_at
from numbered_answers
where answer_number = 1
