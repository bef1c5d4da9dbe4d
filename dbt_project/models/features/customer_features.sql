{{ config(materialized='view') }}

with

features as (
    select
        customer_id,
        as_of_date,
        tenure_days,
        last_event_at,
        days_since_last_seen,
        days_since_last_purchase,
        days_since_last_login,
        days_since_last_ticket,
        days_since_core_feature,
        {% for name in habit_features() %}
            {{ name }},
        {% endfor %}
        subscription_expires_in_days,
        typical_gap_days,
        silence_ratio,
        {% for name in lifetime_features() %}
            {{ name }}_lifetime,
        {% endfor %}
        {% for name, spans in feature_windows().items() %}
            {% set outer = loop %}
            {% for span in spans %}
                {{ name }}_{{ span }}d{{ ',' if not (outer.last and loop.last) }}
            {% endfor %}
        {% endfor %}
    from {{ ref('customer_features_daily') }}
    where as_of_date = (select max(latest.as_of_date) from {{ ref('customer_features_daily') }} as latest)
),

support_customers as (
    select
        desk_ticket_id,
        customer_id
    from {{ ref('support_customers') }}
),

-- Read twice: DuckDB keeps what is named once for two readers, and then reads every column below.
open_at_desk as (
    select
        ticket_id,
        desk_ticket_id,
        opened_at
    from {{ ref('stg_support_tickets') }}
    where is_open
),

known_at_desk as (
    select ticket_id
    from {{ ref('stg_support_tickets') }}
),

opened_lately as (
    select
        customer_id,
        {{ json_string('properties', 'ticket_id') }} as ticket_id,
        event_date
    from {{ ref('customer_timeline') }}
    where
        event = 'Support Ticket Opened'
        and event_date > {{ cast_to(moved_by(as_of_date(), -30, 'day'), 'date') }}
),

-- The support desk is read every few minutes; an event comes at once. A ticket it does not know yet is open.
open_tickets as (
    select
        customer_id,
        count(distinct ticket_id) as open_tickets,
        min(opened_day) as oldest_day
    from (
        select
            support_customers.customer_id,
            open_at_desk.ticket_id,
            {{ utc_date('open_at_desk.opened_at') }} as opened_day
        from support_customers
        inner join open_at_desk on support_customers.desk_ticket_id = open_at_desk.desk_ticket_id

        union all

        select
            opened_lately.customer_id,
            opened_lately.ticket_id,
            opened_lately.event_date as opened_day
        from opened_lately
        left join known_at_desk on opened_lately.ticket_id = known_at_desk.ticket_id
        where known_at_desk.ticket_id is null
    ) as tickets
    group by customer_id
)

select
    features.customer_id,
    features.as_of_date,
    features.tenure_days,
    features.last_event_at,
    features.days_since_last_seen,
    features.days_since_last_purchase,
    features.days_since_last_login,
    features.days_since_last_ticket,
    features.days_since_core_feature,
    {% for name in habit_features() %}
        features.{{ name }},
    {% endfor %}
    features.subscription_expires_in_days,
    features.typical_gap_days,
    features.silence_ratio,
    {% for name in lifetime_features() %}
        features.{{ name }}_lifetime,
    {% endfor %}
    {% for name, spans in feature_windows().items() %}
        {% for span in spans %}
            features.{{ name }}_{{ span }}d,
        {% endfor %}
    {% endfor %}
    {{ cast_to('coalesce(open_tickets.open_tickets, 0)', 'integer') }} as open_tickets,
    {{ days_between('open_tickets.oldest_day', 'features.as_of_date') }} as oldest_open_ticket_days
from features
left join open_tickets on features.customer_id = open_tickets.customer_id
