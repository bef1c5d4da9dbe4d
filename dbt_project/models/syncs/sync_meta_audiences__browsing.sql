with

browsing as (
    select distinct customer_id
    from {{ ref('browsed_not_bought') }}
    where expires_at > {{ as_of_ts() }}
),

customers as (
    select
        customer_id,
        email
    from {{ ref('customers') }}
    where email is not null
),

-- Where several people share one address, the audience has it once.
members as (
    select
        customers.customer_id,
        customers.email,
        row_number() over (partition by customers.email order by customers.customer_id) as place
    from browsing
    inner join customers on browsing.customer_id = customers.customer_id
)

select
    customer_id,
    email
from members
where place = 1
