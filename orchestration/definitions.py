"""Everything Dagster knows: one graph from the event log to the CRM, and what sets it in motion."""

from __future__ import annotations

from dagster import Definitions

from orchestration import dbt, jobs, sensors
from orchestration.assets import hot, ingest, learning, models, syncs
from orchestration.settings import Settings, load_settings


def build_definitions(settings: Settings) -> Definitions:
    """Assets, jobs, sensors and schedules for this home."""
    manifest = dbt.manifest(settings)
    every_batch, after_sync = models.build_model_assets(manifest)
    sync_assets = syncs.build_sync_assets(manifest)
    tables = ingest.build_source_assets()
    return Definitions(
        assets=[
            *ingest.build_producer_assets(settings),
            ingest.load_events,
            hot.SPEC,
            models.WATERMARKS,
            models.LATENCY,
            tables,
            every_batch,
            sync_assets,
            after_sync,
            learning.churn_model,
            learning.customer_value_model,
        ],
        asset_checks=[ingest.micro_batch_keeps_up, *hot.CHECKS],
        jobs=[
            *jobs.build_asset_jobs(manifest, tables, every_batch, after_sync, sync_assets),
            jobs.maintenance,
        ],
        sensors=[
            sensors.new_events,
            sensors.due_deliveries,
            sensors.build_source_sensor(settings),
        ],
        schedules=sensors.SCHEDULES,
    )


defs = build_definitions(load_settings())
