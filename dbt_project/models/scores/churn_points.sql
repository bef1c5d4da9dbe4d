{{ config(materialized='table', tags=['daily']) }}

with

rules as (
    select
        rule,
        feature,
        starts_at,
        full_at,
        points,
        reason
    from {{ ref('churn_rules') }}
),

champions as (
    select version
    from {{ source('learned', 'model_registry') }}
    where model = 'churn' and is_champion
),

learned as (
    select
        learned.version,
        learned.rule,
        learned.feature,
        learned.starts_at,
        learned.full_at,
        learned.points,
        learned.usual_points
    from {{ source('learned', 'churn_model_points') }} as learned
    inner join champions on learned.version = champions.version
),

words as (
    select
        feature,
        reason
    from {{ ref('churn_model_features') }}
)

select
    cast(null as {{ type_of('integer') }}) as version,
    rules.rule,
    rules.feature,
    rules.starts_at,
    rules.full_at,
    rules.points,
    {{ cast_to('0', 'double') }} as usual_points,
    rules.reason
from rules
where not exists (select 1 from champions)

union all

select
    learned.version,
    learned.rule,
    learned.feature,
    learned.starts_at,
    learned.full_at,
    learned.points,
    learned.usual_points,
    words.reason
from learned
left join words on learned.feature = words.feature
