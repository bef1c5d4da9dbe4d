{# Any past state, as it was known then: what a build of that moment would have said, told from today's tables.
   Known is what the collector had received; the rules (identity_rules, event_catalog, vars) are today's.

       select * from ({{ timeline_as_of(timestamp_literal('2026-01-31 08:00:00')) }}) as known_then

   `moment` is a SQL expression of a timestamp. With `id_key`, an expression of an id such as 'user:ada', only the
   customer who had this id then, which costs as much as that customer and not as much as all. #}
{% macro timeline_as_of(moment, id_key=none) -%}
with

ids as (
    {{ identity_as_of(moment, id_key) }}
),

{{ timeline_of_ids(known='events.log_seq <= (' ~ known_log_seq(moment) ~ ')') }}
{%- endmacro %}

{# The customers as they were known at a moment, as in customers. #}
{% macro customers_as_of(moment, id_key=none) -%}
with

ids as (
    {{ identity_as_of(moment, id_key) }}
),

{{ customers_of_ids(known='identifies.log_seq <= (' ~ known_log_seq(moment) ~ ')') }}
{%- endmacro %}

{# Who was who, as it was known at a moment: one row per id, as in identity_map. #}
{% macro identity_as_of(moment, id_key=none) -%}
with recursive

known as (
    {{ known_log_seq(moment) }}
),

edges as (
    select
        edges.id_key,
        edges.id_kind,
        edges.other_id_key,
        edges.other_id_kind,
        edges.log_seq
    from {{ ref('identity_edges') }} as edges
    inner join known on edges.log_seq <= known.log_seq
),

split_events as (
    select
        split_events.event_id,
        split_events.log_seq,
        split_events.event_at,
        split_events.id_key,
        split_events.other_id_key,
        split_events.is_split,
        split_events.reason
    from {{ ref('identity_split_events') }} as split_events
    inner join known on split_events.log_seq <= known.log_seq
),

{{ splits_in_force() }},

{% if id_key %}
    edge_ends as (
        select
            id_key,
            other_id_key
        from edges
        union all
        select
            other_id_key as id_key,
            id_key as other_id_key
        from edges
    ),

    {{ reachable_ids('reachable', id_key, 'edge_ends') }},
{% endif %}

ids as (
    select
        mentions.id_key,
        mentions.id_kind,
        mentions.id_value,
        mentions.kind_rank,
        min(case when mentions.is_actor then mentions.event_at end) as first_event_at,
        min(mentions.event_at) as first_mentioned_at,
        min(case when mentions.actor_key is null then mentions.event_at end) as first_seen_at
    from {{ ref('identity_mentions') }} as mentions
    inner join known on mentions.log_seq <= known.log_seq
    {% if id_key %}
        inner join reachable on mentions.id_key = reachable.id_key
    {% endif %}
    group by mentions.id_key, mentions.id_kind, mentions.id_value, mentions.kind_rank
),

near_edges as (
    select
        edges.id_key,
        edges.other_id_key
    from edges
    {% if id_key %}
        inner join reachable on edges.id_key = reachable.id_key
    {% endif %}
),

{{ identity_components() }},

placed as (
    select
        ids.id_key,
        ids.id_kind,
        ids.id_value,
        {{ hash_id('cus_', ['canonical.id_key']) }} as customer_id,
        canonical.id_key as canonical_id_key,
        {{ cast_to('ids.kind_rank', 'integer') }} as kind_rank,
        ids.first_event_at,
        ids.first_mentioned_at,
        ids.first_seen_at,
        shared_ids.id_key is not null as is_shared,
        {{ is_identified() }} as is_identified,
        count(*) over (partition by components.component_rank) as component_size
    from ids
    inner join components on ids.id_key = components.id_key
    inner join ranked_ids as canonical on components.component_rank = canonical.id_rank
    left join shared_ids on ids.id_key = shared_ids.id_key
)

select
    id_key,
    id_kind,
    id_value,
    customer_id,
    canonical_id_key,
    kind_rank,
    first_event_at,
    first_mentioned_at,
    first_seen_at,
    is_shared,
    is_identified,
    component_size
from placed
{%- if id_key %}
where customer_id in (select asked.customer_id from placed as asked where asked.id_key = {{ id_key }})
{%- endif %}
{%- endmacro %}

{# The end of the event log at a moment, by when its messages were received; what came out of quarantine counts from
   its replay on. #}
{% macro known_log_seq(moment) -%}
    select coalesce(max(log_seq), -1) as log_seq
    from {{ ref('stg_events') }}
    where coalesce(replayed_at, received_at) <= {{ moment }}
{%- endmacro %}
