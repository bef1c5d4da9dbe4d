{# An address in the one form in which addresses are compared; null for an empty one. A phone number keeps its
   digits and plus, anything else is lower case and trimmed. `syncs/facts.py` does the same when it asks. #}
{% macro normalised_address(channel, address) -%}
    nullif(case
        when {{ channel }} = 'sms' then translate({{ address }}, ' -().', '')
        else lower(trim({{ address }}))
    end, '')
{%- endmacro %}

{# What stands behind the @ of an email address. #}
{% macro domain_of(email) -%}
    {{ return(adapter.dispatch('domain_of')(email)) }}
{%- endmacro %}

{% macro default__domain_of(email) -%}
    split_part({{ email }}, '@', 2)
{%- endmacro %}

{% macro bigquery__domain_of(email) -%}
    split({{ email }}, '@')[safe_offset(1)]
{%- endmacro %}
