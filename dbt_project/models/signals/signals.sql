{% set names = [
    'browsed_not_bought', 'card_fraud', 'cart_abandoned', 'churn_risk_rose', 'contact_changed_to_personal',
    'engagement_spike', 'feature_first_used', 'login_after_absence', 'onboarding_email_unclicked', 'payment_failed',
    'purchase_completed', 'subscription_expiring', 'support_ticket_opened',
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
