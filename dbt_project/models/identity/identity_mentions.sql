with

events as (
    select
        event_id,
        log_seq,
        event_at,
        type,
        id_key as actor_key,
        user_key,
        anonymous_key,
        email,
        previous_id,
        traits
    from {{ ref('stg_events') }}
),

blocked_ids as (
    select
        id_kind,
        value
    from {{ ref('identity_rules') }}
    where rule = 'block'
),

mentions as (
    select
        event_id,
        log_seq,
        event_at,
        type,
        'user' as id_kind,
        substr(user_key, 6) as id_value,
        true as is_actor
    from events
    where user_key is not null

    union all

    select
        event_id,
        log_seq,
        event_at,
        type,
        'anonymous' as id_kind,
        substr(anonymous_key, 11) as id_value,
        true as is_actor
    from events
    where anonymous_key is not null

    union all

    select
        event_id,
        log_seq,
        event_at,
        type,
        'email' as id_kind,
        email as id_value,
        false as is_actor
    from events
    -- Anybody can type in another's address: one that is said to be unproven joins nobody.
    where
        email like '%_@_%'
        and actor_key is not null
        and coalesce({{ json_boolean('traits', 'email_verified') }}, true)

    union all

    -- An alias does not say whether its previous id was a user's or a device's: it is taken as both.
    select
        event_id,
        log_seq,
        event_at,
        type,
        'anonymous' as id_kind,
        trim(previous_id) as id_value,
        false as is_actor
    from events
    where type = 'alias' and previous_id is not null and actor_key is not null

    union all

    select
        event_id,
        log_seq,
        event_at,
        type,
        'user' as id_kind,
        trim(previous_id) as id_value,
        false as is_actor
    from events
    where type = 'alias' and previous_id is not null and actor_key is not null
)

select
    mentions.event_id,
    mentions.log_seq,
    mentions.event_at,
    mentions.type as evidence,
    mentions.id_kind || ':' || mentions.id_value as id_key,
    mentions.id_kind,
    mentions.id_value,
    mentions.is_actor,
    case mentions.id_kind when 'user' then 1 when 'email' then 2 else 3 end as kind_rank
from mentions
left join blocked_ids on mentions.id_kind = blocked_ids.id_kind and lower(mentions.id_value) like blocked_ids.value
where blocked_ids.value is null and mentions.id_value <> ''
