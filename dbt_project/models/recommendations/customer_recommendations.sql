with

lines as (
    select
        order_id,
        product_id,
        customer_id,
        name
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

bought as (
    select distinct
        lines.customer_id,
        lines.product_id
    from lines
    inner join identified_customers on lines.customer_id = identified_customers.customer_id
),

affinity as (
    select
        product_id,
        also_bought_id,
        confidence,
        row_number() over (
            partition by product_id
            order by confidence desc, lift desc, also_bought_id asc
        ) as place
    from {{ ref('product_affinity') }}
    where lift > 1
),

-- The chance that at least one of the products bought brings this one along.
complements as (
    select
        bought.customer_id,
        affinity.also_bought_id as product_id,
        1 - exp(sum(ln(1 - least(affinity.confidence, 0.99)))) as score,
        {{ latest_value('bought.product_id', 'affinity.confidence') }} as because_of_id
    from bought
    inner join affinity on bought.product_id = affinity.product_id and affinity.place <= 20
    group by bought.customer_id, affinity.also_bought_id
),

popular as (
    select
        product_id,
        row_number() over (order by orders desc, product_id asc) as place
    from products
),

-- Behind every complement come the most popular products, for those with too little history.
candidates as (
    select
        customer_id,
        product_id,
        score,
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

not_bought as (
    select
        candidates.customer_id,
        candidates.product_id,
        candidates.score,
        candidates.because_of_id,
        candidates.method,
        row_number() over (
            partition by candidates.customer_id, candidates.product_id
            order by candidates.score desc
        ) as copy_number
    from candidates
    left join bought on candidates.customer_id = bought.customer_id and candidates.product_id = bought.product_id
    where bought.product_id is null
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
    from not_bought
    where copy_number = 1
)

select
    ranked.customer_id,
    {{ cast_to('ranked.place', 'integer') }} as place,
    ranked.product_id,
    products.name as product_name,
    ranked.method,
    {{ cast_to('case when ranked.score > 0 then round(ranked.score, 6) end', 'double') }} as score,
    case ranked.method
        when 'also_bought' then 'Often bought with ' || coalesce(because.name, ranked.because_of_id)
        else 'Popular with other customers'
    end as reason
from ranked
inner join products on ranked.product_id = products.product_id
left join products as because on ranked.because_of_id = because.product_id
where ranked.place <= {{ var('recommendations_per_customer') }}
