{% test expression_is_true(model, expression, column_name=none) %}
    select 1 as failing_row
    from {{ model }}
    where not coalesce({{ expression }}, false)
{% endtest %}

{# Of a table by customer and day, which is large, only the day that others act on. #}
{% test unique_on_latest_day(model, column_name) %}
    select {{ column_name }}
    from {{ model }}
    where as_of_date = (select max(latest.as_of_date) from {{ model }} as latest)
    group by {{ column_name }}
    having count(*) > 1
{% endtest %}

{% test unique_together(model, columns) %}
    select {{ columns | join(', ') }}
    from {{ model }}
    group by {{ columns | join(', ') }}
    having count(*) > 1
{% endtest %}
