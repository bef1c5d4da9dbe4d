with

touched_customers as (
    {{ touched_customers() }}
),

ids as (
    select
        identity_map.id_key,
        identity_map.customer_id
    from {{ ref('identity_map') }} as identity_map
    inner join touched_customers on identity_map.customer_id = touched_customers.customer_id
),

{{ timeline_of_ids() }}
