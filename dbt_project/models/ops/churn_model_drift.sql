with

champions as (
    select version
    from {{ source('learned', 'model_registry') }}
    where model = 'churn' and is_champion
),

bins as (
    select
        bins.version,
        bins.bin,
        bins.score_from,
        bins.score_below,
        bins.share
    from {{ source('learned', 'churn_model_bins') }} as bins
    inner join champions on bins.version = champions.version
),

scores as (
    select churn_score
    from {{ ref('churn_scores') }}
),

counted as (
    select
        bins.version,
        bins.bin,
        bins.score_from,
        bins.score_below,
        bins.share,
        count(scores.churn_score) as customers,
        sum(count(scores.churn_score)) over () as all_customers
    from bins
    left join scores on bins.score_from <= scores.churn_score and bins.score_below > scores.churn_score
    group by bins.version, bins.bin, bins.score_from, bins.score_below, bins.share
),

shares as (
    select
        version,
        bin,
        score_from,
        score_below,
        share,
        customers,
        customers * 1.0 / nullif(all_customers, 0) as share_now
    from counted
)

-- An empty bin counts as one in ten thousand: its logarithm would be infinite.
select
    version,
    {{ cast_to('bin', 'integer') }} as bin,
    score_from,
    score_below,
    share as share_in_training,
    customers,
    {{ cast_to('share_now', 'double') }} as share_now,
    {{ cast_to(
        '(greatest(share_now, 0.0001) - greatest(share, 0.0001))'
        ~ ' * ln(greatest(share_now, 0.0001) / greatest(share, 0.0001))', 'double'
    ) }} as stability_index
from shares
