with

lines as (
    select
        order_id,
        product_id,
        customer_id,
        name,
        purchased_at
    from {{ ref('purchased_products') }}
),

identified_customers as (
    select customer_id
    from {{ ref('customers') }}
    where is_identified
),

products as (
    select
        product_id,
        max(name) as name,
        count(distinct order_id) as orders
    from lines
    group by product_id
),

-- How much each product bought says about the customer today: every order counts, half as much after
-- recommendations_half_life_days before the latest.
bought as (
    select
        customer_id,
        product_id,
        sum(power(0.5, age_seconds / (86400.0 * {{ var('recommendations_half_life_days') }}))) as weight
    from (
        select
            lines.customer_id,
            lines.product_id,
            {{ seconds_between(
                'lines.purchased_at', 'max(lines.purchased_at) over (partition by lines.customer_id)'
            ) }} as age_seconds
        from lines
        inner join identified_customers on lines.customer_id = identified_customers.customer_id
    ) as aged
    group by customer_id, product_id
),

views as (
    select
        timeline.customer_id,
        {{ json_string('timeline.properties', 'product_id') }} as product_id,
        {{ json_string('timeline.properties', 'name') }} as name
    from {{ ref('customer_timeline') }} as timeline
    inner join identified_customers on timeline.customer_id = identified_customers.customer_id
    where
        timeline.event = 'Product Viewed'
        and timeline.event_date <= {{ as_of_date() }}
        and timeline.event_date > {{ cast_to(
            moved_by(as_of_date(), -var('recommendations_looked_at_days'), 'day'), 'date'
        ) }}
),

looks as (
    select
        views.customer_id,
        views.product_id,
        max(views.name) as name,
        count(*) as looks,
        row_number() over (
            partition by views.customer_id
            order by count(*) desc, views.product_id asc
        ) as look_place
    from views
    left join bought on views.customer_id = bought.customer_id and views.product_id = bought.product_id
    where bought.product_id is null and views.product_id is not null
    group by views.customer_id, views.product_id
    having count(*) >= {{ var('recommendations_looked_at_views') }}
),

-- What a customer looked at most and did not buy.
looked_at as (
    select
        customer_id,
        product_id,
        name,
        looks
    from looks
    where look_place = 1
),

-- It says as much as what was bought today.
interests as (
    select
        customer_id,
        product_id,
        weight
    from bought

    union all

    select
        customer_id,
        product_id,
        1 as weight
    from looked_at
),

affinity as (
    select
        product_id,
        also_bought_id,
        confidence
    from {{ ref('product_affinity') }}
),

complements as (
    select
        interests.customer_id,
        affinity.also_bought_id as product_id,
        sum(interests.weight * affinity.confidence) as score,
        {{ latest_value('interests.product_id', 'interests.weight * affinity.confidence') }} as because_of_id
    from interests
    inner join affinity on interests.product_id = affinity.product_id
    group by interests.customer_id, affinity.also_bought_id
),

{% if var('recommendations_rebuy') %}
    most_orders as (
        select max(orders) as orders
        from products
    ),

    -- What the customer buys often and lately, the more so if others buy it often too; and a little for what goes
    -- with the rest of what it buys.
    rebuys as (
        select
            bought.customer_id,
            bought.product_id,
            bought.weight * power(products.orders * 1.0 / most_orders.orders, 0.25)
            + {{ var('recommendations_also_bought_weight') }} * coalesce(complements.score, 0) as score
        from bought
        inner join products on bought.product_id = products.product_id
        cross join most_orders
        left join complements
            on bought.customer_id = complements.customer_id and bought.product_id = complements.product_id
    ),
{% endif %}

popular as (
    select
        product_id,
        row_number() over (order by orders desc, product_id asc) as place
    from products
),

-- Behind everything else come the most popular products, for those with too little history.
candidates as (
    select
        customer_id,
        product_id,
        {% if var('recommendations_rebuy') -%}
            {{ var('recommendations_also_bought_weight') }} * score as score,
        {%- else -%}
            score,
        {%- endif %}
        because_of_id,
        'also_bought' as method
    from complements

    union all

    select
        customer_id,
        product_id,
        looks as score,
        null as because_of_id,
        'looked_at' as method
    from looked_at

    union all

    select
        identified_customers.customer_id,
        popular.product_id,
        -popular.place as score,
        null as because_of_id,
        'popular' as method
    from identified_customers
    cross join popular
    where popular.place <= 3 * {{ var('recommendations_per_customer') }}
),

choices as (
    select
        candidates.customer_id,
        candidates.product_id,
        candidates.score,
        candidates.because_of_id,
        candidates.method
    from candidates
    left join bought on candidates.customer_id = bought.customer_id and candidates.product_id = bought.product_id
    where bought.product_id is null
    {% if var('recommendations_rebuy') %}
        union all

        select
            customer_id,
            product_id,
            score,
            null as because_of_id,
            'bought_again' as method
        from rebuys
    {% endif %}
),

numbered as (
    select
        customer_id,
        product_id,
        score,
        because_of_id,
        method,
        row_number() over (
            partition by customer_id, product_id
            order by case method when 'looked_at' then 0 else 1 end, score desc
        ) as copy_number
    from choices
),

ranked as (
    select
        customer_id,
        product_id,
        score,
        because_of_id,
        method,
        row_number() over (
            partition by customer_id
            order by case method when 'looked_at' then 0 else 1 end, score desc, product_id asc
        ) as place
    from numbered
    where copy_number = 1
)

select
    ranked.customer_id,
    {{ cast_to('ranked.place', 'integer') }} as place,
    ranked.product_id,
    coalesce(products.name, case when ranked.method = 'looked_at' then looked_at.name end) as product_name,
    ranked.method,
    {{ cast_to('case when ranked.score > 0 then ' ~ rounded('ranked.score', 6) ~ ' end', 'double') }} as score,
    case
        when ranked.method = 'looked_at' then 'Looked at ' || {{ cast_to('looked_at.looks', 'text') }} || ' times and not bought'
        when ranked.method = 'also_bought' and ranked.because_of_id = looked_at.product_id
            then 'Goes with ' || coalesce(looked_at.name, looked_at.product_id) || ', which was looked at'
        when ranked.method = 'also_bought' then 'Often bought with ' || coalesce(because.name, ranked.because_of_id)
        when ranked.method = 'bought_again' then 'Bought often or lately'
        else 'Popular with other customers'
    end as reason
from ranked
left join products on ranked.product_id = products.product_id
left join products as because on ranked.because_of_id = because.product_id
left join looked_at on ranked.customer_id = looked_at.customer_id
where ranked.place <= {{ var('recommendations_per_customer') }}
