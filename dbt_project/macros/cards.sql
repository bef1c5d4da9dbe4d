{# The features of a payment that a rule of card_fraud_rules may look at. #}
{% macro card_feature_names() -%}
    {{ return([
        'travel_kmh', 'is_new_country', 'amount_to_usual_high', 'spent_24h_to_usual', 'payments_1h',
        'other_categories_pct', 'other_hours_pct',
    ]) }}
{%- endmacro %}

{% macro card_feature_value(payments, rules) -%}
    {{ feature_of_rule(payments, rules, card_feature_names()) }}
{%- endmacro %}

{% macro card_points(payments, rules) -%}
    {{ rounded(points_for(card_feature_value(payments, rules), rules), 6) }}
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
