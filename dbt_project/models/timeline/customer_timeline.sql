{{ config(meta={'laid_out_by': ['customer_id', 'event_number']}) }}

with

touched_customers as (
    {{ touched_customers() }}
),

ids as (
    select
        identity_map.id_key,
        identity_map.customer_id
    from {{ rebuilt('identity_map') }} as identity_map
    inner join touched_customers on identity_map.customer_id = touched_customers.customer_id
),

{% if is_incremental() %}
    -- A new customer may hold events of several former ones.
    former_names as (
        select distinct timeline.customer_id
        from {{ this }} as timeline
        where timeline.customer_id in (select solo_customer_id from {{ rebuilt('identity_map') }} where {{ is_touched() }})
    ),

    -- Those of the micro-batch come from stg_events; those before are in this table, where they lie by customer.
    known_events as (
        select
            ids.customer_id,
            timeline.event_id,
            timeline.log_seq,
            timeline.id_key,
            timeline.source,
            timeline.type,
            timeline.event,
            timeline.event_at,
            timeline.event_date,
            timeline.received_at,
            timeline.page_path,
            timeline.properties,
            timeline.channel,
            timeline.device,
            timeline.is_activity
        from {{ this }} as timeline
        inner join former_names on timeline.customer_id = former_names.customer_id
        inner join ids on timeline.id_key = ids.id_key
        where timeline.log_seq <= {{ watermark() }}
    ),
{% endif %}

timeline as (
    with

    {{ timeline_of_ids(
        known='events.log_seq > ' ~ watermark() if is_incremental() else none,
        kept='known_events' if is_incremental() else none,
    ) }}
)

select
    timeline.customer_id,
    timeline.event_number,
    timeline.event_id,
    timeline.log_seq,
    timeline.event_at,
    timeline.event_date,
    timeline.received_at,
    timeline.id_key,
    timeline.source,
    timeline.type,
    timeline.event,
    timeline.is_activity,
    timeline.previous_session_ended_at,
    timeline.session_number,
    timeline.session_id,
    timeline.is_session_start,
    timeline.channel,
    timeline.device,
    timeline.page_path,
    timeline.properties,
    touched_customers.changed_seq
from timeline
inner join touched_customers on timeline.customer_id = touched_customers.customer_id
{{ laid_out() }}
