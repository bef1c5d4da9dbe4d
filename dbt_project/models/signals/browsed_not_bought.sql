with

spells as (
    select
        customer_id,
        topic,
        fired_at,
        category,
        product_id,
        product_name,
        price,
        currency,
        views,
        seconds,
        bought_at,
        {{ moved_by('fired_at', var('browsed_not_bought_expires_hours'), 'hour') }} as stale_at
    from {{ ref('browsing_spells') }}
),

complements as (
    select
        product_id,
        also_bought_id,
        also_bought_name,
        row_number() over (
            partition by product_id
            order by confidence desc, lift desc, also_bought_id asc
        ) as place
    from {{ ref('product_affinity') }}
    where lift > 1
)

select
    spells.customer_id,
    'browsed_not_bought' as signal,
    spells.topic || ':' || {{ cast_to(epoch_milliseconds('spells.fired_at'), 'text') }} as trigger_id,
    spells.fired_at,
    -- Bought after all: nobody's business any more.
    least(spells.stale_at, coalesce(spells.bought_at, spells.stale_at)) as expires_at,
    {{ json_build({
        'topic': 'spells.topic',
        'category': 'spells.category',
        'product_id': 'spells.product_id',
        'product_name': 'spells.product_name',
        'price': 'spells.price',
        'currency': 'spells.currency',
        'views': 'spells.views',
        'seconds': 'spells.seconds',
        'complement_id': 'complements.also_bought_id',
        'complement_name': 'complements.also_bought_name',
    }) }} as payload
from spells
left join complements on spells.product_id = complements.product_id and complements.place = 1
