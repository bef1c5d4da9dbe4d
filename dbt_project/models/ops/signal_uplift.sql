{{ config(tags=['after_sync']) }}

{% set syncs = measured_syncs() %}

with

measured_syncs as (
    {% for sync in syncs %}
        select
            {{ cast_to("'" ~ sync.sync ~ "'", 'text') }} as sync,
            {{ cast_to("'" ~ sync.outcome ~ "'", 'text') }} as outcome,
            {{ cast_to(sync.window_seconds, 'bigint') }} as window_seconds
        {{ 'union all' if not loop.last }}
    {% else %}
        select
            {{ cast_to('null', 'text') }} as sync,
            {{ cast_to('null', 'text') }} as outcome,
            {{ cast_to('null', 'bigint') }} as window_seconds
        where 1 = 0
    {% endfor %}
),

-- Who was held out never left; everybody else counts from the attempt on, whatever came of it.
starts as (
    select
        results.sync,
        results.customer_id,
        results.policy is not null and results.policy = 'holdout' as is_held_out,
        case when results.policy = 'holdout' then results.updated_at else results.sent_at end as started_at
    from {{ ref('sync_results') }} as results
    where results.mode = 'message' and (results.policy = 'holdout' or results.sent_at is not null)
),

first_starts as (
    select
        sync,
        customer_id,
        is_held_out,
        started_at,
        row_number() over (
            partition by sync, customer_id
            order by started_at, is_held_out
        ) as start_number
    from starts
),

customers as (
    select
        measured_syncs.sync,
        measured_syncs.outcome,
        measured_syncs.window_seconds,
        first_starts.customer_id,
        first_starts.is_held_out,
        first_starts.started_at,
        {{ seconds_between('first_starts.started_at', as_of_ts()) }} >= measured_syncs.window_seconds as is_over
    from measured_syncs
    inner join first_starts on measured_syncs.sync = first_starts.sync
    where first_starts.start_number = 1
),

outcomes as (
    select distinct
        customers.sync,
        customers.customer_id
    from customers
    inner join {{ ref('customer_timeline') }} as timeline
        on
            customers.customer_id = timeline.customer_id
            and customers.outcome = timeline.event
    where
        timeline.event_at >= customers.started_at
        and {{ seconds_between('customers.started_at', 'timeline.event_at') }} < customers.window_seconds
),

judged as (
    select
        customers.sync,
        customers.is_held_out,
        customers.is_over,
        outcomes.customer_id is not null as has_outcome
    from customers
    left join outcomes
        on customers.sync = outcomes.sync and customers.customer_id = outcomes.customer_id
),

counts as (
    select
        sync,
        sum(case when is_over and not is_held_out then 1 else 0 end) as customers_messaged,
        sum(case when is_over and is_held_out then 1 else 0 end) as customers_held_out,
        sum(case when is_over and not is_held_out and has_outcome then 1 else 0 end) as outcomes_messaged,
        sum(case when is_over and is_held_out and has_outcome then 1 else 0 end) as outcomes_held_out,
        sum(case when is_over then 0 else 1 end) as customers_waiting
    from judged
    group by sync
),

rates as (
    select
        measured_syncs.sync,
        measured_syncs.outcome,
        measured_syncs.window_seconds / 86400.0 as window_days,
        coalesce(counts.customers_messaged, 0) as customers_messaged,
        coalesce(counts.customers_held_out, 0) as customers_held_out,
        coalesce(counts.outcomes_messaged, 0) as outcomes_messaged,
        coalesce(counts.outcomes_held_out, 0) as outcomes_held_out,
        coalesce(counts.customers_waiting, 0) as customers_waiting
    from measured_syncs
    left join counts on measured_syncs.sync = counts.sync
),

bounds as (
    select
        sync,
        outcome,
        window_days,
        customers_messaged,
        customers_held_out,
        outcomes_messaged,
        outcomes_held_out,
        customers_waiting,
        outcomes_messaged / nullif({{ cast_to('customers_messaged', 'double') }}, 0) as rate_messaged,
        outcomes_held_out / nullif({{ cast_to('customers_held_out', 'double') }}, 0) as rate_held_out,
        {{ wilson_bound('outcomes_messaged', 'customers_messaged', -1) }} as messaged_low,
        {{ wilson_bound('outcomes_messaged', 'customers_messaged', 1) }} as messaged_high,
        {{ wilson_bound('outcomes_held_out', 'customers_held_out', -1) }} as held_out_low,
        {{ wilson_bound('outcomes_held_out', 'customers_held_out', 1) }} as held_out_high
    from rates
),

-- R. G. Newcombe, Interval estimation for the difference between independent proportions, Statistics
-- in Medicine 17 (1998) 873-890, method 10: the score intervals of both rates, put together.
intervals as (
    select
        sync,
        outcome,
        window_days,
        customers_messaged,
        customers_held_out,
        outcomes_messaged,
        outcomes_held_out,
        customers_waiting,
        rate_messaged,
        rate_held_out,
        rate_messaged - rate_held_out as uplift,
        rate_messaged - rate_held_out - sqrt(
            (rate_messaged - messaged_low) * (rate_messaged - messaged_low)
            + (held_out_high - rate_held_out) * (held_out_high - rate_held_out)
        ) as uplift_low,
        rate_messaged - rate_held_out + sqrt(
            (messaged_high - rate_messaged) * (messaged_high - rate_messaged)
            + (rate_held_out - held_out_low) * (rate_held_out - held_out_low)
        ) as uplift_high
    from bounds
)

select
    sync,
    outcome,
    {{ cast_to('window_days', 'double') }} as window_days,
    {{ cast_to('customers_messaged', 'bigint') }} as customers_messaged,
    {{ cast_to('customers_held_out', 'bigint') }} as customers_held_out,
    {{ cast_to('outcomes_messaged', 'bigint') }} as outcomes_messaged,
    {{ cast_to('outcomes_held_out', 'bigint') }} as outcomes_held_out,
    {{ cast_to('customers_waiting', 'bigint') }} as customers_waiting,
    rate_messaged,
    rate_held_out,
    uplift,
    uplift_low,
    uplift_high,
    case
        when uplift_low > 0 then 'the message helps'
        when uplift_high < 0 then 'the message harms'
        when uplift is null then 'no data yet'
        else 'no difference seen'
    end as verdict
from intervals
