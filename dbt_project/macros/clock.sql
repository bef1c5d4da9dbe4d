{# The moment a model looks from: var('as_of'), else the start of this run. A view outlives the run
   that created it, so it asks the clock when it is read.
   The hot lane compiles once and tells each batch its moment. With var('built_as_of') tables look from that moment
   and views go on asking the clock, as they stand after a build of then. #}
{% macro as_of_ts() -%}
    {%- if target.name == 'hot' -%}
        cast((select moment.as_of from {{ target.schema }}.moment as moment) as {{ type_of('timestamp') }})
    {%- elif var('as_of', none) -%}
        {{ timestamp_literal(var('as_of')) }}
    {%- elif model is defined and model.resource_type == 'model' and model.config.materialized == 'view' -%}
        {{ current_utc() }}
    {%- elif var('built_as_of', none) -%}
        {{ timestamp_literal(var('built_as_of')) }}
    {%- else -%}
        {{ timestamp_literal(run_started_at.strftime('%Y-%m-%d %H:%M:%S.%f')) }}
    {%- endif -%}
{%- endmacro %}

{# The day of as_of_ts(). Windows count days, so nothing but new events changes a row within a day. #}
{% macro as_of_date() -%}
    {{ utc_date(as_of_ts()) }}
{%- endmacro %}
