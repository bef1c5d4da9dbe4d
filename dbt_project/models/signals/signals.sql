{% set names = [
    'browsed_not_bought', 'card_fraud', 'cart_abandoned', 'churn_risk_rose', 'feature_first_used', 'login_after_absence',
    'payment_failed', 'purchase_completed', 'subscription_expiring', 'support_ticket_opened',
] %}

{% for name in names %}
    select
        customer_id,
        signal,
        trigger_id,
        fired_at,
        expires_at,
        payload
    from {{ ref(name) }}
    {{ 'union all' if not loop.last }}
{% endfor %}
