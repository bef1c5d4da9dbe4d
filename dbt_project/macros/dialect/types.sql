{# Types by meaning, so that a model never names a warehouse's own. #}
{% macro type_of(meaning) -%}
    {{ return(adapter.dispatch('type_of')(meaning)) }}
{%- endmacro %}

{% macro duckdb__type_of(meaning) -%}
    {{ return({'text': 'varchar', 'integer': 'integer', 'bigint': 'bigint', 'double': 'double', 'money': 'decimal(18, 2)', 'boolean': 'boolean', 'timestamp': 'timestamp with time zone', 'date': 'date'}[meaning]) }}
{%- endmacro %}

{% macro snowflake__type_of(meaning) -%}
    {{ return({'text': 'varchar', 'integer': 'integer', 'bigint': 'bigint', 'double': 'double', 'money': 'number(18, 2)', 'boolean': 'boolean', 'timestamp': 'timestamp_tz', 'date': 'date'}[meaning]) }}
{%- endmacro %}

{% macro bigquery__type_of(meaning) -%}
    {{ return({'text': 'string', 'integer': 'int64', 'bigint': 'int64', 'double': 'float64', 'money': 'numeric', 'boolean': 'bool', 'timestamp': 'timestamp', 'date': 'date'}[meaning]) }}
{%- endmacro %}

{% macro default__type_of(meaning) -%}
    {{ return({'text': 'varchar', 'integer': 'integer', 'bigint': 'bigint', 'double': 'double precision', 'money': 'numeric(18, 2)', 'boolean': 'boolean', 'timestamp': 'timestamp with time zone', 'date': 'date'}[meaning]) }}
{%- endmacro %}

{% macro cast_to(expression, meaning) -%}
    cast({{ expression }} as {{ type_of(meaning) }})
{%- endmacro %}

{# Null instead of an error where the text does not read as that type. #}
{% macro safe_cast_to(expression, meaning) -%}
    {{ return(adapter.dispatch('safe_cast_to')(expression, meaning)) }}
{%- endmacro %}

{% macro duckdb__safe_cast_to(expression, meaning) -%}
    try_cast({{ expression }} as {{ type_of(meaning) }})
{%- endmacro %}

{% macro snowflake__safe_cast_to(expression, meaning) -%}
    try_cast({{ expression }} as {{ type_of(meaning) }})
{%- endmacro %}

{% macro bigquery__safe_cast_to(expression, meaning) -%}
    safe_cast({{ expression }} as {{ type_of(meaning) }})
{%- endmacro %}

{% macro default__safe_cast_to(expression, meaning) -%}
    {{ cast_to(expression, meaning) }}
{%- endmacro %}

{# An id is the first 16 hexadecimal digits of the MD5 of its parts: 64 bits, short enough to read. #}
{% macro hash_id(prefix, parts) -%}
    '{{ prefix }}' || substr(md5({{ parts | join(" || '|' || ") }}), 1, 16)
{%- endmacro %}

{# The value of `expression` in the row where `position` is highest, skipping null values. #}
{% macro latest_value(expression, position) -%}
    {{ return(adapter.dispatch('latest_value')(expression, position)) }}
{%- endmacro %}

{% macro duckdb__latest_value(expression, position) -%}
    arg_max({{ expression }}, {{ position }})
{%- endmacro %}

{% macro snowflake__latest_value(expression, position) -%}
    max_by({{ expression }}, iff({{ expression }} is null, null, {{ position }}))
{%- endmacro %}

{% macro bigquery__latest_value(expression, position) -%}
    array_agg({{ expression }} ignore nulls order by {{ position }} desc limit 1)[safe_offset(0)]
{%- endmacro %}

{% macro default__latest_value(expression, position) -%}
    (array_agg({{ expression }} order by {{ position }} desc) filter (where {{ expression }} is not null))[1]
{%- endmacro %}

{# The value that a share (0 to 1) of the group's values does not exceed, between two values in proportion. #}
{% macro quantile_of(expression, share) -%}
    {{ return(adapter.dispatch('quantile_of')(expression, share)) }}
{%- endmacro %}

{% macro default__quantile_of(expression, share) -%}
    percentile_cont({{ share }}) within group (order by {{ expression }})
{%- endmacro %}

{% macro duckdb__quantile_of(expression, share) -%}
    quantile_cont({{ expression }}, {{ share }})
{%- endmacro %}

{% macro bigquery__quantile_of(expression, share) -%}
    approx_quantiles({{ expression }}, 100)[safe_offset({{ (share * 100) | int }})]
{%- endmacro %}

{# True when `condition` holds in any row of the group. #}
{% macro any_true(condition) -%}
    coalesce(max(case when {{ condition }} then 1 else 0 end) = 1, false)
{%- endmacro %}

{# A number with so many decimals, as a double. #}
{% macro rounded(expression, digits) -%}
    {{ return(adapter.dispatch('rounded')(expression, digits)) }}
{%- endmacro %}

{% macro default__rounded(expression, digits) -%}
    round({{ expression }}, {{ digits }})
{%- endmacro %}

{% macro postgres__rounded(expression, digits) -%}
    cast(round(cast({{ expression }} as numeric), {{ digits }}) as double precision)
{%- endmacro %}

{# Redshift looks for Postgres's macros before the default ones; its numeric has no decimals by itself. #}
{% macro redshift__rounded(expression, digits) -%}
    {{ default__rounded(expression, digits) }}
{%- endmacro %}

{# Between two selects: the rows of both, each once. #}
{% macro union_distinct() -%}
    {{ return(adapter.dispatch('union_distinct')()) }}
{%- endmacro %}

{% macro default__union_distinct() -%}
    union
{%- endmacro %}

{% macro bigquery__union_distinct() -%}
    union distinct
{%- endmacro %}
