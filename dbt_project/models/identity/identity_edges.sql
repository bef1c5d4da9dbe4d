{{ config(materialized='incremental', incremental_strategy='append') }}

with

mentions as (
    select
        event_id,
        log_seq,
        event_at,
        evidence,
        id_key,
        id_kind,
        kind_rank,
        actor_key,
        row_number() over (
            partition by event_id
            order by case when actor_key is null then 0 else 1 end, kind_rank asc, is_actor desc, id_key asc
        ) as strength
    from {{ ref('identity_mentions') }}
    {% if is_incremental() %}
        where log_seq > {{ watermark() }}
    {% endif %}
),

-- Every id of an event belongs to its strongest one: a star, so that a device which too many people
-- share can be cut out without leaving a way around it. External ids belong to the id that sent the event,
-- and may be the stronger end.
joined as (
    select
        carried.event_id,
        carried.log_seq,
        carried.event_at,
        carried.evidence,
        case when carried.kind_rank < centre.kind_rank then centre.id_key else carried.id_key end as id_key,
        case when carried.kind_rank < centre.kind_rank then centre.id_kind else carried.id_kind end as id_kind,
        case when carried.kind_rank < centre.kind_rank then carried.id_key else centre.id_key end as other_id_key,
        case when carried.kind_rank < centre.kind_rank then carried.id_kind else centre.id_kind end as other_id_kind
    from mentions as carried
    inner join mentions as centre
        on
            carried.event_id = centre.event_id
            and case
                when carried.actor_key is null then centre.strength = 1
                else carried.actor_key = centre.id_key
            end
    where carried.id_key <> centre.id_key
),

pairs as (
    select
        id_key,
        id_kind,
        other_id_key,
        other_id_kind,
        event_id,
        log_seq,
        event_at,
        evidence,
        row_number() over (
            partition by id_key, other_id_key
            order by log_seq
        ) as occurrence
    from joined
),

{% if is_incremental() %}
    already_here as (
        select
            edges.id_key,
            edges.other_id_key
        from {{ this }} as edges
        inner join pairs
            on edges.id_key = pairs.id_key and edges.other_id_key = pairs.other_id_key and pairs.occurrence = 1
    ),
{% endif %}

new_pairs as (
    select
        pairs.id_key,
        pairs.id_kind,
        pairs.other_id_key,
        pairs.other_id_kind,
        pairs.event_id,
        pairs.log_seq,
        pairs.event_at,
        pairs.evidence
    from pairs
    {% if is_incremental() %}
        left join already_here
            on pairs.id_key = already_here.id_key and pairs.other_id_key = already_here.other_id_key
    {% endif %}
    where
        pairs.occurrence = 1
        {% if is_incremental() %}
            and already_here.id_key is null
        {% endif %}
)

select
    id_key,
    id_kind,
    other_id_key,
    other_id_kind,
    event_id,
    log_seq,
    event_at,
    evidence
from new_pairs
