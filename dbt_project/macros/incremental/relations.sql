{# dbt-duckdb's list of a schema's relations; in a micro-batch from the lake's own catalog. DuckDB's would count the rows
   of every table, which the lake asks for anew after each commit. #}
{% macro duckdb__list_relations_without_caching(schema_relation) -%}
    {%- if not (var('one_transaction') and adapter.is_ducklake(schema_relation)) -%}
        {{ return(dbt.duckdb__list_relations_without_caching(schema_relation)) }}
    {%- endif -%}
    {%- set catalog = '__ducklake_metadata_' ~ schema_relation.database -%}
    {{ return(run_query(
        "select '" ~ schema_relation.database ~ "' as database, relations.name, schemas.schema_name as schema, relations.type"
        ~ " from (select schema_id, table_name as name, 'table' as type from " ~ catalog ~ ".ducklake_table"
        ~ " where end_snapshot is null union all select schema_id, view_name, 'view' from " ~ catalog ~ ".ducklake_view"
        ~ " where end_snapshot is null) as relations"
        ~ " inner join " ~ catalog ~ ".ducklake_schema as schemas on relations.schema_id = schemas.schema_id"
        ~ " where schemas.end_snapshot is null and lower(schemas.schema_name) = '" ~ schema_relation.schema | lower ~ "'"
    )) }}
{%- endmacro %}
