with

alerts as (
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
        fraud_score
    from {{ ref('card_fraud_scores') }}
    where is_alert
),

contributions as (
    select
        alerts.customer_id,
        alerts.transaction_id,
        rules.rule,
        {{ card_points('alerts', 'rules') }} as points,
        replace(replace(replace(replace(replace(replace(replace(replace(replace(
            rules.reason,
            '{value}', {{ in_words(card_feature_value('alerts', 'rules')) }}),
            '{travel_km}', {{ in_words('alerts.travel_km') }}),
            '{history_days}', '{{ var("card_history_days") }}'),
            '{amount}', {{ cast_to('alerts.amount', 'text') }}),
            '{usual_high}', coalesce({{ cast_to('alerts.usual_high', 'text') }}, '?')),
            '{spent_24h}', coalesce({{ cast_to('alerts.spent_24h', 'text') }}, '?')),
            '{currency}', coalesce(alerts.currency, '')),
            '{category}', coalesce(alerts.category, '?')),
            '{country}', coalesce(alerts.country, '?')
        ) as reason
    from alerts
    cross join {{ ref('card_fraud_rules') }} as rules
),

ranked as (
    select
        customer_id,
        transaction_id,
        reason,
        row_number() over (
            partition by customer_id, transaction_id
            order by points desc, rule asc
        ) as reason_number
    from contributions
    where points > 0
),

reasons as (
    select
        customer_id,
        transaction_id,
        max(case when reason_number = 1 then reason end) as reason_1,
        max(case when reason_number = 2 then reason end) as reason_2,
        max(case when reason_number = 3 then reason end) as reason_3
    from ranked
    where reason_number <= 3
    group by customer_id, transaction_id
)

select
    alerts.customer_id,
    'card_fraud' as signal,
    alerts.transaction_id as trigger_id,
    alerts.paid_at as fired_at,
    {{ moved_by('alerts.paid_at', var('card_fraud_expires_minutes'), 'minute') }} as expires_at,
    {{ json_build({
        'card_id': 'alerts.card_id',
        'transaction_id': 'alerts.transaction_id',
        'amount': 'alerts.amount',
        'currency': 'alerts.currency',
        'merchant': 'alerts.merchant',
        'country': 'alerts.country',
        'fraud_score': 'alerts.fraud_score',
        'reason_1': 'reasons.reason_1',
        'reason_2': 'reasons.reason_2',
        'reason_3': 'reasons.reason_3',
    }) }} as payload
from alerts
inner join reasons
    on alerts.customer_id = reasons.customer_id and alerts.transaction_id = reasons.transaction_id
