with

logins as (
    select
        customer_id,
        event_id,
        event_at,
        previous_session_ended_at,
        row_number() over (
            partition by session_id
            order by event_number
        ) as login_number
    from {{ ref('customer_timeline') }}
    where
        event = 'Logged In'
        and event_at >= {{ moved_by('previous_session_ended_at', var('login_after_absence_days'), 'day') }}
)

-- The absence ended when the visit began; only the visit's first login tells of it.
select
    customer_id,
    'login_after_absence' as signal,
    event_id as trigger_id,
    event_at as fired_at,
    {{ moved_by('event_at', var('login_after_absence_expires_hours'), 'hour') }} as expires_at,
    {{ json_build({
        'last_seen_at': cast_to('previous_session_ended_at', 'text'),
        'days_away': days_between(utc_date('previous_session_ended_at'), utc_date('event_at')),
    }) }} as payload
from logins
where login_number = 1
