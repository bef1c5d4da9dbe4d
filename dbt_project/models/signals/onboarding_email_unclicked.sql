with

mails as (
    select
        customer_id,
        event,
        event_at,
        {{ json_string('properties', 'campaign') }} as campaign
    from {{ ref('customer_timeline') }}
    where event in ('Email Opened', 'Email Clicked')
),

campaigns as (
    select
        customer_id,
        campaign,
        min(case when event = 'Email Opened' then event_at end) as opened_at,
        min(case when event = 'Email Clicked' then event_at end) as clicked_at
    from mails
    where lower(campaign) like '{{ var("onboarding_campaigns") }}%'
    group by customer_id, campaign
),

with_due as (
    select
        customer_id,
        campaign,
        opened_at,
        clicked_at,
        {{ moved_by('opened_at', var('onboarding_unclicked_hours'), 'hour') }} as due_at,
        {{ moved_by(
            'opened_at', var('onboarding_unclicked_hours') + var('onboarding_unclicked_expires_hours'), 'hour'
        ) }} as stale_at
    from campaigns
    where opened_at is not null
)

-- Silence fires by itself; a click later on makes it nobody's business.
select
    customer_id,
    'onboarding_email_unclicked' as signal,
    campaign as trigger_id,
    due_at as fired_at,
    least(stale_at, coalesce(clicked_at, stale_at)) as expires_at,
    {{ json_build({'campaign': 'campaign', 'opened_at': cast_to('opened_at', 'text')}) }} as payload
from with_due
where due_at <= {{ as_of_ts() }} and (clicked_at is null or clicked_at >= due_at)
