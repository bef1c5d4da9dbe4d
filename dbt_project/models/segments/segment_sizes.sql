with

membership as (
    select
        segment,
        entered_at,
        exited_at,
        is_entry_unknown
    from {{ ref('segment_membership') }}
),

moves as (
    select
        segment,
        entered_at as as_of_date,
        1 as joined,
        case when is_entry_unknown then 0 else 1 end as entered,
        0 as exited
    from membership

    union all

    select
        segment,
        exited_at as as_of_date,
        0 as joined,
        0 as entered,
        1 as exited
    from membership
    where exited_at is not null
),

-- Every day from the first on, also one on which nobody came or left.
segments as (
    select
        segment,
        min(as_of_date) as first_day
    from moves
    group by segment
),

days as (
    {{ date_series(cast_to(moved_by(as_of_date(), 1 - var('features_daily_days'), 'day'), 'date'), as_of_date()) }}
),

segment_days as (
    select
        segments.segment,
        days.day as as_of_date
    from segments
    inner join days on segments.first_day <= days.day
),

counted as (
    select
        segment,
        as_of_date,
        sum(joined) as joined,
        sum(entered) as entered,
        sum(exited) as exited
    from moves
    group by segment, as_of_date
)

select
    segment_days.segment,
    segment_days.as_of_date,
    {{ cast_to('sum(coalesce(counted.joined, 0) - coalesce(counted.exited, 0)) over (
        partition by segment_days.segment
        order by segment_days.as_of_date
        rows between unbounded preceding and current row
    )', 'integer') }} as customers,
    {{ cast_to('coalesce(counted.entered, 0)', 'integer') }} as entered,
    {{ cast_to('coalesce(counted.exited, 0)', 'integer') }} as exited
from segment_days
left join counted
    on segment_days.segment = counted.segment and segment_days.as_of_date = counted.as_of_date
