{# The customers this build recomputes, whole: all in a full refresh, else those whom something touched. #}
{% macro touched_customers() -%}
    select distinct customer_id
    from {{ ref('identity_map') }}
    {%- if is_incremental() %}
    where {{ is_touched() }}
    {%- endif %}
{%- endmacro %}

{# Incremental strategy by_customer: everything that a touched person was ever known by goes, the recomputed
   rows come. Each id owns a solo_customer_id, and a customer is always named by one of its ids, so the
   solo ids of a component cover every name it had before a merge or a split. #}
{% macro get_incremental_by_customer_sql(args) -%}
    {%- set columns = args['dest_columns'] | map(attribute='quoted') | join(', ') -%}
    delete from {{ args['target_relation'] }}
    where customer_id in (
        select solo_customer_id from {{ ref('identity_map') }} where {{ is_touched() }}
        union all
        select customer_id from {{ args['temp_relation'] }}
    );
    insert into {{ args['target_relation'] }} ({{ columns }})
    select {{ columns }} from {{ args['temp_relation'] }};
{%- endmacro %}
