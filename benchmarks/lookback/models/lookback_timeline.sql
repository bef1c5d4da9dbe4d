-- One row per event of a customer, with its session, as customer_timeline.
{{ config(unique_key='event_id') }}

with

events as (
    select
        ids.customer_id,
        events.event_id,
        events.log_seq,
        events.event_at,
        events.event_date,
        events.received_at,
        events.id_key,
        events.source,
        events.type,
        events.event,
        events.page_path,
        events.properties,
        coalesce(catalog.channel, 'web') as channel,
        case when events.user_agent like '%Mobi%' then 'mobile' else 'desktop' end as device,
        coalesce(catalog.is_activity, events.type in ('track', 'page', 'screen')) as is_activity
    from {{ source('signalbox', 'stg_events') }} as events
    inner join {{ source('signalbox', 'identity_map') }} as ids on events.id_key = ids.id_key
    left join {{ source('signalbox', 'event_catalog') }} as catalog on events.event = catalog.event
    {% if is_incremental() %}
        where
            events.event_at > (
                select max(event_at) - interval '{{ var("lookback_days") }} days' from {{ this }}
            )
    {% endif %}
),

with_gaps as (
    select
        *,
        max(case when is_activity then event_at end) over (
            partition by customer_id
            order by event_at, log_seq
            rows between unbounded preceding and 1 preceding
        ) as previous_activity_at
    from events
),

with_starts as (
    select
        *,
        is_activity and (
            previous_activity_at is null
            or event_at > previous_activity_at + interval '30 minutes'
        ) as is_session_start
    from with_gaps
)

select
    customer_id,
    event_id,
    log_seq,
    event_at,
    event_date,
    received_at,
    id_key,
    source,
    type,
    event,
    is_activity,
    is_session_start,
    case
        when is_activity
            then last_value(case when is_session_start then 'ses_' || substr(event_id, 5) end ignore nulls) over (
                partition by customer_id
                order by event_at, log_seq
                rows between unbounded preceding and current row
            )
    end as session_id,
    channel,
    device,
    page_path,
    properties
from with_starts
