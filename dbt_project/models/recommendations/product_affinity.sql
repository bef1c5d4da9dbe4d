with

lines as (
    select
        order_id,
        product_id,
        name
    from {{ ref('purchased_products') }}
),

all_orders as (
    select count(distinct order_id) as orders
    from lines
),

product_orders as (
    select
        product_id,
        max(name) as name,
        count(*) as orders
    from lines
    group by product_id
    having count(*) >= {{ var('affinity_min_orders') }}
),

frequent_lines as (
    select
        lines.order_id,
        lines.product_id,
        product_orders.name,
        product_orders.orders
    from lines
    inner join product_orders on lines.product_id = product_orders.product_id
),

pairs as (
    select
        bought.product_id,
        also.product_id as also_bought_id,
        also.name as also_bought_name,
        bought.orders as product_orders,
        also.orders as also_bought_orders,
        count(*) as orders_together
    from frequent_lines as bought
    inner join frequent_lines as also on bought.order_id = also.order_id and bought.product_id <> also.product_id
    group by bought.product_id, also.product_id, also.name, bought.orders, also.orders
    having count(*) >= {{ var('affinity_min_orders') }}
),

rules as (
    select
        pairs.product_id,
        pairs.also_bought_id,
        pairs.also_bought_name,
        pairs.orders_together,
        pairs.product_orders,
        {{ cast_to('pairs.orders_together * 1.0 / all_orders.orders', 'double') }} as support,
        {{ cast_to('pairs.orders_together * 1.0 / pairs.product_orders', 'double') }} as confidence,
        {{ cast_to(
            'pairs.orders_together * 1.0 * all_orders.orders / (pairs.product_orders * pairs.also_bought_orders)',
            'double'
        ) }} as lift
    from pairs
    cross join all_orders
),

-- Confidence alone prefers what everybody buys, lift alone what hardly anybody does: their product weighs both.
ranked as (
    select
        product_id,
        also_bought_id,
        also_bought_name,
        orders_together,
        product_orders,
        support,
        confidence,
        lift,
        row_number() over (
            partition by product_id
            order by confidence * lift desc, orders_together desc, also_bought_id asc
        ) as place
    from rules
    where
        lift >= {{ var('affinity_min_lift') }}
        and support >= {{ var('affinity_min_support') }}
)

select
    product_id,
    also_bought_id,
    also_bought_name,
    {{ cast_to('place', 'integer') }} as place,
    orders_together,
    product_orders,
    support,
    confidence,
    lift
from ranked
where place <= {{ var('affinity_rules_per_product') }}
