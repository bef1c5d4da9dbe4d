{# Connected components of an undirected graph, as the body of a recursive common table expression.
   `nodes` has (id_rank), `links` has (id_rank, other_rank) in both directions. Every node ends with the
   lowest rank that can be reached from it, so the best-ranked id names the component,
   whatever the diameter and the order of arrival. #}
{% macro connected_components(name, nodes, links) -%}
    {{ return(adapter.dispatch('connected_components')(name, nodes, links)) }}
{%- endmacro %}

{# DuckDB keeps one row per key between rounds and hands on only the rows that improved. #}
{% macro lowest_reached(name, nodes, links) -%}
{{ name }} (id_rank, component_rank) using key (id_rank) as (
    select
        id_rank,
        id_rank as component_rank
    from {{ nodes }}

    union

    select
        links.other_rank as id_rank,
        min(improved.component_rank) as component_rank
    from {{ name }} as improved
    inner join {{ links }} as links on improved.id_rank = links.id_rank
    inner join recurring.{{ name }} as known on links.other_rank = known.id_rank
    where improved.component_rank < known.component_rank
    group by links.other_rank
)
{%- endmacro %}

{# To begin such a recursion with many rows takes long, and longer per row the more there are. Most components are a
   user and what it is seen with: those are done when each node has taken the lowest rank next to it, and what is left
   to join are the few ranks so taken. The hot lane has but few nodes. #}
{% macro duckdb__connected_components(name, nodes, links) -%}
{% if target.name == 'hot' -%}
{{ lowest_reached(name, nodes, links) }}
{%- else -%}
{{ name }}_lowest as (
    select
        id_rank,
        min(other_rank) as lowest_rank
    from {{ links }}
    group by id_rank
),

{{ name }}_near as materialized (
    select
        nodes.id_rank,
        least(nodes.id_rank, coalesce(lowest.lowest_rank, nodes.id_rank)) as near_rank
    from {{ nodes }} as nodes
    left join {{ name }}_lowest as lowest on nodes.id_rank = lowest.id_rank
),

-- Apart, so that no planner compares the ranks of all nodes with each other where there are few links.
{{ name }}_near_links as materialized (
    select
        near.near_rank,
        links.other_rank
    from {{ links }} as links
    inner join {{ name }}_near as near on links.id_rank = near.id_rank
),

{{ name }}_bridges as materialized (
    select distinct
        near_links.near_rank as id_rank,
        near.near_rank as other_rank
    from {{ name }}_near_links as near_links
    inner join {{ name }}_near as near on near_links.other_rank = near.id_rank
    where near_links.near_rank <> near.near_rank
),

{{ name }}_bridged_nodes as (
    select distinct id_rank
    from {{ name }}_bridges
),

{{ lowest_reached(name ~ '_bridged', name ~ '_bridged_nodes', name ~ '_bridges') }},

{{ name }} as (
    select
        near.id_rank,
        coalesce(bridged.component_rank, near.near_rank) as component_rank
    from {{ name }}_near as near
    left join {{ name }}_bridged as bridged on near.near_rank = bridged.id_rank
)
{%- endif %}
{%- endmacro %}

{# Postgres: all ranks that reach a node, reduced to the lowest afterwards. #}
{% macro postgres__connected_components(name, nodes, links) -%}
{{ name }}_reached (id_rank, component_rank) as (
    select
        id_rank,
        id_rank as component_rank
    from {{ nodes }}

    union

    select
        links.other_rank as id_rank,
        reached.component_rank
    from {{ name }}_reached as reached
    inner join {{ links }} as links on reached.id_rank = links.id_rank
),

{{ name }} as (
    select
        id_rank,
        min(component_rank) as component_rank
    from {{ name }}_reached
    group by id_rank
)
{%- endmacro %}

{# Elsewhere recursion knows only `union all`, which never ends in a circle: as many rounds as var identity_rounds
   says, in each of which a node takes the lowest rank next to it. Ids that are further apart stay apart. #}
{% macro default__connected_components(name, nodes, links) -%}
{{ name }}_hops as (
    select
        id_rank,
        other_rank
    from {{ links }}
    union all
    select
        id_rank,
        id_rank as other_rank
    from {{ nodes }}
),

{{ name }}_0 as (
    select
        id_rank,
        id_rank as component_rank
    from {{ nodes }}
),
{% for round in range(var('identity_rounds')) %}
{{ name }}_{{ round + 1 }} as (
    select
        hops.other_rank as id_rank,
        min(reached.component_rank) as component_rank
    from {{ name }}_{{ round }} as reached
    inner join {{ name }}_hops as hops on reached.id_rank = hops.id_rank
    group by hops.other_rank
),
{% endfor %}
{{ name }} as (
    select
        id_rank,
        component_rank
    from {{ name }}_{{ var('identity_rounds') }}
)
{%- endmacro %}

{# Redshift looks for Postgres's macros before the default ones. #}
{% macro redshift__connected_components(name, nodes, links) -%}
    {{ default__connected_components(name, nodes, links) }}
{%- endmacro %}

{# Whether a common table expression is computed once, where a database would not do so by itself. #}
{% macro materialized() -%}
    {{ return(adapter.dispatch('materialized')()) }}
{%- endmacro %}

{% macro default__materialized() -%}{%- endmacro %}

{% macro duckdb__materialized() -%}materialized{%- endmacro %}

{% macro postgres__materialized() -%}materialized{%- endmacro %}

{% macro redshift__materialized() -%}{%- endmacro %}

{# The ids that can be reached from one over links (id_key, other_id_key in both directions), or more: a common table
   expression that spares the rest of a query the ids that have nothing to do with it. #}
{% macro reachable_ids(name, id_key, links) -%}
    {{ return(adapter.dispatch('reachable_ids')(name, id_key, links)) }}
{%- endmacro %}

{% macro duckdb__reachable_ids(name, id_key, links) -%}
{{ name }} (id_key) as (
    select {{ cast_to(id_key, 'text') }} as id_key

    union

    select links.other_id_key as id_key
    from {{ name }} as reached
    inner join {{ links }} as links on reached.id_key = links.id_key
)
{%- endmacro %}

{% macro postgres__reachable_ids(name, id_key, links) -%}
    {{ duckdb__reachable_ids(name, id_key, links) }}
{%- endmacro %}

{# Without a recursion that ends in circles: all. #}
{% macro default__reachable_ids(name, id_key, links) -%}
{{ name }} as (
    select {{ cast_to(id_key, 'text') }} as id_key

    {{ union_distinct() }}

    select id_key
    from {{ links }}
)
{%- endmacro %}

{% macro redshift__reachable_ids(name, id_key, links) -%}
    {{ default__reachable_ids(name, id_key, links) }}
{%- endmacro %}
