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

{# The latest day's reasons per customer, the CTE `reasons` (customer_id, reason_1 to reason_3) and those before it, all
   but the comma behind. `among` is an earlier CTE with the customer_id of those who are asked about; all if left out. #}
{% macro churn_reasons(among=none) -%}
churn_inputs as (
    {{ churn_features() }}
    where
        features.as_of_date = (select max(latest.as_of_date) from {{ ref('customer_features_daily') }} as latest)
        {%- if among %}
        and features.customer_id in (select {{ among }}.customer_id from {{ among }})
        {%- endif %}
),

rules as (
    select
        rule,
        feature,
        starts_at,
        full_at,
        points,
        usual_points,
        reason
    from {{ ref('churn_points') }}
),

contributions as (
    select
        churn_inputs.customer_id,
        rules.rule,
        rules.feature,
        {{ churn_feature_value('churn_inputs', 'rules') }} is not null as is_known,
        {{ churn_points('churn_inputs', 'rules') }} - rules.usual_points as points,
        rules.reason
    from churn_inputs
    cross join rules
),

-- A learned model has several rules for one feature. What it says is one reason, told against what is usual.
weighed as (
    select
        customer_id,
        feature,
        reason,
        min(rule) as rule,
        {{ rounded('sum(points)', 6) }} as points
    from contributions
    where is_known
    group by customer_id, feature, reason
),

ranked as (
    select
        customer_id,
        feature,
        reason,
        row_number() over (
            partition by customer_id
            order by points desc, rule asc
        ) as reason_number
    from weighed
    where points >= {{ var('churn_reason_points_min') }}
),

-- Few rules are worth telling, and only they are put into words.
worded as (
    select
        ranked.customer_id,
        ranked.reason_number,
        replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(
            ranked.reason,
            '{value}', {{ in_words(churn_feature_value('churn_inputs', 'ranked')) }}),
            '{days_since_last_seen}', {{ in_words('churn_inputs.days_since_last_seen') }}),
            '{typical_gap_days}', {{ in_words('churn_inputs.typical_gap_days') }}),
            '{sessions_30d}', {{ in_words('churn_inputs.sessions_30d') }}),
            '{sessions_usual}', {{ in_words('churn_inputs.sessions_usual') }}),
            '{purchases_30d}', {{ in_words('churn_inputs.purchases_30d') }}),
            '{purchases_usual}', {{ in_words('churn_inputs.purchases_usual') }}),
            '{session_minutes_recent}', {{ in_words('churn_inputs.session_minutes_recent') }}),
            '{session_minutes_usual}', {{ in_words('churn_inputs.session_minutes_usual') }}),
            '{core_feature_uses_30d}', {{ in_words('churn_inputs.core_feature_uses_30d') }}),
            '{core_feature_uses_usual}', {{ in_words('churn_inputs.core_feature_uses_usual') }}),
            '{subscription_expires_in_days}', {{ in_words('churn_inputs.subscription_expires_in_days') }}
        ) as reason
    from ranked
    inner join churn_inputs on ranked.customer_id = churn_inputs.customer_id
    where ranked.reason_number <= 3
),

reasons as (
    select
        customer_id,
        max(case when reason_number = 1 then reason end) as reason_1,
        max(case when reason_number = 2 then reason end) as reason_2,
        max(case when reason_number = 3 then reason end) as reason_3
    from worded
    group by customer_id
)
{%- endmacro %}

{# The first reason; also of a customer who has none in the CTE `reasons`, joined to the left. #}
{% macro first_churn_reason() -%}
    coalesce(reasons.reason_1, 'No warning signs')
{%- endmacro %}
