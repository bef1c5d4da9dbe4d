{{ config(materialized='incremental', incremental_strategy='by_customer') }}

with

touched_customers as (
    {{ touched_customers() }}
),

events as (
    select
        timeline.customer_id,
        timeline.event_number,
        timeline.event_id,
        timeline.event_at,
        timeline.session_id,
        timeline.session_number,
        timeline.event = 'Logged In' as is_login,
        {{ is_cancellation_page('timeline') }} as is_cancellation_page,
        {{ is_core_feature('timeline') }} as is_core_feature
    from {{ rebuilt('customer_timeline') }} as timeline
    inner join touched_customers on timeline.customer_id = touched_customers.customer_id
    where timeline.is_activity and {{ is_rebuilt('timeline', 'customer_timeline') }}
),

visits as (
    select
        customer_id,
        session_id,
        session_number,
        {{ any_true('is_login') }} as has_login,
        {{ seconds_between('min(event_at)', 'max(event_at)') }} as seconds
    from events
    group by customer_id, session_id, session_number
),

login_visits as (
    select
        customer_id,
        session_number,
        row_number() over (
            partition by customer_id
            order by session_number
        ) as login_visit_number,
        avg(seconds) over (
            partition by customer_id
            order by session_number
            rows between 2 preceding and current row
        ) as seconds_recent,
        avg(seconds) over (
            partition by customer_id
            order by session_number
            rows between {{ var('login_habits_visits') + 2 }} preceding and 3 preceding
        ) as seconds_usual,
        count(*) over (
            partition by customer_id
            order by session_number
            rows between {{ var('login_habits_visits') + 2 }} preceding and 3 preceding
        ) as visits_usual
    from visits
    where has_login
),

-- A visit that goes on has no length yet: what counts at a moment are the visits before its own.
visits_with_previous as (
    select
        customer_id,
        session_id,
        sum(case when has_login then 1 else 0 end) over (
            partition by customer_id
            order by session_number
            rows between unbounded preceding and 1 preceding
        ) as login_visits_before
    from visits
),

moments as (
    select
        customer_id,
        event_number,
        event_id,
        event_at,
        session_id,
        is_login or is_cancellation_page or is_core_feature as is_telling,
        min(event_at) over (
            partition by customer_id
            order by event_number
            rows between unbounded preceding and current row
        ) as first_active_at,
        max(case when is_core_feature then event_at end) over (
            partition by customer_id
            order by event_number
            rows between unbounded preceding and current row
        ) as last_core_feature_at,
        max(case when is_cancellation_page then event_at end) over (
            partition by customer_id
            order by event_number
            rows between unbounded preceding and current row
        ) as last_cancellation_page_at
    from events
)

select
    moments.customer_id,
    moments.event_id,
    moments.event_at,
    {{ cast_to('login_visits.seconds_recent / 60.0', 'double') }} as session_minutes_recent,
    {{ cast_to('login_visits.seconds_usual / 60.0', 'double') }} as session_minutes_usual,
    case
        when login_visits.visits_usual >= 3 and login_visits.seconds_usual > 0
            then {{ cast_to('login_visits.seconds_recent / login_visits.seconds_usual', 'double') }}
    end as session_length_ratio,
    moments.last_core_feature_at,
    -- Who never used it has left it unused from the first day on.
    {{ days_between(
        utc_date('coalesce(moments.last_core_feature_at, moments.first_active_at)'), utc_date('moments.event_at')
    ) }} as days_since_core_feature,
    moments.last_cancellation_page_at,
    touched_customers.changed_seq
from moments
inner join touched_customers on moments.customer_id = touched_customers.customer_id
inner join visits_with_previous
    on moments.customer_id = visits_with_previous.customer_id and moments.session_id = visits_with_previous.session_id
left join login_visits
    on
        moments.customer_id = login_visits.customer_id
        and visits_with_previous.login_visits_before = login_visits.login_visit_number
where moments.is_telling
