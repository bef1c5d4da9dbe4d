{# The features that churn rules may name, one row per identified customer and day, as a select without a where,
   from customer_features_daily or a relation of the same columns.
   A drop compares the last 30 days with the 60 before, per 30 days: 0 is unchanged, 1 is nothing any more. It needs
   at least two months of acquaintance; without it, silence is no evidence. #}
{% macro churn_features(relation=none) -%}
    select
        features.customer_id,
        features.as_of_date,
        features.last_event_at,
        features.silence_ratio,
        features.days_since_last_seen,
        features.typical_gap_days,
        features.days_since_last_purchase,
        features.cancellation_page_visits_30d,
        features.tickets_opened_30d,
        features.active_days_30d,
        features.active_days_90d,
        features.active_days_lifetime,
        features.purchases_lifetime,
        features.sessions_30d,
        features.purchases_30d,
        features.purchases_90d,
        features.logins_30d,
        features.days_since_core_feature,
        features.core_feature_uses_30d,
        features.payments_failed_30d,
        features.session_minutes_recent,
        features.session_minutes_usual,
        features.pricing_page_visits_30d,
        features.tenure_days,
        features.subscription_expires_in_days,
        (features.sessions_90d - features.sessions_30d) / 2.0 as sessions_usual,
        (features.purchases_90d - features.purchases_30d) / 2.0 as purchases_usual,
        (features.core_feature_uses_90d - features.core_feature_uses_30d) / 2.0 as core_feature_uses_usual,
        case
            when features.tenure_days >= 60 and features.sessions_90d - features.sessions_30d >= 2
                then 1 - 2.0 * features.sessions_30d / (features.sessions_90d - features.sessions_30d)
        end as visit_drop,
        case
            when features.tenure_days >= 60 and features.purchases_90d - features.purchases_30d >= 2
                then 1 - 2.0 * features.purchases_30d / (features.purchases_90d - features.purchases_30d)
        end as purchase_drop,
        case
            when features.tenure_days >= 60 and features.core_feature_uses_90d - features.core_feature_uses_30d >= 2
                then 1 - 2.0 * features.core_feature_uses_30d
                    / (features.core_feature_uses_90d - features.core_feature_uses_30d)
        end as core_feature_drop,
        1 - features.session_length_ratio as session_length_drop,
        {{ cast_to('features.revenue_lifetime', 'double') }} as revenue_lifetime,
        case
            when features.purchases_lifetime > 0
                then {{ cast_to('features.revenue_lifetime', 'double') }} / features.purchases_lifetime
        end as average_order_value,
        case
            when features.subscriptions_started_lifetime > features.subscriptions_cancelled_lifetime then 1
            else 0
        end as has_contract,
        21 - features.subscription_expires_in_days as subscription_days_used,
        case when features.emails_clicked_90d = 0 then features.emails_opened_90d end as emails_unclicked_90d
    from {{ relation or ref('customer_features_daily') }} as features
{%- endmacro %}

{# The features that a rule, kept by hand or learned, may look at. #}
{% macro churn_feature_names() -%}
    {{ return([
        'silence_ratio', 'days_since_last_seen', 'days_since_last_purchase', 'typical_gap_days', 'tenure_days',
        'visit_drop', 'purchase_drop', 'active_days_30d', 'active_days_90d', 'active_days_lifetime',
        'purchases_90d', 'purchases_lifetime', 'average_order_value', 'revenue_lifetime', 'logins_30d',
        'cancellation_page_visits_30d', 'pricing_page_visits_30d', 'tickets_opened_30d',
        'subscription_days_used', 'emails_unclicked_90d', 'has_contract',
        'session_length_drop', 'core_feature_drop', 'days_since_core_feature', 'payments_failed_30d',
    ]) }}
{%- endmacro %}

{# The feature that a rule names, as a number; null where it is unknown. #}
{% macro churn_feature_value(features, rules) -%}
    {{ feature_of_rule(features, rules, churn_feature_names()) }}
{%- endmacro %}

{% macro churn_points(features, rules) -%}
    {{ points_for(churn_feature_value(features, rules), rules) }}
{%- endmacro %}

{% macro churn_band(score) -%}
    case
        when {{ score }} >= {{ var('churn_high_from') }} then 'high'
        when {{ score }} >= {{ var('churn_medium_from') }} then 'medium'
        else 'low'
    end
{%- endmacro %}

{# A number as people write it: no decimals where there are none to tell. #}
{% macro in_words(number) -%}
    {{ cast_to('coalesce(' ~ cast_to(rounded(number, 0), 'bigint') ~ ', 0)', 'text') }}
{%- endmacro %}
