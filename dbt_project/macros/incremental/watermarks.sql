{# The table that remembers, per model of this schema, how far it has read and as of when, and per view what it was
   made of. #}
{% macro build_watermarks() -%}
    {{ return(api.Relation.create(database=target.database, schema=target.schema, identifier='build_watermarks', type='table')) }}
{%- endmacro %}

{% macro create_build_watermarks() -%}
    {%- do graph.pop('signalbox_build_state', none) -%}
    {%- if execute and flags.WHICH in ('run', 'build') and not load_relation(build_watermarks()) -%}
        create table if not exists {{ build_watermarks() }} (
            model {{ type_of('text') }},
            log_seq {{ type_of('bigint') }},
            as_of_ts {{ type_of('timestamp') }},
            built_at {{ type_of('timestamp') }},
            fingerprint {{ type_of('text') }}
        )
    {%- endif -%}
{%- endmacro %}

{# What build_watermarks held when this run began: {model: {log_seq, as_of_ts, built_at, fingerprint}}.
   dbt hands every node the same graph object, so one query serves the whole run. #}
{% macro build_state() -%}
    {%- set kept = graph.get('signalbox_build_state', {}) -%}
    {%- if kept.get('invocation_id') == invocation_id -%}
        {{ return(kept['models']) }}
    {%- endif -%}
    {%- set models = {} -%}
    {%- if execute and load_relation(build_watermarks()) -%}
        {%- set rows = run_query('select model, max(log_seq), cast(max(as_of_ts) as varchar), cast(max(built_at) as varchar), max(fingerprint) from ' ~ build_watermarks() ~ ' group by model') -%}
        {%- for row in rows -%}
            {%- do models.update({row[0]: {
                'log_seq': none if row[1] is none else row[1] | int,
                'as_of_ts': row[2], 'built_at': row[3], 'fingerprint': row[4],
            }}) -%}
        {%- endfor -%}
    {%- endif -%}
    {%- do graph.update({'signalbox_build_state': {'invocation_id': invocation_id, 'models': models}}) -%}
    {{ return(models) }}
{%- endmacro %}

{# How far this model has read. A number, so that the reader can skip the files below it. -1: never ran. #}
{% macro watermark() -%}
    {%- set mark = build_state().get(model.name, {}).get('log_seq') -%}
    {{ return(-1 if mark is none else mark) }}
{%- endmacro %}

{# As of when this model was last built. #}
{% macro last_as_of_ts() -%}
    {{ return(timestamp_literal(build_state().get(model.name, {}).get('as_of_ts') or '1970-01-01')) }}
{%- endmacro %}

{# The condition on identity_map that picks the ids of customers who must be recomputed: something about them
   arrived, or, for models that count days (meta.rolls_daily), the day has changed since the last build. #}
{% macro is_touched() -%}
    (
        changed_seq > {{ watermark() }}
        {%- if config.get('meta', {}).get('rolls_daily') %}
        or {{ as_of_date() }} > {{ utc_date(last_as_of_ts()) }}
        {%- endif %}
    )
{%- endmacro %}

{# Whether all customers must be recomputed, by a model that counts days. #}
{% macro day_has_rolled() -%}
    {%- set before = build_state().get(model.name, {}).get('as_of_ts') or '1970-01-01' -%}
    {%- set now = var('as_of', none) or var('built_as_of', none) or run_started_at.strftime('%Y-%m-%d') -%}
    {{ return(config.get('meta', {}).get('rolls_daily') and (now | string)[:10] > before[:10]) }}
{%- endmacro %}

{# Writes what this run has built. A model has read no further than the incremental models above it,
   which matters when only part of the project was selected.
   Written as a whole, in the transaction of the run if that has one. #}
{% macro record_build_watermarks(results) -%}
    {%- if not execute or flags.WHICH not in ('run', 'build') -%}
        {{ return('') }}
    {%- endif -%}
    {%- set marks = build_state() -%}
    {%- set as_of = run_query('select cast(' ~ as_of_ts() ~ ' as varchar), cast(' ~ current_utc() ~ ' as varchar)').rows[0] -%}
    {%- set changed = [] -%}

    {%- for result in results if result.node.resource_type == 'model' and result.status | string == 'success' -%}
        {%- set node = graph.nodes[result.node.unique_id] -%}
        {%- if node.config.materialized == 'view' -%}
            {%- set fingerprint = local_md5(result.node.compiled_code) -%}
            {#- When tells whether an edit has shipped; what is built every minute need not say so each time. -#}
            {%- if marks.get(node.name, {}).get('fingerprint') != fingerprint or 'after_sync' not in node.config.tags -%}
                {%- do changed.append(node.name) -%}
                {%- do marks.update({node.name: {'log_seq': none, 'as_of_ts': none, 'built_at': as_of[1], 'fingerprint': fingerprint}}) -%}
            {%- endif -%}
        {#- A table is built anew from all there is: what is worth remembering is when. -#}
        {%- elif node.config.materialized == 'table' -%}
            {%- do changed.append(node.name) -%}
            {%- do marks.update({node.name: {'log_seq': none, 'as_of_ts': as_of[0], 'built_at': as_of[1], 'fingerprint': node.checksum.checksum}}) -%}
        {#- What follows the ledger has no place in the log. -#}
        {%- elif node.config.materialized == 'incremental' and 'after_sync' not in node.config.tags -%}
            {%- do changed.append(node.name) -%}
            {%- set above = [] -%}
            {%- do incremental_parents(node.unique_id, above, []) -%}
            {%- set reached = [] -%}
            {%- set moments = [as_of[0]] -%}
            {%- for name in above -%}
                {%- do reached.append(marks[name]['log_seq'] if name in marks else -1) -%}
                {%- do moments.append(marks[name]['as_of_ts'] if name in marks else '1970-01-01 00:00:00+00') -%}
            {%- endfor -%}
            {%- if not above -%}
                {%- do reached.append(run_query('select coalesce(max(log_seq), -1) from ' ~ node.relation_name).rows[0][0] | int) -%}
            {%- endif -%}
            {#- Of the file as a person built it last: a micro-batch goes by an older one until an edit has shipped. -#}
            {%- set built = marks.get(node.name, {}).get('fingerprint') if var('one_transaction') else node.checksum.checksum -%}
            {%- do marks.update({node.name: {'log_seq': reached | min, 'as_of_ts': moments | min, 'built_at': as_of[1], 'fingerprint': built}}) -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if not changed -%}
        {{ return('') }}
    {%- endif -%}

    {# Rewritten whole: the lake drops the old file instead of collecting one per run. #}
    {%- set rows = [] -%}
    {%- for name, mark in marks.items() -%}
        {%- set fields = [sql_text(name), 'null' if mark['log_seq'] is none else mark['log_seq'], sql_text(mark['as_of_ts']), sql_text(mark['built_at']), sql_text(mark['fingerprint'])] -%}
        {%- do rows.append('(' ~ fields | join(', ') ~ ')') -%}
    {%- endfor -%}
    {% if not var('one_transaction') %}begin;{% endif %}
    delete from {{ build_watermarks() }} where true;
    insert into {{ build_watermarks() }} (model, log_seq, as_of_ts, built_at, fingerprint) values {{ rows | join(', ') }};
    {% if not var('one_transaction') %}commit;{% endif %}
{%- endmacro %}

{% macro sql_text(value) -%}
    {{ return('null' if value is none else "'" ~ (value | replace("'", "''")) ~ "'") }}
{%- endmacro %}

{# The nearest incremental models above a node, through any views between. #}
{% macro incremental_parents(unique_id, found, seen) -%}
    {%- for parent in graph.nodes[unique_id].depends_on.nodes if parent in graph.nodes and parent not in seen -%}
        {%- do seen.append(parent) -%}
        {%- set node = graph.nodes[parent] -%}
        {%- if node.resource_type == 'model' and node.config.materialized == 'incremental' -%}
            {%- do found.append(node.name) -%}
        {%- elif node.resource_type == 'model' -%}
            {%- do incremental_parents(parent, found, seen) -%}
        {%- endif -%}
    {%- endfor -%}
{%- endmacro %}
