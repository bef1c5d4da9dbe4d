{# The syncs whose YAML names an outcome, with it and its window: [{sync, outcome, window_seconds}], by name. #}
{% macro measured_syncs() -%}
    {%- set units = {'s': 1, 'm': 60, 'h': 3600, 'd': 86400} -%}
    {%- set found = [] -%}
    {%- if execute -%}
        {%- for node in graph.nodes.values() if node.resource_type == 'model' and node.name.startswith('sync_') -%}
            {%- set sync = node.config.meta.get('sync', {}) -%}
            {%- if sync.get('outcome') -%}
                {%- set window = sync.get('outcome_window', '7d') | trim -%}
                {%- do found.append({
                    'sync': node.name[5:],
                    'outcome': sync['outcome'],
                    'window_seconds': (window[:-1] | int) * units[window[-1]],
                }) -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{ return(found | sort(attribute='sync')) }}
{%- endmacro %}

{# One end of the 95 % score interval of a rate: E. B. Wilson, Probable inference, the law of succession, and
   statistical inference, JASA 22 (1927) 209-212. `sign` is -1 for the lower end, 1 for the upper; null for no trials. #}
{% macro wilson_bound(successes, trials, sign) -%}
    {%- set n = 'nullif(' ~ cast_to(trials, 'double') ~ ', 0)' -%}
    {%- set z2 = '3.841458820694124' -%}
    {%- set p = '(' ~ successes ~ ' / ' ~ n ~ ')' -%}
    (({{ p }} + {{ z2 }} / (2 * {{ n }}))
        + ({{ sign }}) * sqrt({{ z2 }} * ({{ p }} * (1 - {{ p }}) / {{ n }} + {{ z2 }} / (4 * {{ n }} * {{ n }}))))
    / (1 + {{ z2 }} / {{ n }})
{%- endmacro %}
