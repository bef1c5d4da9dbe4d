{# dbt's incremental, and in a micro-batch, which is one transaction of a few rows, less of what is said around them.
   dbt-duckdb has each model described five times over, against its contract and against its table, which takes as long
   as to compute it. The table was made by the contract: here one question, asked along with the rows, tells whether
   these still fit, and if not, dbt's own way is taken, with what it does or says about it. #}
{% materialization incremental, adapter='duckdb', supported_languages=['sql', 'python'] -%}
    {%- set existing = load_cached_relation(this) -%}
    {%- if not var('one_transaction') or existing is none or existing.is_view or should_full_refresh()
            or pre_hooks or post_hooks or config.get('sql_header') -%}
        {{ return(dbt.materialization_incremental_duckdb()) }}
    {%- endif -%}

    {%- set target_relation = this.incorporate(type='table') -%}
    {%- set temp_relation = make_temp_relation(target_relation) -%}
    {%- set misfits = run_query(new_rows(temp_relation, target_relation, sql)) -%}
    {%- if misfits | length -%}
        {{ return(dbt.materialization_incremental_duckdb()) }}
    {%- endif -%}

    {%- set columns = [] -%}
    {%- for name in model.columns -%}
        {%- do columns.append(api.Column.create(name, model.columns[name].data_type)) -%}
    {%- endfor -%}
    {%- set strategy = adapter.get_incremental_strategy_macro(context, config.get('incremental_strategy')) -%}
    {%- call statement('main') -%}
        {{ strategy({
            'target_relation': target_relation, 'temp_relation': temp_relation, 'dest_columns': columns,
            'unique_key': config.get('unique_key'), 'incremental_predicates': config.get('incremental_predicates'),
        }) }}
    {%- endcall -%}
    {%- do note_made_rows(temp_relation) -%}
    {%- do adapter.commit() -%}
    {{ return({'relations': [target_relation]}) }}
{%- endmaterialization %}

{# Makes a temporary table of the rows of `sql`; its answer has a row for each column that is not the target's. #}
{% macro new_rows(temp_relation, target_relation, sql) -%}
    create temporary table {{ temp_relation }} as ({{ sql }});
    select coalesce(new.column_name, old.column_name) as column_name
    from (describe {{ temp_relation }}) as new
    full outer join (describe {{ target_relation }}) as old
        on new.column_name = old.column_name and new.column_type = old.column_type
    where new.column_name is null or old.column_name is null
{%- endmacro %}
