with

identity_map as (
    select
        id_key,
        id_kind,
        customer_id,
        solo_customer_id,
        canonical_id_key,
        is_shared
    from {{ ref('identity_map') }}
),

edges as (
    select
        id_key,
        other_id_key,
        event_id,
        log_seq,
        event_at,
        evidence
    from {{ ref('identity_edges') }}
),

merged_ids as (
    select
        id_key,
        customer_id,
        solo_customer_id,
        canonical_id_key
    from identity_map
    where customer_id <> solo_customer_id
),

shared_ids as (
    select id_key
    from identity_map
    where is_shared
),

splits as (
    select
        id_key,
        other_id_key
    from {{ ref('identity_splits') }}
    where is_split
),

counted_edges as (
    select
        edges.id_key,
        edges.other_id_key,
        edges.event_id,
        edges.log_seq,
        edges.event_at,
        edges.evidence
    from edges
    left join shared_ids on edges.id_key = shared_ids.id_key
    left join splits
        on
            least(edges.id_key, edges.other_id_key) = splits.id_key
            and greatest(edges.id_key, edges.other_id_key) = splits.other_id_key
    where shared_ids.id_key is null and splits.id_key is null
),

edge_ends as (
    select
        id_key,
        other_id_key,
        event_id,
        log_seq,
        event_at,
        evidence
    from counted_edges

    union all

    select
        other_id_key as id_key,
        id_key as other_id_key,
        event_id,
        log_seq,
        event_at,
        evidence
    from counted_edges
),

first_evidence as (
    select
        merged_ids.id_key,
        merged_ids.customer_id,
        merged_ids.solo_customer_id,
        merged_ids.canonical_id_key,
        edge_ends.other_id_key,
        edge_ends.event_id,
        edge_ends.log_seq,
        edge_ends.event_at,
        edge_ends.evidence,
        row_number() over (
            partition by merged_ids.id_key
            order by edge_ends.log_seq, edge_ends.other_id_key
        ) as evidence_number
    from merged_ids
    inner join edge_ends on merged_ids.id_key = edge_ends.id_key
)

select
    id_key as merged_id_key,
    solo_customer_id as merged_customer_id,
    customer_id as into_customer_id,
    canonical_id_key as into_id_key,
    other_id_key as seen_with_id_key,
    evidence,
    event_id,
    log_seq,
    event_at as merged_at,
    case evidence
        when 'alias' then id_key || ' and ' || other_id_key || ' were declared the same by an alias call'
        when 'record' then id_key || ' and ' || other_id_key || ' stand in one record of the CRM or the help desk'
        when 'identify' then id_key || ' and ' || other_id_key || ' were named together by an identify call'
        else id_key || ' and ' || other_id_key || ' appeared together on a ' || evidence || ' call'
    end as reason
from first_evidence
where evidence_number = 1
