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
        properties,
        traits,
        external_ids,
        case when source = 'signalbox' then 'record' else type end as evidence
    from {{ ref('stg_events') }}
),

blocked_ids as (
    select
        id_kind,
        value
    from {{ ref('identity_rules') }}
    where rule = 'block'
),

external_kinds as (
    select
        id_kind,
        value as external_type
    from {{ ref('identity_rules') }}
    where rule = 'external_id'
),

external_ids as (
    select
        event_id,
        log_seq,
        event_at,
        evidence,
        actor_key,
        case when substr(element, 1, 1) = '{' then element end as external_id
    from (
        select
            event_id,
            log_seq,
            event_at,
            evidence,
            actor_key,
            {{ json_unnest('external_ids') }} as element
        from events
        where external_ids is not null and actor_key is not null
    ) as elements
),

-- Hashed ids, and those of accounts, are nobody's.
external_mentions as (
    select
        external_ids.event_id,
        external_ids.log_seq,
        external_ids.event_at,
        external_ids.evidence,
        external_ids.actor_key,
        external_kinds.id_kind,
        case
            when external_kinds.id_kind = 'email' then lower(trim({{ json_string('external_ids.external_id', 'id') }}))
            else trim({{ json_string('external_ids.external_id', 'id') }})
        end as id_value
    from external_ids
    inner join external_kinds
        on lower({{ json_string('external_ids.external_id', 'type') }}) = external_kinds.external_type
    where
        coalesce({{ json_string('external_ids.external_id', 'collection') }}, 'users') = 'users'
        and coalesce({{ json_string('external_ids.external_id', 'encoding') }}, 'none') = 'none'
),

mentions as (
    select
        event_id,
        log_seq,
        event_at,
        evidence,
        'user' as id_kind,
        substr(user_key, 6) as id_value,
        true as is_actor,
        {{ cast_to('null', 'text') }} as actor_key
    from events
    where user_key is not null

    union all

    select
        event_id,
        log_seq,
        event_at,
        evidence,
        'anonymous' as id_kind,
        substr(anonymous_key, 11) as id_value,
        true as is_actor,
        {{ cast_to('null', 'text') }} as actor_key
    from events
    where anonymous_key is not null

    union all

    select
        event_id,
        log_seq,
        event_at,
        evidence,
        'email' as id_kind,
        email as id_value,
        false as is_actor,
        {{ cast_to('null', 'text') }} as actor_key
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
        evidence,
        'anonymous' as id_kind,
        trim(previous_id) as id_value,
        false as is_actor,
        {{ cast_to('null', 'text') }} as actor_key
    from events
    where type = 'alias' and previous_id is not null and actor_key is not null

    union all

    select
        event_id,
        log_seq,
        event_at,
        evidence,
        'user' as id_kind,
        trim(previous_id) as id_value,
        false as is_actor,
        {{ cast_to('null', 'text') }} as actor_key
    from events
    where type = 'alias' and previous_id is not null and actor_key is not null

    union all

    select
        event_id,
        log_seq,
        event_at,
        evidence,
        id_kind,
        id_value,
        false as is_actor,
        actor_key
    from external_mentions
    where id_kind <> 'email' or id_value like '%_@_%'

    union all

    -- The record of another system that names the ids is an id itself.
    select
        event_id,
        log_seq,
        event_at,
        evidence,
        {{ json_string('properties', 'id_kind') }} as id_kind,
        {{ json_string('properties', 'id_value') }} as id_value,
        false as is_actor,
        actor_key
    from events
    where evidence = 'record' and actor_key is not null
)

select
    mentions.event_id,
    mentions.log_seq,
    mentions.event_at,
    mentions.evidence,
    mentions.id_kind || ':' || mentions.id_value as id_key,
    mentions.id_kind,
    mentions.id_value,
    mentions.is_actor,
    mentions.actor_key,
    case mentions.id_kind when 'user' then 1 when 'email' then 3 when 'anonymous' then 4 else 2 end as kind_rank
from mentions
left join blocked_ids on mentions.id_kind = blocked_ids.id_kind and lower(mentions.id_value) like blocked_ids.value
where blocked_ids.value is null and mentions.id_value <> ''
