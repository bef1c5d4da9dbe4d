{# The feature of a payment that a rule of card_fraud_rules names, as a number; null where it is unknown. #}
{% macro card_feature_value(payments, rules) -%}
    case {{ rules }}.feature
        {% for name in [
            'travel_kmh', 'is_new_country', 'amount_to_usual_high', 'spent_24h_to_usual', 'payments_1h',
            'other_categories_pct', 'other_hours_pct',
        ] -%}
            when '{{ name }}' then {{ payments }}.{{ name }}
        {% endfor -%}
        when 'always' then 1
    end
{%- endmacro %}

{# Points grow in a straight line from none at starts_at to all at full_at. An unknown feature gives none. #}
{% macro card_points(payments, rules) -%}
    {%- set share = '(' ~ card_feature_value(payments, rules) ~ ' - ' ~ rules ~ '.starts_at) / (' ~ rules ~ '.full_at - ' ~ rules ~ '.starts_at)' -%}
    {{ rounded(rules ~ '.points * coalesce(least(greatest(' ~ share ~ ', 0), 1), 0)', 6) }}
{%- endmacro %}

{# Kilometres between two positions in degrees, along the surface of the earth (haversine, radius 6,371 km); null
   where one is not known. BigQuery has no radians(), DuckDB's least() skips what is null. #}
{% macro kilometres_between(lat_1, lon_1, lat_2, lon_2) -%}
    {%- set radian = '0.017453292519943295' -%}
    case
        when {{ lat_1 }} is not null and {{ lon_1 }} is not null and {{ lat_2 }} is not null and {{ lon_2 }} is not null
            then 2 * 6371 * asin(sqrt(least(1,
                power(sin(({{ lat_2 }} - {{ lat_1 }}) * {{ radian }} / 2), 2)
                + cos({{ lat_1 }} * {{ radian }}) * cos({{ lat_2 }} * {{ radian }})
                * power(sin(({{ lon_2 }} - {{ lon_1 }}) * {{ radian }} / 2), 2)
            )))
    end
{%- endmacro %}
