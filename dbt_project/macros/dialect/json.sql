{# JSON text in, typed value out. `path` is dotted: 'context.page.path'. A value of the wrong type is
   null: the contract at the collector has already judged it. #}

{% macro json_string(column, path) -%}
    {{ return(adapter.dispatch('json_string')(column, path)) }}
{%- endmacro %}

{% macro duckdb__json_string(column, path) -%}
    json_extract_string({{ column }}, '$.{{ path }}')
{%- endmacro %}

{% macro snowflake__json_string(column, path) -%}
    get_path(parse_json({{ column }}), '{{ path }}')::varchar
{%- endmacro %}

{% macro bigquery__json_string(column, path) -%}
    json_value({{ column }}, '$.{{ path }}')
{%- endmacro %}

{% macro default__json_string(column, path) -%}
    json_extract_path_text({{ column }}, '{{ path.split('.') | join("', '") }}')
{%- endmacro %}

{% macro postgres__json_string(column, path) -%}
    json_extract_path_text(cast({{ column }} as json), '{{ path.split('.') | join("', '") }}')
{%- endmacro %}

{% macro json_number(column, path) -%}
    {{ safe_cast_to(json_string(column, path), 'double') }}
{%- endmacro %}

{# Money: exact, so that a sum does not depend on the order of its rows. #}
{% macro json_money(column, path) -%}
    {{ safe_cast_to(json_string(column, path), 'money') }}
{%- endmacro %}

{% macro json_boolean(column, path) -%}
    {{ safe_cast_to(json_string(column, path), 'boolean') }}
{%- endmacro %}

{% macro json_timestamp(column, path) -%}
    {{ safe_cast_to(json_string(column, path), 'timestamp') }}
{%- endmacro %}

{# Part of a JSON document, as JSON text. #}
{% macro json_fragment(column, path) -%}
    {{ return(adapter.dispatch('json_fragment')(column, path)) }}
{%- endmacro %}

{% macro duckdb__json_fragment(column, path) -%}
    cast(json_extract({{ column }}, '$.{{ path }}') as varchar)
{%- endmacro %}

{% macro snowflake__json_fragment(column, path) -%}
    to_json(get_path(parse_json({{ column }}), '{{ path }}'))
{%- endmacro %}

{% macro bigquery__json_fragment(column, path) -%}
    json_query({{ column }}, '$.{{ path }}')
{%- endmacro %}

{% macro default__json_fragment(column, path) -%}
    {{ json_string(column, path) }}
{%- endmacro %}

{# Part of a JSON document as JSON, to become part of another one. #}
{% macro json_part(column, path) -%}
    {{ return(adapter.dispatch('json_part')(column, path)) }}
{%- endmacro %}

{% macro duckdb__json_part(column, path) -%}
    json_extract({{ column }}, '$.{{ path }}')
{%- endmacro %}

{% macro snowflake__json_part(column, path) -%}
    get_path(parse_json({{ column }}), '{{ path }}')
{%- endmacro %}

{% macro bigquery__json_part(column, path) -%}
    json_query(parse_json({{ column }}), '$.{{ path }}')
{%- endmacro %}

{% macro default__json_part(column, path) -%}
    json_extract_path(cast({{ column }} as json), '{{ path.split('.') | join("', '") }}')
{%- endmacro %}

{% macro json_array_length_of(column) -%}
    {{ return(adapter.dispatch('json_array_length_of')(column)) }}
{%- endmacro %}

{% macro duckdb__json_array_length_of(column) -%}
    cast(coalesce(json_array_length({{ column }}), 0) as integer)
{%- endmacro %}

{% macro snowflake__json_array_length_of(column) -%}
    coalesce(array_size(parse_json({{ column }})), 0)
{%- endmacro %}

{% macro bigquery__json_array_length_of(column) -%}
    coalesce(array_length(json_query_array({{ column }})), 0)
{%- endmacro %}

{% macro default__json_array_length_of(column) -%}
    coalesce(json_array_length({{ column }}), 0)
{%- endmacro %}

{% macro postgres__json_array_length_of(column) -%}
    coalesce(json_array_length(cast({{ column }} as json)), 0)
{%- endmacro %}

{% macro redshift__json_array_length_of(column) -%}
    {{ default__json_array_length_of(column) }}
{%- endmacro %}

{# The elements of a JSON array column, one per row, as JSON text: a select expression. #}
{% macro json_unnest(column) -%}
    {{ return(adapter.dispatch('json_unnest')(column)) }}
{%- endmacro %}

{% macro duckdb__json_unnest(column) -%}
    unnest(from_json({{ column }}, '["JSON"]'))::varchar
{%- endmacro %}

{% macro bigquery__json_unnest(column) -%}
    unnest(json_query_array({{ column }}))
{%- endmacro %}

{% macro default__json_unnest(column) -%}
    cast(json_array_elements(cast({{ column }} as json)) as varchar)
{%- endmacro %}

{# The names in a JSON object column, one per row: a select expression. #}
{% macro json_unnest_keys(column) -%}
    {{ return(adapter.dispatch('json_unnest_keys')(column)) }}
{%- endmacro %}

{% macro duckdb__json_unnest_keys(column) -%}
    unnest(json_keys({{ column }}))
{%- endmacro %}

{% macro bigquery__json_unnest_keys(column) -%}
    unnest(json_keys(parse_json({{ column }})))
{%- endmacro %}

{% macro default__json_unnest_keys(column) -%}
    json_object_keys(cast({{ column }} as json))
{%- endmacro %}

{# The value under a name that stands in another column, as text. #}
{% macro json_string_at(column, key_column) -%}
    {{ return(adapter.dispatch('json_string_at')(column, key_column)) }}
{%- endmacro %}

{% macro duckdb__json_string_at(column, key_column) -%}
    json_extract_string({{ column }}, '$."' || {{ key_column }} || '"')
{%- endmacro %}

{% macro snowflake__json_string_at(column, key_column) -%}
    get(parse_json({{ column }}), {{ key_column }})::varchar
{%- endmacro %}

{% macro bigquery__json_string_at(column, key_column) -%}
    json_value(parse_json({{ column }})[{{ key_column }}])
{%- endmacro %}

{% macro default__json_string_at(column, key_column) -%}
    json_extract_path_text(cast({{ column }} as json), {{ key_column }})
{%- endmacro %}

{# A JSON object as text from a dict of name: SQL expression, names in the order given. #}
{% macro json_build(fields) -%}
    {{ return(adapter.dispatch('json_build')(fields)) }}
{%- endmacro %}

{% macro duckdb__json_build(fields) -%}
    cast(json_object({% for name, value in fields.items() %}'{{ name }}', {{ value }}{{ ', ' if not loop.last }}{% endfor %}) as varchar)
{%- endmacro %}

{% macro snowflake__json_build(fields) -%}
    to_json(object_construct_keep_null({% for name, value in fields.items() %}'{{ name }}', {{ value }}{{ ', ' if not loop.last }}{% endfor %}))
{%- endmacro %}

{% macro bigquery__json_build(fields) -%}
    to_json_string(json_object({% for name, value in fields.items() %}'{{ name }}', {{ value }}{{ ', ' if not loop.last }}{% endfor %}))
{%- endmacro %}

{% macro default__json_build(fields) -%}
    cast(json_build_object({% for name, value in fields.items() %}'{{ name }}', {{ value }}{{ ', ' if not loop.last }}{% endfor %}) as varchar)
{%- endmacro %}
