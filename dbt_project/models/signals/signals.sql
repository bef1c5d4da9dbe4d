{% set names = ['cart_abandoned', 'login_after_absence', 'support_ticket_opened', 'churn_risk_rose'] %}

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
