{{ config(materialized='incremental', incremental_strategy='by_customer') }}

{# How many hours of the clock two hours are apart: 23 and 1 are two apart. #}
{% set hours_apart -%}
    least(mod(payments.hour_of_day - earlier.hour_of_day + 24, 24), mod(earlier.hour_of_day - payments.hour_of_day + 24, 24))
{%- endset %}

with

touched_customers as (
    {{ touched_customers() }}
),

messages as (
    select
        timeline.customer_id,
        timeline.event_at as paid_at,
        timeline.event_number,
        coalesce({{ json_string('timeline.properties', 'transaction_id') }}, timeline.event_id) as transaction_id,
        coalesce({{ json_string('timeline.properties', 'card_id') }}, 'card') as card_id,
        {{ json_money('timeline.properties', 'amount') }} as amount,
        {{ json_string('timeline.properties', 'currency') }} as currency,
        {{ json_string('timeline.properties', 'merchant') }} as merchant,
        {{ json_string('timeline.properties', 'category') }} as category,
        {{ json_string('timeline.properties', 'country') }} as country,
        {{ json_number('timeline.properties', 'lat') }} as lat,
        {{ json_number('timeline.properties', 'lon') }} as lon,
        coalesce({{ json_string('timeline.properties', 'status') }}, 'approved') = 'approved' as is_approved
    from {{ rebuilt('customer_timeline') }} as timeline
    inner join touched_customers on timeline.customer_id = touched_customers.customer_id
    where timeline.event = 'Card Transaction' and {{ is_rebuilt('timeline', 'customer_timeline') }}
),

-- Money that comes back is no payment. A processor may tell of one transaction twice.
first_messages as (
    select
        customer_id,
        paid_at,
        event_number,
        transaction_id,
        card_id,
        amount,
        currency,
        merchant,
        category,
        country,
        lat,
        lon,
        is_approved,
        row_number() over (
            partition by customer_id, transaction_id
            order by event_number
        ) as copy_number
    from messages
    where amount > 0
),

payments as (
    select
        customer_id,
        paid_at,
        transaction_id,
        card_id,
        amount,
        currency,
        merchant,
        category,
        country,
        lat,
        lon,
        is_approved,
        {{ utc_hour('paid_at') }} as hour_of_day,
        row_number() over (
            partition by customer_id, card_id
            order by event_number
        ) as payment_number,
        -- The payment before that knows its place.
        lag(lat) over (
            partition by customer_id, card_id, lat is null or lon is null
            order by event_number
        ) as previous_lat,
        lag(lon) over (
            partition by customer_id, card_id, lat is null or lon is null
            order by event_number
        ) as previous_lon,
        lag(paid_at) over (
            partition by customer_id, card_id, lat is null or lon is null
            order by event_number
        ) as previous_placed_at
    from first_messages
    where copy_number = 1
),

-- What the card did before the payment: card_history_payments payments at most, card_history_days days at most.
-- Only what was approved tells of habits; attempts count as attempts.
habits as (
    select
        payments.customer_id,
        payments.card_id,
        payments.payment_number,
        sum(case when earlier.is_approved then 1 else 0 end) as history_payments,
        min(case when earlier.is_approved then earlier.paid_at end) as history_from,
        {{ quantile_of(
            'case when earlier.is_approved and earlier.currency = payments.currency then earlier.amount end', 0.95
        ) }} as usual_high,
        sum(case when earlier.is_approved and earlier.currency = payments.currency then earlier.amount else 0 end) as spent,
        sum(case
            when
                earlier.is_approved and earlier.currency = payments.currency
                and earlier.paid_at > {{ moved_by('payments.paid_at', -24, 'hour') }}
                then earlier.amount
            else 0
        end) as spent_before_24h,
        sum(case when earlier.paid_at > {{ moved_by('payments.paid_at', -1, 'hour') }} then 1 else 0 end) as attempts_1h,
        sum(case when earlier.is_approved and earlier.category = payments.category then 1 else 0 end) as same_category,
        sum(case when earlier.is_approved and {{ hours_apart }} <= 1 then 1 else 0 end) as same_hour,
        sum(case when earlier.is_approved and earlier.country = payments.country then 1 else 0 end) as same_country,
        sum(case when earlier.is_approved and earlier.country is not null then 1 else 0 end) as known_country
    from payments
    inner join payments as earlier
        on
            payments.customer_id = earlier.customer_id
            and payments.card_id = earlier.card_id
            and earlier.payment_number between
            payments.payment_number - {{ var('card_history_payments') }} and payments.payment_number - 1
            and earlier.paid_at > {{ moved_by('payments.paid_at', -var('card_history_days'), 'day') }}
    group by payments.customer_id, payments.card_id, payments.payment_number
),

compared as (
    select
        payments.customer_id,
        payments.transaction_id,
        payments.paid_at,
        payments.card_id,
        payments.payment_number,
        payments.amount,
        payments.currency,
        payments.merchant,
        payments.category,
        payments.country,
        payments.is_approved,
        coalesce(habits.history_payments, 0) as history_payments,
        coalesce(habits.history_payments, 0) >= {{ var('card_min_history') }} as has_habits,
        habits.usual_high,
        habits.spent,
        coalesce(habits.spent_before_24h, 0) + payments.amount as spent_24h,
        coalesce(habits.attempts_1h, 0) + 1 as payments_1h,
        habits.same_category,
        habits.same_hour,
        habits.same_country,
        habits.known_country,
        -- A week at least: two payments on one day are no daily habit yet.
        greatest({{ seconds_between('habits.history_from', 'payments.paid_at') }} / 86400.0, 7) as history_days,
        {{ seconds_between('payments.previous_placed_at', 'payments.paid_at') }} as seconds_travelled,
        {{ kilometres_between('payments.previous_lat', 'payments.previous_lon', 'payments.lat', 'payments.lon') }} as travel_km
    from payments
    left join habits
        on
            payments.customer_id = habits.customer_id
            and payments.card_id = habits.card_id
            and payments.payment_number = habits.payment_number
),

features as (
    select
        customer_id,
        transaction_id,
        paid_at,
        card_id,
        payment_number,
        amount,
        currency,
        merchant,
        category,
        country,
        is_approved,
        {{ cast_to('history_payments', 'integer') }} as history_payments,
        case when has_habits then {{ cast_to('usual_high', 'money') }} end as usual_high,
        {{ cast_to('spent_24h', 'money') }} as spent_24h,
        {{ cast_to('payments_1h', 'integer') }} as payments_1h,
        {{ cast_to('travel_km', 'double') }} as travel_km,
        -- Terminals stand where their shop's office is, and clocks differ: short ways and seconds say nothing.
        case
            when travel_km >= {{ var('card_travel_min_km') }}
                then {{ cast_to('travel_km * 3600.0 / greatest(seconds_travelled, 60)', 'double') }}
        end as travel_kmh,
        case
            when has_habits and country is not null and known_country > 0
                then case when same_country = 0 then 1 else 0 end
        end as is_new_country,
        case
            when has_habits and usual_high > 0
                then {{ cast_to('amount / usual_high', 'double') }}
        end as amount_to_usual_high,
        case
            when has_habits and spent > 0
                -- Who pays twice a week has no average day; one usual payment is no spree.
                then {{ cast_to('spent_24h / greatest(spent / history_days, usual_high)', 'double') }}
        end as spent_24h_to_usual,
        case
            when has_habits and category is not null
                then {{ cast_to('100 - same_category * 100.0 / history_payments', 'double') }}
        end as other_categories_pct,
        case
            when has_habits
                then {{ cast_to('100 - same_hour * 100.0 / history_payments', 'double') }}
        end as other_hours_pct
    from compared
),

points as (
    select
        features.customer_id,
        features.transaction_id,
        {{ rounded('sum(' ~ card_points('features', 'rules') ~ ')', 6) }} as fraud_points
    from features
    cross join {{ ref('card_fraud_rules') }} as rules
    group by features.customer_id, features.transaction_id
),

scored as (
    select
        features.customer_id,
        features.transaction_id,
        features.paid_at,
        features.card_id,
        features.payment_number,
        features.amount,
        features.currency,
        features.merchant,
        features.category,
        features.country,
        features.is_approved,
        features.history_payments,
        features.usual_high,
        features.spent_24h,
        features.payments_1h,
        features.travel_km,
        features.travel_kmh,
        features.is_new_country,
        features.amount_to_usual_high,
        features.spent_24h_to_usual,
        features.other_categories_pct,
        features.other_hours_pct,
        points.fraud_points,
        {{ rounded('1 / (1 + exp(-points.fraud_points))', 4) }} as fraud_score
    from features
    inner join points
        on features.customer_id = points.customer_id and features.transaction_id = points.transaction_id
),

with_suspicion as (
    select
        customer_id,
        transaction_id,
        paid_at,
        card_id,
        payment_number,
        amount,
        currency,
        merchant,
        category,
        country,
        is_approved,
        history_payments,
        usual_high,
        spent_24h,
        payments_1h,
        travel_km,
        travel_kmh,
        is_new_country,
        amount_to_usual_high,
        spent_24h_to_usual,
        other_categories_pct,
        other_hours_pct,
        fraud_points,
        fraud_score,
        fraud_score >= {{ var('card_fraud_from') }} as is_suspicious,
        max(case when fraud_score >= {{ var('card_fraud_from') }} then paid_at end) over (
            partition by customer_id, card_id
            order by payment_number
            rows between unbounded preceding and 1 preceding
        ) as suspicious_before_at
    from scored
)

select
    customer_id,
    transaction_id,
    paid_at,
    card_id,
    amount,
    currency,
    merchant,
    category,
    country,
    is_approved,
    history_payments,
    usual_high,
    spent_24h,
    payments_1h,
    travel_km,
    travel_kmh,
    is_new_country,
    amount_to_usual_high,
    spent_24h_to_usual,
    other_categories_pct,
    other_hours_pct,
    fraud_points,
    fraud_score,
    -- A thief pays again and again: the card's first suspicious payment in card_fraud_episode_hours tells.
    is_suspicious and (
        suspicious_before_at is null
        or paid_at > {{ moved_by('suspicious_before_at', var('card_fraud_episode_hours'), 'hour') }}
    ) as is_alert
from with_suspicion
