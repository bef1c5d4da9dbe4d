with

signals as (
    select
        customer_id,
        trigger_id,
        fired_at,
        expires_at,
        payload
    from {{ ref('card_fraud') }}
    where expires_at > {{ as_of_ts() }}
)

select
    customer_id,
    trigger_id,
    fired_at,
    expires_at,
    {{ json_string('payload', 'card_id') }} as card_id,
    {{ json_string('payload', 'transaction_id') }} as transaction_id,
    {{ json_money('payload', 'amount') }} as amount,
    {{ json_string('payload', 'currency') }} as currency,
    {{ json_string('payload', 'merchant') }} as merchant,
    {{ json_string('payload', 'country') }} as country,
    {{ json_number('payload', 'fraud_score') }} as fraud_score,
    {{ json_string('payload', 'reason_1') }} as reason_1,
    {{ json_string('payload', 'reason_2') }} as reason_2,
    {{ json_string('payload', 'reason_3') }} as reason_3
from signals
