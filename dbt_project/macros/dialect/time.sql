{% macro timestamp_literal(text) -%}
    {{ return(adapter.dispatch('timestamp_literal')(text)) }}
{%- endmacro %}

{% macro default__timestamp_literal(text) -%}
    cast('{{ text }}{{ "" if "+" in (text | string) or "Z" in (text | string) else "+00" if ":" in (text | string) else " 00:00:00+00" }}' as {{ type_of('timestamp') }})
{%- endmacro %}

{% macro current_utc() -%}
    {{ return(adapter.dispatch('current_utc')()) }}
{%- endmacro %}

{% macro default__current_utc() -%}
    current_timestamp
{%- endmacro %}

{# The calendar day in UTC, whatever the session's time zone. #}
{% macro utc_date(expression) -%}
    {{ return(adapter.dispatch('utc_date')(expression)) }}
{%- endmacro %}

{% macro default__utc_date(expression) -%}
    cast({{ expression }} at time zone 'UTC' as date)
{%- endmacro %}

{% macro snowflake__utc_date(expression) -%}
    cast(convert_timezone('UTC', {{ expression }}) as date)
{%- endmacro %}

{% macro bigquery__utc_date(expression) -%}
    date({{ expression }}, 'UTC')
{%- endmacro %}

{# The hour of the day in UTC, 0 to 23. #}
{% macro utc_hour(expression) -%}
    {{ return(adapter.dispatch('utc_hour')(expression)) }}
{%- endmacro %}

{% macro default__utc_hour(expression) -%}
    cast(extract(hour from {{ expression }} at time zone 'UTC') as integer)
{%- endmacro %}

{% macro snowflake__utc_hour(expression) -%}
    hour(convert_timezone('UTC', {{ expression }}))
{%- endmacro %}

{# Midnight UTC at the start of a day. #}
{% macro day_start(expression) -%}
    {{ return(adapter.dispatch('day_start')(expression)) }}
{%- endmacro %}

{% macro default__day_start(expression) -%}
    cast({{ expression }} as timestamp) at time zone 'UTC'
{%- endmacro %}

{% macro snowflake__day_start(expression) -%}
    to_timestamp_tz({{ expression }}::varchar || ' 00:00:00 +0000')
{%- endmacro %}

{% macro bigquery__day_start(expression) -%}
    timestamp({{ expression }}, 'UTC')
{%- endmacro %}

{# Whole days from one date to a later one. #}
{% macro days_between(earlier, later) -%}
    {{ return(adapter.dispatch('days_between')(earlier, later)) }}
{%- endmacro %}

{% macro default__days_between(earlier, later) -%}
    cast({{ later }} - {{ earlier }} as integer)
{%- endmacro %}

{% macro snowflake__days_between(earlier, later) -%}
    datediff(day, {{ earlier }}, {{ later }})
{%- endmacro %}

{% macro redshift__days_between(earlier, later) -%}
    datediff(day, {{ earlier }}, {{ later }})
{%- endmacro %}

{% macro bigquery__days_between(earlier, later) -%}
    date_diff({{ later }}, {{ earlier }}, day)
{%- endmacro %}

{# Seconds from one moment to a later one, as a whole number. #}
{% macro seconds_between(earlier, later) -%}
    {{ return(adapter.dispatch('seconds_between')(earlier, later)) }}
{%- endmacro %}

{% macro default__seconds_between(earlier, later) -%}
    cast(floor(extract(epoch from {{ later }}) - extract(epoch from {{ earlier }})) as bigint)
{%- endmacro %}

{% macro snowflake__seconds_between(earlier, later) -%}
    datediff(second, {{ earlier }}, {{ later }})
{%- endmacro %}

{% macro bigquery__seconds_between(earlier, later) -%}
    timestamp_diff({{ later }}, {{ earlier }}, second)
{%- endmacro %}

{# Milliseconds since 1970. #}
{% macro epoch_milliseconds(expression) -%}
    {{ return(adapter.dispatch('epoch_milliseconds')(expression)) }}
{%- endmacro %}

{% macro duckdb__epoch_milliseconds(expression) -%}
    epoch_ms({{ expression }})
{%- endmacro %}

{% macro snowflake__epoch_milliseconds(expression) -%}
    date_part(epoch_millisecond, {{ expression }})
{%- endmacro %}

{% macro bigquery__epoch_milliseconds(expression) -%}
    unix_millis({{ expression }})
{%- endmacro %}

{% macro default__epoch_milliseconds(expression) -%}
    cast(floor(extract(epoch from {{ expression }}) * 1000) as bigint)
{%- endmacro %}

{# A moment or a date moved by a number of units (day, hour, minute); negative is earlier. #}
{% macro moved_by(expression, amount, unit) -%}
    {{ return(adapter.dispatch('moved_by')(expression, amount, unit)) }}
{%- endmacro %}

{% macro default__moved_by(expression, amount, unit) -%}
    ({{ expression }} + interval '{{ amount }} {{ unit }}')
{%- endmacro %}

{% macro duckdb__moved_by(expression, amount, unit) -%}
    ({{ expression }} + interval ({{ amount }}) {{ unit }})
{%- endmacro %}

{% macro snowflake__moved_by(expression, amount, unit) -%}
    dateadd({{ unit }}, {{ amount }}, {{ expression }})
{%- endmacro %}

{% macro bigquery__moved_by(expression, amount, unit) -%}
    timestamp_add({{ expression }}, interval {{ amount }} {{ unit }})
{%- endmacro %}

{# A select of one row per date in `day`, from the first to the last, both included. #}
{% macro date_series(first, last) -%}
    {{ return(adapter.dispatch('date_series')(first, last)) }}
{%- endmacro %}

{% macro default__date_series(first, last) -%}
    select cast(moment as date) as day
    from generate_series({{ first }}, {{ last }}, interval '1 day') as days (moment)
{%- endmacro %}

{% macro duckdb__date_series(first, last) -%}
    select cast(moment as date) as day
    from generate_series(cast({{ first }} as timestamp), cast({{ last }} as timestamp), interval 1 day) as days (moment)
{%- endmacro %}

{% macro bigquery__date_series(first, last) -%}
    select day from unnest(generate_date_array({{ first }}, {{ last }})) as day
{%- endmacro %}

{% macro snowflake__date_series(first, last) -%}
    select dateadd(day, row_number() over (order by seq4()) - 1, {{ first }}) as day
    from table(generator(rowcount => 4000))
    qualify day <= {{ last }}
{%- endmacro %}
