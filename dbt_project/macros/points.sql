{# Scores by points: each rule (feature, starts_at, full_at, points) looks at one feature, and the logistic of the sum of
   the points is the score. #}

{# The feature that a rule names, as a number; null where it is unknown. 'always' is 1. #}
{% macro feature_of_rule(features, rules, names) -%}
    case {{ rules }}.feature
        {% for name in names -%}
            when '{{ name }}' then {{ features }}.{{ name }}
        {% endfor -%}
        when 'always' then 1
    end
{%- endmacro %}

{# Points grow in a straight line from none at starts_at to all at full_at. An unknown value gives none. #}
{% macro points_for(value, rules) -%}
    {{ rules }}.points * coalesce(least(greatest(
        ({{ value }} - {{ rules }}.starts_at) / ({{ rules }}.full_at - {{ rules }}.starts_at), 0
    ), 1), 0)
{%- endmacro %}
