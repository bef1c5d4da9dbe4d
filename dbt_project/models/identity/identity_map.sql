{{ config(materialized='incremental', incremental_strategy='delete+insert', unique_key='id_key') }}

-- The linter does not know DuckDB's `using key`, which the components below are made with.
with recursive -- noqa: PRS

mentions as (
    select
        id_key,
        id_kind,
        id_value,
        kind_rank,
        min(case when is_actor then event_at end) as first_event_at,
        min(event_at) as first_mentioned_at,
        min(case when actor_key is null then event_at end) as first_seen_at,
        max(log_seq) as last_log_seq
    from {{ ref('identity_mentions') }}
    {% if is_incremental() %}
        where log_seq > {{ watermark() }}
    {% endif %}
    group by id_key, id_kind, id_value, kind_rank
),

edges as (
    select
        id_key,
        id_kind,
        other_id_key,
        other_id_kind,
        log_seq
    from {{ ref('identity_edges') }}
),

splits as (
    select
        id_key,
        other_id_key,
        is_split,
        changed_seq
    from {{ ref('identity_splits') }}
),

split_ids as (
    select
        id_key,
        max(changed_seq) as split_seq
    from (
        select
            id_key,
            changed_seq
        from splits
        union all
        select
            other_id_key as id_key,
            changed_seq
        from splits
    ) as ends
    group by id_key
),

{% if is_incremental() %}
    touched as (
        select distinct known.customer_id
        from {{ this }} as known
        inner join (
            select id_key
            from mentions
            union all
            select id_key
            from split_ids
            where split_seq > {{ watermark() }}
        ) as news on known.id_key = news.id_key
    ),

    known_ids as (
        select
            known.id_key,
            known.id_kind,
            known.id_value,
            known.kind_rank,
            known.first_event_at,
            known.first_mentioned_at,
            known.first_seen_at,
            known.last_log_seq
        from {{ this }} as known
        inner join touched on known.customer_id = touched.customer_id
    ),
{% endif %}

-- The ids to place: all in a full build, else every id of each component that something new touched.
ids as (
    select
        id_key,
        id_kind,
        id_value,
        kind_rank,
        min(first_event_at) as first_event_at,
        min(first_mentioned_at) as first_mentioned_at,
        min(first_seen_at) as first_seen_at,
        max(last_log_seq) as last_log_seq
    from (
        select
            id_key,
            id_kind,
            id_value,
            kind_rank,
            first_event_at,
            first_mentioned_at,
            first_seen_at,
            last_log_seq
        from mentions
        {% if is_incremental() %}
            union all
            select
                id_key,
                id_kind,
                id_value,
                kind_rank,
                first_event_at,
                first_mentioned_at,
                first_seen_at,
                last_log_seq
            from known_ids
        {% endif %}
    ) as found
    group by id_key, id_kind, id_value, kind_rank
),

near_edges as (
    {% if is_incremental() %}
        select distinct
            id_key,
            other_id_key
        from (
            select
                edges.id_key,
                edges.other_id_key
            from edges
            inner join ids on edges.id_key = ids.id_key
            union all
            select
                edges.id_key,
                edges.other_id_key
            from edges
            inner join ids on edges.other_id_key = ids.id_key
        ) as near
    {% else %}
        select
            id_key,
            other_id_key
        from edges
    {% endif %}
),

{{ identity_components() }},

-- Being cut off, from a shared id or by a split, changes both sides.
cuts as (
    select
        id_key,
        max(seq) as cut_seq
    from (
        select
            other_id_key as id_key,
            shared_since_seq as seq
        from unsplit_edges
        where shared_since_seq is not null
        union all
        select
            id_key,
            shared_since_seq as seq
        from shared_ids
        union all
        select
            id_key,
            split_seq as seq
        from split_ids
    ) as ends
    group by id_key
),

placed as (
    select
        ids.id_key,
        ids.id_kind,
        ids.id_value,
        ids.kind_rank,
        ids.first_event_at,
        ids.first_mentioned_at,
        ids.first_seen_at,
        ids.last_log_seq,
        canonical.id_key as canonical_id_key,
        shared_ids.id_key is not null as is_shared,
        max(greatest(ids.last_log_seq, coalesce(cuts.cut_seq, -1))) over (
            partition by components.component_rank
        ) as changed_seq,
        {{ is_identified() }} as is_identified,
        count(*) over (partition by components.component_rank) as component_size
    from ids
    inner join components on ids.id_key = components.id_key
    inner join ranked_ids as canonical on components.component_rank = canonical.id_rank
    left join cuts on ids.id_key = cuts.id_key
    left join shared_ids on ids.id_key = shared_ids.id_key
)

select
    id_key,
    id_kind,
    id_value,
    {{ hash_id('cus_', ['canonical_id_key']) }} as customer_id,
    {{ hash_id('cus_', ['id_key']) }} as solo_customer_id,
    canonical_id_key,
    {{ cast_to('kind_rank', 'integer') }} as kind_rank,
    first_event_at,
    first_mentioned_at,
    first_seen_at,
    last_log_seq,
    changed_seq,
    is_shared,
    is_identified,
    component_size
from placed
