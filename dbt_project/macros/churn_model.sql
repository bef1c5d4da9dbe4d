{# What training has learned, kept beside the models: written by signalbox train, read by churn_points and
   customer_value. Made empty here, so that a schema in which nothing was learned yet scores by the rules. #}
{% macro learned_tables() -%}
    {{ return({
        'model_registry': [
            ('model', 'text'), ('version', 'integer'), ('is_champion', 'boolean'), ('verdict', 'text'),
            ('trained_at', 'timestamp'), ('first_as_of_date', 'date'), ('last_as_of_date', 'date'),
            ('horizon_days', 'integer'), ('training_rows', 'bigint'), ('customers', 'bigint'),
            ('positive_share', 'double'), ('metrics', 'text'),
        ],
        'churn_model_points': [
            ('version', 'integer'), ('rule', 'text'), ('feature', 'text'), ('starts_at', 'double'),
            ('full_at', 'double'), ('points', 'double'), ('usual_points', 'double'),
        ],
        'churn_model_bins': [
            ('version', 'integer'), ('bin', 'integer'), ('score_from', 'double'), ('score_below', 'double'),
            ('share', 'double'),
        ],
        'customer_value_parameters': [('version', 'integer'), ('parameter', 'text'), ('value', 'double')],
        'customer_value_scores': [
            ('customer_id', 'text'), ('version', 'integer'), ('as_of_date', 'date'), ('horizon_days', 'integer'),
            ('probability_active', 'double'), ('expected_purchases', 'double'), ('expected_order_value', 'double'),
            ('expected_value', 'double'),
        ],
    }) }}
{%- endmacro %}

{% macro create_learned_tables() -%}
    {%- if execute and flags.WHICH in ('run', 'build') and target.name != 'dev' -%}
        {%- for table, columns in learned_tables().items() -%}
            {%- set relation = api.Relation.create(
                database=target.database, schema=target.schema, identifier=table, type='table'
            ) -%}
            {%- if not load_relation(relation) -%}
                create table if not exists {{ relation }} (
                    {% for name, meaning in columns -%}
                        {{ name }} {{ type_of(meaning) }}{{ ', ' if not loop.last }}
                    {%- endfor %}
                );
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro %}

{# The days that training looks back from, newest first: each lies a horizon before yesterday or further back, so
   that what came after it is known. One row per day in as_of_date. #}
{% macro churn_training_days() -%}
    {%- for number in range(var('churn_training_dates')) -%}
        {%- set days_ago = 1 + var('churn_horizon_days') + number * var('churn_training_step_days') %}
        select {{ cast_to(moved_by(as_of_date(), -days_ago, 'day'), 'date') }} as as_of_date
        {{- ' union all' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}

{# How many days of silence after an as-of day are leaving: as many of the customer's usual gaps as churn_gaps says,
   at least churn_silence_days_min and at most the horizon; the horizon where there is no rhythm yet. #}
{% macro churn_silence_days(features) -%}
    least(
        {{ var('churn_horizon_days') }},
        greatest(
            {{ var('churn_silence_days_min') }},
            coalesce(ceil({{ var('churn_gaps') }} * {{ features }}.typical_gap_days), {{ var('churn_horizon_days') }})
        )
    )
{%- endmacro %}

{# What a customer does who has not left. #}
{% macro is_churn_activity() -%}
    {%- if var('churn_activity_event') -%}
        event = {{ sql_text(var('churn_activity_event')) }}
    {%- else -%}
        is_activity
    {%- endif -%}
{%- endmacro %}
