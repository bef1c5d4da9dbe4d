with

uses as (
    select
        customer_id,
        event_at,
        {{ json_string('properties', 'feature') }} as feature,
        {{ json_string('properties', 'plan') }} as plan,
        row_number() over (
            partition by customer_id, {{ json_string('properties', 'feature') }}
            order by event_number
        ) as use_number
    from {{ ref('customer_timeline') }}
    where event = 'Feature First Used'
)

-- Two ids that turn out to be one person have one first time.
select
    customer_id,
    'feature_first_used' as signal,
    feature as trigger_id,
    event_at as fired_at,
    {{ moved_by('event_at', var('feature_first_used_expires_hours'), 'hour') }} as expires_at,
    {{ json_build({'feature': 'feature', 'plan': 'plan'}) }} as payload
from uses
where use_number = 1 and feature is not null
