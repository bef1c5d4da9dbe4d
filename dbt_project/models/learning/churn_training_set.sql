{% set last_day = cast_to(moved_by(as_of_date(), -1, 'day'), 'date') %}

with

known_people as (
    select
        customer_id,
        min({{ utc_date('first_seen_at') }}) as known_since
    from {{ ref('identity_map') }}
    where kind_rank < 4
    group by customer_id
),

events as (
    select
        timeline.customer_id,
        timeline.event_date,
        timeline.event_at,
        timeline.event,
        timeline.is_activity,
        timeline.is_session_start,
        timeline.page_path,
        case
            when timeline.event = 'Purchase Completed'
                then {{ json_money('timeline.properties', 'total') }}
        end as revenue,
        case
            when timeline.event = 'Subscription Expiring'
                then {{ utc_date(json_timestamp('timeline.properties', 'expires_at')) }}
        end as subscription_expiry_day
    from {{ ref('customer_timeline') }} as timeline
    inner join known_people on timeline.customer_id = known_people.customer_id
    where timeline.event_date <= {{ last_day }}
),

happened as (
    {{ happened_by_day(
        'events', 'event_date', more={'has_stayed': 'max(case when ' ~ is_churn_activity() ~ ' then 1 else 0 end)'},
    ) }}
),

history as (
    select min(day) as first_day
    from happened
),

days as (
    select asked.as_of_date
    from ({{ churn_training_days() }}) as asked
    cross join history
    where asked.as_of_date >= {{ cast_to(moved_by('history.first_day', var('churn_history_days_min'), 'day'), 'date') }}
),

habits as (
    {{ habits_by_day('known_people', last_day) }}
),

told as (
    {{ with_habit_days('happened', 'habits') }}
),

summed as (
    {{ summed_until('told', 'days') }}
),

customer_features as (
    {{ customer_features_of('summed', 'habits') }}
),

features as (
    {{ churn_features('customer_features') }}
),

-- Who was nobody yet on that day is not in its picture, although we know today who it was.
population as (
    select
        features.*,
        {{ churn_silence_days('features') }} as silence_days
    from features
    inner join known_people on features.customer_id = known_people.customer_id
    where
        known_people.known_since <= features.as_of_date
        and features.active_days_lifetime > 0
),

outcomes as (
    select
        population.customer_id,
        population.as_of_date,
        max(happened.subscriptions_cancelled) as cancellations,
        max(
            case
                when {{ days_between('population.as_of_date', 'happened.day') }} <= population.silence_days
                    then happened.has_stayed
            end
        ) as has_stayed
    from population
    inner join happened
        on
            population.customer_id = happened.customer_id
            and population.as_of_date < happened.day
            and happened.day <= {{ cast_to(
                moved_by('population.as_of_date', var('churn_horizon_days'), 'day'), 'date'
            ) }}
    group by population.customer_id, population.as_of_date
)

-- Who has a contract leaves by ending it, however quiet; who has none leaves by silence.
select
    population.customer_id,
    population.as_of_date,
    {{ cast_to(var('churn_horizon_days'), 'integer') }} as horizon_days,
    case when population.has_contract = 1 then 'cancellation' else 'silence' end as churn_kind,
    {{ cast_to('population.silence_days', 'integer') }} as silence_days,
    coalesce(outcomes.cancellations, 0) > 0
    or (population.has_contract = 0 and coalesce(outcomes.has_stayed, 0) = 0) as churned,
    {% for name in churn_feature_names() %}
        {{ cast_to('population.' ~ name, 'double') }} as {{ name }}{{ ',' if not loop.last }}
    {% endfor %}
from population
left join outcomes
    on
        population.customer_id = outcomes.customer_id
        and population.as_of_date = outcomes.as_of_date
