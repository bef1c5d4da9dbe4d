"""The jobs: which assets run together. Each run is one process, so that nothing is paid twice."""

from collections.abc import Mapping, Sequence
from typing import Any

from dagster import (
    AssetsDefinition,
    AssetSelection,
    OpExecutionContext,
    define_asset_job,
    in_process_executor,
    job,
    op,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from orchestration import activate, lake
from orchestration import ingest as ingest_room
from orchestration.assets import hot, ingest, learning, models
from orchestration.settings import load_settings

MICRO_BATCH = models.MICRO_BATCH
DELIVER = "deliver"
SOURCES = "sources"
RESULTS = models.RESULTS
DAILY = models.DAILY
TRAINING = "training"
MAINTENANCE = "maintenance"


def build_asset_jobs(
    manifest: Mapping[str, Any],
    tables: AssetsDefinition,
    every_batch: AssetsDefinition,
    after_sync: AssetsDefinition,
    syncs: AssetsDefinition,
) -> Sequence[UnresolvedAssetJobDefinition]:
    """The jobs over the asset graph."""
    all_models = AssetSelection.assets(*every_batch.keys)
    batch_models = AssetSelection.assets(*models.batch_keys(manifest, every_batch))
    lag = AssetSelection.checks(ingest.micro_batch_keeps_up)
    load = AssetSelection.assets(ingest.EVENTS, ingest.QUARANTINE) - lag
    act = AssetSelection.assets(*syncs.keys)
    results = AssetSelection.assets(*after_sync.keys)

    def without_checks(selection: AssetSelection) -> AssetSelection:
        return selection - AssetSelection.checks_for_assets(*every_batch.keys, *after_sync.keys)

    guards = AssetSelection.checks(*models.batch_checks(manifest, every_batch))
    return [
        _one_process(
            MICRO_BATCH,
            load | without_checks(batch_models) | guards | act,
            "Loads what the log has grown by, rebuilds the customers it touched, and acts.",
        ),
        _one_process(DELIVER, act, "Sends again what is due."),
        _one_process(
            RESULTS,
            without_checks(results) | lag | AssetSelection.checks(*hot.KEEPS_UP),
            "Brings the ledger's outcomes into the lake, and looks whether a lane lags.",
        ),
        _one_process(
            SOURCES,
            AssetSelection.assets(*tables.keys),
            "Reads CRM, help desk and the like.",
        ),
        _one_process(
            DAILY,
            load | all_models | act | results | AssetSelection.checks(*hot.AGREES),
            "Loads, builds and tests everything, also what a micro-batch leaves out, and acts.",
        ),
        _one_process(
            TRAINING,
            AssetSelection.assets(*learning.churn_model.keys, *learning.customer_value_model.keys),
            "Learns from what became of past customers, and scores anew if that is better.",
        ),
    ]


def _one_process(
    name: str, selection: AssetSelection, description: str
) -> UnresolvedAssetJobDefinition:
    return define_asset_job(
        name, selection=selection, description=description, executor_def=in_process_executor
    )


@op(description="Merges small files, drops old snapshots, removes the files nobody reads.")
def maintain_lake(context: OpExecutionContext) -> None:
    settings = load_settings()
    report = lake.maintain(
        settings,
        models.layouts(settings),
        holder=f"maintenance {context.run_id[:8]}",
        on_wait=context.log.info,
    )
    context.add_output_metadata(report)


@op(description="Deletes the event log's old segments, if the warehouse holds them.")
def trim_log(context: OpExecutionContext) -> None:
    context.add_output_metadata(ingest_room.trim_log(load_settings()))


@op(description="Forgets what was in actions that are long finished; their keys stay for good.")
def trim_ledger(context: OpExecutionContext) -> None:
    context.add_output_metadata(activate.trim_ledger(load_settings()))


@job(name=MAINTENANCE, executor_def=in_process_executor)
def maintenance() -> None:
    """Keeps the lake fast, whose small files grow with every micro-batch, log and ledger small."""
    trim_log()
    trim_ledger()
    maintain_lake()
