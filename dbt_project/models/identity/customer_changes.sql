with

identity_map as (
    select
        customer_id,
        changed_seq
    from {{ ref('identity_map') }}
)

select
    customer_id,
    max(changed_seq) as changed_seq
from identity_map
group by customer_id
