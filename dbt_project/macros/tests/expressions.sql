{% test expression_is_true(model, expression, column_name=none) %}
    select 1 as failing_row
    from {{ model }}
    where not coalesce({{ expression }}, false)
{% endtest %}

{% test unique_together(model, columns) %}
    select {{ columns | join(', ') }}
    from {{ model }}
    group by {{ columns | join(', ') }}
    having count(*) > 1
{% endtest %}
