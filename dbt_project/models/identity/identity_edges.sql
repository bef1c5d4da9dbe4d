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
        row_number() over (
            partition by event_id
            order by kind_rank asc, is_actor desc, id_key asc
        ) as strength
    from {{ ref('identity_mentions') }}
    {% if is_incremental() %}
        where log_seq > {{ watermark() }}
    {% endif %}
),

-- Every id of an event belongs to its strongest one: a star, so that a device which too many people
-- share can be cut out without leaving a way around it.
pairs as (
    select
        weaker.id_key,
        weaker.id_kind,
        stronger.id_key as other_id_key,
        stronger.id_kind as other_id_kind,
        weaker.event_id,
        weaker.log_seq,
        weaker.event_at,
        weaker.evidence,
        row_number() over (
            partition by weaker.id_key, stronger.id_key
            order by weaker.log_seq
        ) as occurrence
    from mentions as weaker
    inner join mentions as stronger
        on weaker.event_id = stronger.event_id and stronger.strength = 1 and weaker.strength > 1
    where weaker.id_key <> stronger.id_key
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
