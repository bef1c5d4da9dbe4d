{# The highest value of a column of this model as it stands, as a literal: the ledger's Postgres can then leave
   out what is older, which it could not for a subquery on the lake. None when the model is empty. #}
{% macro newest(column) -%}
    {%- if not execute -%}
        {{ return(none) }}
    {%- endif -%}
    {{ return(run_query('select cast(max(' ~ column ~ ') as varchar) from ' ~ this).rows[0][0]) }}
{%- endmacro %}

{# What a sync was to send, as JSON text, with the fields that its model tags as pii shown by name only: ‹email›.
   Null for a sync that no longer has a model. #}
{% macro masked_payload(sync, payload) -%}
    {%- set control = ['customer_id', 'trigger_id', 'fired_at', 'expires_at'] -%}
    case
        when {{ payload }} is null then null
        {%- if execute %}
            {%- for node in graph.nodes.values() | sort(attribute='name') if node.resource_type == 'model' and node.name.startswith('sync_') and '__' in node.name %}
                {%- set fields = {} -%}
                {%- for name, column in node.columns.items() if name not in control -%}
                    {%- if column.get('config', {}).get('meta', {}).get('pii') or column.get('meta', {}).get('pii') -%}
                        {%- do fields.update({name: 'case when ' ~ json_string(payload, name) ~ " is not null then '‹" ~ name ~ "›' end"}) -%}
                    {%- else -%}
                        {%- do fields.update({name: json_part(payload, name)}) -%}
                    {%- endif -%}
                {%- endfor %}
        when {{ sync }} = '{{ node.name[5:] }}' then {{ json_build(fields) }}
            {%- endfor %}
        {%- endif %}
    end
{%- endmacro %}
