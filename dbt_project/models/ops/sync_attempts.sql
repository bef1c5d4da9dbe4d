{{ config(
    materialized='incremental',
    incremental_strategy='delete+insert',
    unique_key='attempt_id',
    tags=['after_sync'],
) }}

select
    attempt_id,
    action_key,
    sync,
    attempt,
    payload_hash,
    outcome,
    reason,
    status_code,
    latency_ms,
    started_at,
    finished_at
from {{ source('ledger', 'attempts') }}
{% if is_incremental() %}
    -- Numbers are given out before the commit, so that a late one may be lower than those seen.
    where attempt_id > {{ newest('attempt_id') or 0 }} - 10000
{% endif %}
