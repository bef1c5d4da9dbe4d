{# A timeline as it follows from who is who: the common table expressions from one named `ids` (id_key, customer_id) on,
   and the select that ends them. customer_timeline is one, timeline_as_of another.
   `known` is a condition on `events` (stg_events) that says which of them count; all, if left out.
   `kept` names a relation of further events, as they came out of an earlier build. #}
{% macro timeline_of_ids(known=none, kept=none) -%}
catalog as (
    select
        event,
        channel,
        is_activity
    from {{ ref('event_catalog') }}
),

staged_events as (
    select
        ids.customer_id,
        events.event_id,
        events.log_seq,
        events.id_key,
        events.source,
        events.type,
        events.event,
        events.event_at,
        events.event_date,
        events.received_at,
        events.page_path,
        events.properties,
        coalesce(catalog.channel, case
            when lower(events.library) like '%ios%' or lower(events.library) like '%android%' then 'mobile'
            when events.page_path is not null or events.page_url is not null then 'web'
            when lower(events.library) like 'analytics%js%' or lower(events.library) like '%analytics-next%' then 'web'
            else 'server'
        end) as channel,
        case
            when events.user_agent is null then 'unknown'
            when events.user_agent like '%iPad%' or events.user_agent like '%Tablet%' then 'tablet'
            when
                events.user_agent like '%Mobi%'
                or events.user_agent like '%iPhone%'
                or events.user_agent like '%Android%' then 'mobile'
            else 'desktop'
        end as device,
        coalesce(catalog.is_activity, events.type in ('track', 'page', 'screen')) as is_activity
    from {{ rebuilt('stg_events') if known else ref('stg_events') }} as events
    inner join ids on events.id_key = ids.id_key
    left join catalog on events.event = catalog.event
    -- What Signalbox itself says about ids is no step of theirs.
    where
        coalesce(events.source, '') <> 'signalbox'
        {%- if known %}
            and {{ known }}
        {%- endif %}
),

events as (
    {% for part in ['staged_events', kept] if part %}
        {{ 'union all' if not loop.first }}
        select
            customer_id,
            event_id,
            log_seq,
            id_key,
            source,
            type,
            event,
            event_at,
            event_date,
            received_at,
            page_path,
            properties,
            channel,
            device,
            is_activity
        from {{ part }}
    {% endfor %}
),

in_order as (
    select
        customer_id,
        event_id,
        log_seq,
        id_key,
        source,
        type,
        event,
        event_at,
        event_date,
        received_at,
        page_path,
        properties,
        channel,
        device,
        is_activity,
        row_number() over (
            partition by customer_id
            order by event_at, log_seq
        ) as event_number,
        max(case when is_activity then event_at end) over (
            partition by customer_id
            order by event_at, log_seq
            rows between unbounded preceding and 1 preceding
        ) as previous_activity_at
    from events
),

with_session_starts as (
    select
        customer_id,
        event_id,
        log_seq,
        id_key,
        source,
        type,
        event,
        event_at,
        event_date,
        received_at,
        page_path,
        properties,
        channel,
        device,
        is_activity,
        event_number,
        previous_activity_at,
        is_activity and (
            previous_activity_at is null
            or event_at > {{ moved_by('previous_activity_at', var('session_gap_minutes'), 'minute') }}
        ) as is_session_start
    from in_order
),

with_sessions as (
    select
        customer_id,
        event_id,
        log_seq,
        id_key,
        source,
        type,
        event,
        event_at,
        event_date,
        received_at,
        page_path,
        properties,
        channel,
        device,
        is_activity,
        event_number,
        is_session_start,
        -- Activity times only grow, so the latest one before a session's start is the highest.
        max(case when is_session_start then previous_activity_at end) over (
            partition by customer_id
            order by event_number
            rows between unbounded preceding and current row
        ) as previous_session_ended_at,
        case
            when is_activity
                then sum(case when is_session_start then 1 else 0 end) over (
                    partition by customer_id
                    order by event_number
                    rows between unbounded preceding and current row
                )
        end as session_number,
        case
            when is_activity
                then max(case when is_session_start then event_number end) over (
                    partition by customer_id
                    order by event_number
                    rows between unbounded preceding and current row
                )
        end as session_start_number
    from with_session_starts
),

session_starts as (
    select
        customer_id,
        event_number,
        'ses_' || substr(event_id, 5) as session_id
    from with_sessions
    where is_session_start
)

select
    with_sessions.customer_id,
    {{ cast_to('with_sessions.event_number', 'integer') }} as event_number,
    with_sessions.event_id,
    with_sessions.log_seq,
    with_sessions.event_at,
    with_sessions.event_date,
    with_sessions.received_at,
    with_sessions.id_key,
    with_sessions.source,
    with_sessions.type,
    with_sessions.event,
    with_sessions.is_activity,
    with_sessions.previous_session_ended_at,
    {{ cast_to('with_sessions.session_number', 'integer') }} as session_number,
    session_starts.session_id,
    with_sessions.is_session_start,
    with_sessions.channel,
    with_sessions.device,
    with_sessions.page_path,
    with_sessions.properties
from with_sessions
left join session_starts
    on
        with_sessions.customer_id = session_starts.customer_id
        and with_sessions.session_start_number = session_starts.event_number
{%- endmacro %}
