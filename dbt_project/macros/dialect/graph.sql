{# Connected components of an undirected graph, as the body of a recursive common table expression.
   `nodes` has (id_key, id_rank), `links` has (id_key, other_id_key) in both directions. Every node ends
   with the lowest rank that can be reached from it, so the best-ranked id names the component,
   whatever the diameter and the order of arrival. #}
{% macro connected_components(name, nodes, links) -%}
    {{ return(adapter.dispatch('connected_components')(name, nodes, links)) }}
{%- endmacro %}

{# DuckDB keeps one row per key between rounds and hands on only the rows that improved, so a round costs
   as much as what it changed. #}
{% macro duckdb__connected_components(name, nodes, links) -%}
{{ name }} (id_key, component_rank) using key (id_key) as (
    select
        id_key,
        id_rank as component_rank
    from {{ nodes }}

    union

    select
        links.other_id_key as id_key,
        min(improved.component_rank) as component_rank
    from {{ name }} as improved
    inner join {{ links }} as links on improved.id_key = links.id_key
    inner join recurring.{{ name }} as known on links.other_id_key = known.id_key
    where improved.component_rank < known.component_rank
    group by links.other_id_key
)
{%- endmacro %}

{# Postgres: all ranks that reach a node, reduced to the lowest afterwards. #}
{% macro postgres__connected_components(name, nodes, links) -%}
{{ name }}_reached (id_key, component_rank) as (
    select
        id_key,
        id_rank as component_rank
    from {{ nodes }}

    union

    select
        links.other_id_key as id_key,
        reached.component_rank
    from {{ name }}_reached as reached
    inner join {{ links }} as links on reached.id_key = links.id_key
),

{{ name }} as (
    select
        id_key,
        min(component_rank) as component_rank
    from {{ name }}_reached
    group by id_key
)
{%- endmacro %}

{# Elsewhere recursion knows only `union all`, which never ends in a circle: as many rounds as var identity_rounds
   says, in each of which a node takes the lowest rank next to it. Ids that are further apart stay apart. #}
{% macro default__connected_components(name, nodes, links) -%}
{{ name }}_hops as (
    select
        id_key,
        other_id_key
    from {{ links }}
    union all
    select
        id_key,
        id_key as other_id_key
    from {{ nodes }}
),

{{ name }}_0 as (
    select
        id_key,
        id_rank as component_rank
    from {{ nodes }}
),
{% for round in range(var('identity_rounds')) %}
{{ name }}_{{ round + 1 }} as (
    select
        hops.other_id_key as id_key,
        min(reached.component_rank) as component_rank
    from {{ name }}_{{ round }} as reached
    inner join {{ name }}_hops as hops on reached.id_key = hops.id_key
    group by hops.other_id_key
),
{% endfor %}
{{ name }} as (
    select
        id_key,
        component_rank
    from {{ name }}_{{ var('identity_rounds') }}
)
{%- endmacro %}

{# Redshift looks for Postgres's macros before the default ones. #}
{% macro redshift__connected_components(name, nodes, links) -%}
    {{ default__connected_components(name, nodes, links) }}
{%- endmacro %}

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
