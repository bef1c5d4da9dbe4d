{# Who is connected to whom: the common table expressions from `ids` (the ids to place), `near_edges` (their edges),
   `edges` (all that count for the limits) and `splits` to `components`. For identity_map and identity_as_of. #}
{% macro identity_components() -%}
limits as (
    select
        id_kind,
        value as other_id_kind,
        limit_to
    from {{ ref('identity_rules') }}
    where rule = 'limit'
),

weaker_ids as (
    select distinct id_key
    from near_edges
),

counted_edges as (
    select
        edges.id_key,
        edges.id_kind,
        edges.other_id_kind,
        edges.log_seq,
        row_number() over (partition by edges.id_key, edges.other_id_kind order by edges.log_seq) as edge_number
    from edges
    inner join weaker_ids on edges.id_key = weaker_ids.id_key
),

-- An id that joins more people than its kind allows belongs to none of them, from the event on that
-- went over the limit.
shared_ids as (
    select
        counted_edges.id_key,
        min(counted_edges.log_seq) as shared_since_seq
    from counted_edges
    inner join limits
        on
            counted_edges.id_kind = limits.id_kind
            and counted_edges.other_id_kind = limits.other_id_kind
            and counted_edges.edge_number = limits.limit_to + 1
    group by counted_edges.id_key
),

ranked_ids as (
    select
        id_key,
        row_number() over (
            order by kind_rank, first_event_at nulls last, first_seen_at nulls last, id_key
        ) as id_rank
    from ids
),

-- Split edges join nobody, but count for the limits: who shares an id is not made fewer by a split.
unsplit_edges as (
    select
        near_edges.id_key,
        near_edges.other_id_key,
        shared_ids.shared_since_seq
    from near_edges
    left join splits
        on
            splits.is_split
            and least(near_edges.id_key, near_edges.other_id_key) = splits.id_key
            and greatest(near_edges.id_key, near_edges.other_id_key) = splits.other_id_key
    left join shared_ids on near_edges.id_key = shared_ids.id_key
    where splits.id_key is null
),

-- By rank, as numbers: names would make most of the memory of what follows.
ranked_edges as {{ materialized() }} (
    select
        ranked_ids.id_rank,
        other_ids.id_rank as other_rank
    from unsplit_edges
    inner join ranked_ids on unsplit_edges.id_key = ranked_ids.id_key
    inner join ranked_ids as other_ids on unsplit_edges.other_id_key = other_ids.id_key
    where unsplit_edges.shared_since_seq is null
),

links as {{ materialized() }} (
    select
        id_rank,
        other_rank
    from ranked_edges

    union all

    select
        other_rank as id_rank,
        id_rank as other_rank
    from ranked_edges
),

{{ connected_components('component_ranks', 'ranked_ids', 'links') }},

components as (
    select
        ranked_ids.id_key,
        component_ranks.component_rank
    from component_ranks
    inner join ranked_ids on component_ranks.id_rank = ranked_ids.id_rank
)
{%- endmacro %}

{# Whether the customer of `ids`, placed by `components`, is more than a device. Who is only named, by records or as
   somebody else's external id, was never here. #}
{% macro is_identified() -%}
min(ids.kind_rank) over (partition by components.component_rank) < 4
        and max(ids.first_seen_at) over (partition by components.component_rank) is not null
{%- endmacro %}

{# What splits and their undoing leave in force: the common table expressions from `split_events` to `splits`.
   For identity_splits and identity_as_of. #}
{% macro splits_in_force() -%}
numbered_split_events as (
    select
        id_key,
        other_id_key,
        is_split,
        reason,
        event_at,
        max(log_seq) over (partition by id_key, other_id_key) as changed_seq,
        row_number() over (
            partition by id_key, other_id_key
            order by event_at desc, event_id desc
        ) as event_number
    from split_events
),

splits as (
    select
        id_key,
        other_id_key,
        is_split,
        reason,
        event_at as since,
        changed_seq
    from numbered_split_events
    where event_number = 1
)
{%- endmacro %}

{# Customers as they follow from who is who: the common table expressions from `ids` (rows of identity_map) on, and the
   select that ends them. For customers and customers_as_of. `known` is a condition on `identifies` (stg_identifies)
   that says which of them count; all, if left out. #}
{% macro customers_of_ids(known=none) -%}
identifies as (
    select
        ids.customer_id,
        identifies.email,
        identifies.name,
        identifies.phone,
        identifies.company,
        identifies.plan,
        identifies.timezone,
        identifies.signed_up_at,
        row_number() over (
            partition by ids.customer_id
            order by identifies.event_at, identifies.log_seq
        ) as identify_number
    from {{ ref('stg_identifies') }} as identifies
    inner join ids on identifies.id_key = ids.id_key
    {%- if known %}
    where {{ known }}
    {%- endif %}
),

latest_traits as (
    select
        customer_id,
        {{ latest_value('email', 'identify_number') }} as email,
        {{ latest_value('name', 'identify_number') }} as name,
        {{ latest_value('phone', 'identify_number') }} as phone,
        {{ latest_value('company', 'identify_number') }} as company,
        {{ latest_value('plan', 'identify_number') }} as plan,
        {{ latest_value('timezone', 'identify_number') }} as timezone,
        {{ latest_value('signed_up_at', 'identify_number') }} as signed_up_at
    from identifies
    group by customer_id
),

ids_by_strength as (
    select
        customer_id,
        id_kind,
        id_value,
        first_seen_at,
        is_identified,
        row_number() over (
            partition by customer_id, id_kind
            order by first_event_at nulls last, first_seen_at nulls last, id_key
        ) as id_number
    from ids
),

id_summary as (
    select
        customer_id,
        min(first_seen_at) as first_seen_at,
        {{ any_true('is_identified') }} as is_identified,
        count(*) as ids,
        max(case when id_kind = 'user' and id_number = 1 then id_value end) as user_id,
        max(case when id_kind = 'email' and id_number = 1 then id_value end) as known_email
    from ids_by_strength
    group by customer_id
)

select
    id_summary.customer_id,
    id_summary.user_id,
    coalesce(latest_traits.email, id_summary.known_email) as email,
    latest_traits.name,
    latest_traits.phone,
    latest_traits.company,
    latest_traits.plan,
    latest_traits.timezone,
    id_summary.is_identified,
    id_summary.ids,
    latest_traits.signed_up_at,
    id_summary.first_seen_at
from id_summary
left join latest_traits on id_summary.customer_id = latest_traits.customer_id
-- Who is only named, by a record of another system or as an external id, has not been here yet.
where id_summary.first_seen_at is not null
{%- endmacro %}
