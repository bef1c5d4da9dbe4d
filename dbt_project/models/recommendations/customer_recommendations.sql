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

affinity as (
    select
        product_id,
        also_bought_id,
        confidence
    from {{ ref('product_affinity') }}
),

complements as (
    select
        bought.customer_id,
        affinity.also_bought_id as product_id,
        sum(bought.weight * affinity.confidence) as score,
        {{ latest_value('bought.product_id', 'bought.weight * affinity.confidence') }} as because_of_id
    from bought
    inner join affinity on bought.product_id = affinity.product_id
    group by bought.customer_id, affinity.also_bought_id
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
            order by score desc
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
            order by score desc, product_id asc
        ) as place
    from numbered
    where copy_number = 1
)

select
    ranked.customer_id,
    {{ cast_to('ranked.place', 'integer') }} as place,
    ranked.product_id,
    products.name as product_name,
    ranked.method,
    {{ cast_to('case when ranked.score > 0 then ' ~ rounded('ranked.score', 6) ~ ' end', 'double') }} as score,
    case ranked.method
        when 'also_bought' then 'Often bought with ' || coalesce(because.name, ranked.because_of_id)
        when 'bought_again' then 'Bought often or lately'
        else 'Popular with other customers'
    end as reason
from ranked
inner join products on ranked.product_id = products.product_id
left join products as because on ranked.because_of_id = because.product_id
where ranked.place <= {{ var('recommendations_per_customer') }}
