{# In target dev, a model that this run does not build and that was never built in dev is production's:
   `--select my_model+` works in an empty schema of one's own. #}
{% macro ref() -%}
    {%- set relation = builtins.ref(*varargs, **kwargs) -%}
    {%- if not execute or target.name != 'dev' or relation.schema != target.schema
            or load_cached_relation(relation) -%}
        {{ return(relation) }}
    {%- endif -%}
    {%- for unique_id in selected_resources if graph.nodes.get(unique_id, {}).get('name') == varargs[-1] -%}
        {{ return(relation) }}
    {%- endfor -%}
    {{ return(relation.incorporate(path={'schema': 'main'})) }}
{%- endmacro %}
