{# The running window of the last n days of one customer, the day itself included. Needs one row per day. #}
{% macro last_days(days) -%}
    over (
        partition by customer_id
        order by as_of_date
        rows between {{ days - 1 }} preceding and current row
    )
{%- endmacro %}

{# Everything of one customer up to and including the day. #}
{% macro until_day() -%}
    over (
        partition by customer_id
        order by as_of_date
        rows between unbounded preceding and current row
    )
{%- endmacro %}

{# A look at the page where one cancels. #}
{% macro is_cancellation_page(events) -%}
    ({{ events }}.event = 'Page Viewed' and lower(coalesce({{ events }}.page_path, '')) like '%cancel%')
{%- endmacro %}

{# Use of what the product is for: one of core_feature_events, or a page or screen below core_feature_path. #}
{% macro is_core_feature(events=none) -%}
    {%- set of = events ~ '.' if events else '' -%}
    ({{ of }}event in ('{{ var("core_feature_events") | join("', '") }}')
    {%- if var('core_feature_path') %}
        or coalesce({{ of }}page_path, '') like '{{ var("core_feature_path") }}_%'
    {%- endif %})
{%- endmacro %}

{# What is counted per day, and how to recognise it in the timeline. #}
{% macro counted_events() -%}
    {{ return({
        'sessions': "is_session_start",
        'purchases': "event = 'Purchase Completed'",
        'product_views': "event = 'Product Viewed'",
        'cart_updates': "event = 'Cart Updated'",
        'tickets_opened': "event = 'Support Ticket Opened'",
        'logins': "event = 'Logged In'",
        'feature_uses': "event = 'Feature First Used'",
        'core_feature_uses': is_core_feature(),
        'payments_failed': "event = 'Payment Failed'",
        'card_payments': "event = 'Card Transaction'",
        'pricing_page_visits': "event = 'Page Viewed' and lower(page_path) like '%pricing%'",
        'cancellation_page_visits': "event = 'Page Viewed' and lower(page_path) like '%cancel%'",
        'emails_opened': "event = 'Email Opened'",
        'emails_clicked': "event = 'Email Clicked'",
        'subscriptions_started': "event = 'Subscription Started'",
        'subscriptions_cancelled': "event = 'Subscription Cancelled'",
    }) }}
{%- endmacro %}

{# The windows, in days, over which each count is told. #}
{% macro feature_windows() -%}
    {{ return({
        'active_days': [7, 30, 90],
        'subscriptions_started': [],
        'subscriptions_cancelled': [],
        'sessions': [7, 30, 90],
        'purchases': [7, 30, 90],
        'revenue': [7, 30, 90],
        'product_views': [7, 30, 90],
        'cart_updates': [7, 30],
        'tickets_opened': [7, 30, 90],
        'logins': [7, 30, 90],
        'feature_uses': [30, 90],
        'core_feature_uses': [30, 90],
        'payments_failed': [30, 90],
        'card_payments': [30, 90],
        'pricing_page_visits': [30],
        'cancellation_page_visits': [30],
        'emails_opened': [30, 90],
        'emails_clicked': [30, 90],
    }) }}
{%- endmacro %}

{# What is also told since the first event. #}
{% macro lifetime_features() -%}
    {{ return(['active_days', 'sessions', 'purchases', 'revenue', 'subscriptions_started', 'subscriptions_cancelled']) }}
{%- endmacro %}

{# The habits of login_habits as of the last moment of each day that told of them, a select of one row per customer
   of `customers` and day up to `until`; days before `first_day`, if given, count as that day. -1 is unknown: null
   would be skipped, and an older value told instead. `among` is a condition on `habits` that holds for all of these,
   `relation` what to read in the place of login_habits. #}
{% macro habits_by_day(customers, until, first_day=none, relation=none, among='1 = 1') -%}
    {%- set day = utc_date('habits.event_at') -%}
    {%- if first_day -%}
        {%- set day = 'greatest(' ~ day ~ ', ' ~ first_day ~ ')' -%}
    {%- endif -%}
    select
        habits.customer_id,
        {{ day }} as day,
        {% for name in habit_features() -%}
            {{ latest_value('coalesce(habits.' ~ name ~ ', -1)', 'habits.event_at') }} as {{ name }}{{ ',' if not loop.last }}
        {% endfor -%}
    from {{ relation or ref('login_habits') }} as habits
    inner join {{ customers }} as customers on habits.customer_id = customers.customer_id
    where {{ utc_date('habits.event_at') }} <= {{ until }} and {{ among }}
    group by habits.customer_id, {{ day }}
{%- endmacro %}

{% macro habit_features() -%}
    {{ return(['session_minutes_recent', 'session_minutes_usual', 'session_length_ratio']) }}
{%- endmacro %}

{# What happened on each day that something did, a select of one row per customer and `day` of `events`, an expression
   which may roll earlier days into one. `events` has customer_id, event_date, event_at, revenue,
   subscription_expiry_day, and what counted_events() ask for. `more` are further aggregates by name. #}
{% macro happened_by_day(events, day, more={}) -%}
    select
        customer_id,
        {{ day }} as day,
        min(event_date) as first_day,
        max(event_at) as last_event_at,
        min(case when is_activity then event_date end) as first_active_day,
        max(case when is_activity then event_date end) as last_active_day,
        max(case when event = 'Purchase Completed' then event_date end) as last_purchase_day,
        max(case when event = 'Logged In' then event_date end) as last_login_day,
        max(case when event = 'Support Ticket Opened' then event_date end) as last_ticket_day,
        max(case when {{ is_core_feature() }} then event_date end) as last_core_feature_day,
        max(subscription_expiry_day) as last_subscription_expiry_day,
        count(distinct case when is_activity then event_date end) as active_days,
        {% for name, condition in counted_events().items() %}
            sum(case when {{ condition }} then 1 else 0 end) as {{ name }},
        {% endfor %}
        {% for name, aggregate in more.items() %}
            {{ aggregate }} as {{ name }},
        {% endfor %}
        sum(coalesce(revenue, 0)) as revenue
    from {{ events }}
    group by customer_id, {{ day }}
{%- endmacro %}

{# The last day of each kind that a customer had so far. #}
{% macro latest_days() -%}
    {{ return(['active', 'purchase', 'login', 'ticket', 'core_feature', 'subscription_expiry', 'habit']) }}
{%- endmacro %}

{# `happened` as happened_by_day() makes it, and on which days habits_by_day() tells something new. #}
{% macro with_habit_days(happened, habits) -%}
    select
        happened.*,
        habits.day as last_habit_day
    from {{ happened }} as happened
    left join {{ habits }} as habits on happened.customer_id = habits.customer_id and happened.day = habits.day
{%- endmacro %}

{# All that `happened` (with_habit_days()) until each day of `days` (as_of_date), a select of one row per customer and
   day by which something had happened.
   It costs days asked times days with events: windows over every day of the calendar cost the same however much
   happened, but have a fixed cost that few customers, or few days, do not repay. #}
{% macro summed_until(happened, days) -%}
    select
        happened.customer_id,
        days.as_of_date,
        min(happened.first_day) as first_day,
        min(happened.first_active_day) as first_active_day,
        max(happened.last_event_at) as last_event_at,
        {% for name in latest_days() %}
            max(happened.last_{{ name }}_day) as last_{{ name }}_day,
        {% endfor %}
        {% for name in lifetime_features() %}
            sum(happened.{{ name }}) as {{ name }}_lifetime,
        {% endfor %}
        {% for name, spans in feature_windows().items() %}
            {% set outer = loop %}
            {% for span in spans %}
                sum(
                    case
                        when happened.day > {{ cast_to(moved_by('days.as_of_date', -span, 'day'), 'date') }}
                            then happened.{{ name }}
                        else 0
                    end
                ) as {{ name }}_{{ span }}d{{ ',' if not (outer.last and loop.last) }}
            {% endfor %}
        {% endfor %}
    from {{ happened }} as happened
    inner join {{ days }} as days on happened.day <= days.as_of_date
    group by happened.customer_id, days.as_of_date
{%- endmacro %}

{# The features of each customer and day, as a select, from what happened until then: `summed` is summed_until() or
   the same by windows, `habits` is habits_by_day(). #}
{% macro customer_features_of(summed, habits) -%}
    select
        summed.customer_id,
        summed.as_of_date,
        {{ days_between('summed.first_day', 'summed.as_of_date') }} as tenure_days,
        summed.last_event_at,
        summed.days_since_last_seen,
        {{ days_between('summed.last_purchase_day', 'summed.as_of_date') }} as days_since_last_purchase,
        {{ days_between('summed.last_login_day', 'summed.as_of_date') }} as days_since_last_login,
        {{ days_between('summed.last_ticket_day', 'summed.as_of_date') }} as days_since_last_ticket,
        {{ days_between('summed.last_core_feature_day', 'summed.as_of_date') }} as days_since_core_feature,
        {% for name in habit_features() %}
            nullif(habits.{{ name }}, -1) as {{ name }},
        {% endfor %}
        case
            when summed.last_subscription_expiry_day >= summed.as_of_date
                then {{ days_between('summed.as_of_date', 'summed.last_subscription_expiry_day') }}
        end as subscription_expires_in_days,
        {{ cast_to('summed.typical_gap_days', 'double') }} as typical_gap_days,
        -- Without a rhythm silence says nothing: greatest() would quietly take the 3 where the gap is null.
        case
            when summed.typical_gap_days is not null
                then {{ cast_to('summed.days_since_last_seen / greatest(summed.typical_gap_days, 3)', 'double') }}
        end as silence_ratio,
        {% for name in lifetime_features() %}
            {{ cast_to('summed.' ~ name ~ '_lifetime', 'money' if name == 'revenue' else 'integer') }} as {{ name }}_lifetime,
        {% endfor %}
        {% for name, spans in feature_windows().items() %}
            {% set outer = loop %}
            {% for span in spans %}
                {{ cast_to('summed.' ~ name ~ '_' ~ span ~ 'd', 'money' if name == 'revenue' else 'integer') }} as {{ name }}_{{ span }}d
                {{- ',' if not (outer.last and loop.last) }}
            {% endfor %}
        {% endfor %}
    from (
        select
            sums.*,
            {{ days_between('sums.last_active_day', 'sums.as_of_date') }} as days_since_last_seen,
            case
                when sums.active_days_lifetime > 1
                    then {{ days_between('sums.first_active_day', 'sums.last_active_day') }}
                        / (sums.active_days_lifetime - 1.0)
            end as typical_gap_days
        from {{ summed }} as sums
    ) as summed
    left join {{ habits }} as habits
        on summed.customer_id = habits.customer_id and summed.last_habit_day = habits.day
{%- endmacro %}
