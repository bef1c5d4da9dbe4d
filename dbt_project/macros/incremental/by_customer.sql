{# The customers this build recomputes, whole: all in a full refresh, else those whom something touched. #}
{% macro touched_customers() -%}
    select
        customer_id,
        max(changed_seq) as changed_seq
    from {{ rebuilt('identity_map') }}
    {%- if is_incremental() %}
    where {{ is_touched() }}
    {%- endif %}
    group by customer_id
{%- endmacro %}

{# A parent of which a model reads only what this build makes: rows behind watermark(), or of the customers it
   recomputes, all of them. In a micro-batch, which has just made these, they are read from memory and not from the
   lake, where each look costs one at its catalog and one at its files. #}
{% macro rebuilt(parent) -%}
    {%- set relation = ref(parent) -%}
    {%- set made = graph.get('signalbox_made_rows', {}) -%}
    {%- if execute and made.get('invocation_id') == invocation_id and parent in made and is_incremental()
            and not day_has_rolled() and build_state().get(parent, {}).get('log_seq', 0) <= watermark() -%}
        {{ return(made[parent]) }}
    {%- endif -%}
    {{ return(relation) }}
{%- endmacro %}

{# Notes where the rows are that a model has just made of those whom this run recomputes. #}
{% macro note_made_rows(temp_relation) -%}
    {%- if graph.get('signalbox_made_rows', {}).get('invocation_id') != invocation_id -%}
        {%- do graph.update({'signalbox_made_rows': {'invocation_id': invocation_id}}) -%}
    {%- endif -%}
    {%- do graph['signalbox_made_rows'].update({model.name: temp_relation}) -%}
{%- endmacro %}

{# Of a model by customer that tells changed_seq: the condition on its rows that were built anew for the customers
   this build recomputes. It adds nothing to the join with touched_customers but speed: a bound by which the lake
   skips the files of earlier builds, so that reading whole customers costs no more for a long history of all.
   Of a parent that is a view, `above` names the models whose rows it passes on; one that does not say changed_seq
   is read whole. #}
{% macro is_rebuilt(alias, parent, above=none) -%}
    {%- set follow = [] -%}
    {%- for name in above or [parent] if follows_identity(name) -%}
        {%- do follow.append(name) -%}
    {%- endfor -%}
    {%- if is_incremental() and not day_has_rolled() and follow | length == (above or [parent]) | length
            and 'changed_seq' in graph.nodes['model.' ~ model.package_name ~ '.' ~ parent].columns -%}
        {{ alias }}.changed_seq > {{ watermark() }}
    {%- else -%}
        1 = 1
    {%- endif -%}
{%- endmacro %}

{# Whether a model has been built for all that identity_map tells of, or is before this one. #}
{% macro follows_identity(parent) -%}
    {%- set prefix = 'model.' ~ model.package_name ~ '.' -%}
    {%- if prefix ~ parent in selected_resources -%}
        {{ return(true) }}
    {%- endif -%}
    {%- set marks = build_state() -%}
    {{ return(
        prefix ~ 'identity_map' not in selected_resources
        and marks.get(parent, {}).get('log_seq', -1) >= marks.get('identity_map', {}).get('log_seq', 0)
    ) }}
{%- endmacro %}

{# The end of a model whose rows are looked up by the columns of its meta.laid_out_by: a full refresh writes them in that
   order, so that the lake can tell from the bounds of a part of a file that it holds none of those asked for. The
   lake's maintenance restores the order of what micro-batches add. #}
{% macro laid_out() -%}
    {#- A unit test of the model has none of its meta. -#}
    {%- set columns = (config.get('meta') or {}).get('laid_out_by') -%}
    {%- if columns and target.type == 'duckdb' and target.name != 'hot' and not is_incremental() -%}
        order by {{ columns | join(', ') }}
    {%- endif -%}
{%- endmacro %}

{# Incremental strategy by_customer: everything that a touched person was ever known by goes, the recomputed
   rows come. Each id owns a solo_customer_id, and a customer is always named by one of its ids, so the
   solo ids of a component cover every name it had before a merge or a split. #}
{% macro get_incremental_by_customer_sql(args) -%}
    {%- set columns = args['dest_columns'] | map(attribute='quoted') | join(', ') -%}
    delete from {{ args['target_relation'] }}
    where customer_id in (
        select solo_customer_id from {{ rebuilt('identity_map') }} where {{ is_touched() }}
        union all
        select customer_id from {{ args['temp_relation'] }}
    );
    insert into {{ args['target_relation'] }} ({{ columns }})
    select {{ columns }} from {{ args['temp_relation'] }};
{%- endmacro %}
