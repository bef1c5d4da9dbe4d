{{ config(materialized='incremental', incremental_strategy='append', on_schema_change='append_new_columns') }}

with

raw_events as (
    select
        log_seq,
        source,
        message_id,
        message_id_generated,
        type,
        event,
        event_version,
        user_id,
        anonymous_id,
        timestamp,
        original_timestamp,
        sent_at,
        received_at,
        violation_reason,
        violation_detail,
        replayed_at,
        payload,
        row_number() over (partition by source, message_id order by log_seq) as copy_number
    from {{ source('raw', 'events') }}
    where
        repeat_of is null
        {% if is_incremental() %}
            and log_seq > {{ watermark() }}
        {% endif %}
),

blocked_ids as (
    select
        id_kind,
        value
    from {{ ref('identity_rules') }}
    where rule = 'block'
),

{# A run that died before it could note how far it came left rows beyond the watermark. #}
{% if is_incremental() %}
    already_here as (
        select log_seq as here_seq
        from {{ this }}
        where log_seq > {{ watermark() }}
    ),
{% endif %}

first_copies as (
    select raw_events.*
    from raw_events
    {% if is_incremental() %}
        left join already_here on raw_events.log_seq = already_here.here_seq
    {% endif %}
    where
        raw_events.copy_number = 1
        {% if is_incremental() %}
            and already_here.here_seq is null
        {% endif %}
),

unpacked as (
    select
        log_seq,
        source,
        message_id,
        message_id_generated,
        type,
        event_version,
        user_id,
        anonymous_id,
        original_timestamp,
        sent_at,
        received_at,
        violation_reason,
        violation_detail,
        replayed_at,
        timestamp as event_at,
        {{ hash_id('evt_', ['source', 'message_id']) }} as event_id,
        case
            when type = 'page' then 'Page Viewed'
            when type = 'screen' then 'Screen Viewed'
            else event
        end as event,
        {{ json_string('payload', 'previousId') }} as previous_id,
        {{ json_string('payload', 'groupId') }} as group_id,
        lower(trim(coalesce(
            case when type = 'identify' then {{ json_string('payload', 'traits.email') }} end,
            {{ json_string('payload', 'context.traits.email') }}
        ))) as email,
        coalesce(
            {{ json_string('payload', 'properties.path') }},
            {{ json_string('payload', 'context.page.path') }}
        ) as page_path,
        coalesce(
            {{ json_string('payload', 'properties.url') }},
            {{ json_string('payload', 'context.page.url') }}
        ) as page_url,
        coalesce(
            {{ json_string('payload', 'properties.referrer') }},
            {{ json_string('payload', 'context.page.referrer') }}
        ) as page_referrer,
        {{ json_string('payload', 'context.userAgent') }} as user_agent,
        {{ json_string('payload', 'context.ip') }} as ip,
        {{ json_string('payload', 'context.timezone') }} as timezone,
        {{ json_string('payload', 'context.library.name') }} as library,
        {{ json_string('payload', 'context.campaign.name') }} as campaign_name,
        {{ json_string('payload', 'context.campaign.source') }} as campaign_source,
        {{ json_string('payload', 'context.campaign.medium') }} as campaign_medium,
        {{ json_fragment('payload', 'properties') }} as properties,
        -- RudderStack's libraries put the traits of an identify call into its context.
        coalesce(
            {{ json_fragment('payload', 'traits') }},
            case when type = 'identify' then {{ json_fragment('payload', 'context.traits') }} end
        ) as traits,
        -- Segment's context.externalIds, in RudderStack's libraries externalId. Few messages have any, and to look
        -- for the word costs less than to parse.
        case
            when payload like '%"externalId%'
                then coalesce(
                    {{ json_fragment('payload', 'context.externalIds') }},
                    {{ json_fragment('payload', 'context.externalId') }}
                )
        end as external_ids,
        case
            when source = 'signalbox' and event = 'Identity Linked'
                then {{ json_string('payload', 'properties.id_kind') }} || ':'
                    || {{ json_string('payload', 'properties.id_value') }}
        end as record_key
    from first_copies
),

with_ids as (
    select
        unpacked.*,
        case when blocked_users.value is null then 'user:' || nullif(trim(unpacked.user_id), '') end as user_key,
        case
            when blocked_devices.value is null then 'anonymous:' || nullif(trim(unpacked.anonymous_id), '')
        end as anonymous_key
    from unpacked
    left join blocked_ids as blocked_users
        on lower(trim(unpacked.user_id)) = blocked_users.value and blocked_users.id_kind = 'user'
    left join blocked_ids as blocked_devices
        on lower(trim(unpacked.anonymous_id)) = blocked_devices.value and blocked_devices.id_kind = 'anonymous'
)

select
    log_seq,
    event_id,
    source,
    message_id,
    message_id_generated,
    type,
    event,
    event_version,
    coalesce(user_key, anonymous_key, record_key) as id_key,
    user_key,
    anonymous_key,
    email,
    previous_id,
    group_id,
    event_at,
    {{ utc_date('event_at') }} as event_date,
    original_timestamp,
    sent_at,
    received_at,
    page_path,
    page_url,
    page_referrer,
    user_agent,
    ip,
    timezone,
    library,
    campaign_name,
    campaign_source,
    campaign_medium,
    properties,
    traits,
    case when substr(external_ids, 1, 1) = '[' then external_ids end as external_ids,
    violation_reason,
    violation_detail,
    replayed_at
from with_ids
