{{ config(materialized='incremental', incremental_strategy='by_customer') }}

with

touched_customers as (
    {{ touched_customers() }}
),

ids as (
    select
        identity_map.id_key,
        identity_map.customer_id,
        identity_map.id_kind,
        identity_map.id_value,
        identity_map.kind_rank,
        identity_map.first_event_at,
        identity_map.first_seen_at,
        identity_map.is_identified
    from {{ rebuilt('identity_map') }} as identity_map
    inner join touched_customers on identity_map.customer_id = touched_customers.customer_id
),

{{ customers_of_ids() }}
