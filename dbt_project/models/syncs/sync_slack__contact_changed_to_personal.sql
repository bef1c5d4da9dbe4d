with

signals as (
    select
        customer_id,
        trigger_id,
        fired_at,
        expires_at,
        payload
    from {{ ref('contact_changed_to_personal') }}
    where expires_at > {{ as_of_ts() }}
),

customers as (
    select
        customer_id,
        user_id,
        name
    from {{ ref('customers') }}
),

members as (
    select
        account_id,
        customer_id
    from {{ ref('account_members') }}
),

account_sizes as (
    select
        account_id,
        count(*) as members
    from members
    group by account_id
),

accounts as (
    select
        members.customer_id,
        accounts.name,
        accounts.mrr,
        account_sizes.members,
        row_number() over (
            partition by members.customer_id
            order by coalesce(accounts.mrr, 0) desc, accounts.account_id asc
        ) as place
    from members
    inner join {{ ref('accounts') }} as accounts on members.account_id = accounts.account_id
    inner join account_sizes on members.account_id = account_sizes.account_id
    where members.customer_id in (select signals.customer_id from signals)
)

select
    signals.customer_id,
    signals.trigger_id,
    signals.fired_at,
    signals.expires_at,
    '{{ var("slack_channel") }}' as channel,
    coalesce(
        customers.name, {{ json_string('signals.payload', 'previous_email') }}, customers.user_id
    ) as customer_name,
    {{ json_string('signals.payload', 'email') }} as email,
    {{ json_string('signals.payload', 'previous_email') }} as previous_email,
    {{ json_string('signals.payload', 'previous_domain') }} as previous_domain,
    accounts.name as account_name,
    accounts.mrr,
    {{ cast_to('accounts.members - 1', 'integer') }} as other_members
from signals
inner join customers on signals.customer_id = customers.customer_id
left join accounts on signals.customer_id = accounts.customer_id and accounts.place = 1
