"""The raw layer's assets: what dlt loads from the log and from sources that are tables."""

from collections.abc import Iterator
from datetime import UTC, datetime

from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetObservation,
    AssetsDefinition,
    AssetSpec,
    MaterializeResult,
    asset_check,
    multi_asset,
)

from ingestion.sources import refreshed
from orchestration import ingest, lake
from orchestration.settings import Settings, load_settings
from orchestration.supervisor import port_answers

EVENT_LOG = AssetSpec(
    "event_log",
    description="Append-only, checksummed segments that the collector fsyncs before it answers.",
    group_name="producers",
    kinds={"file"},
)
EVENTS = AssetKey(["raw", "events"])
QUARANTINE = AssetKey(["raw", "quarantine"])
LAG_SECONDS = 60.0


def build_producer_assets(settings: Settings) -> list[AssetSpec]:
    """The event log, and upstream of it the brokers and vendors that are switched on."""
    sources = [*ingest.pulled(settings), *ingest.called(settings)]
    producers = [
        AssetSpec(producer_key(source.name), description=source.description, group_name="producers")
        for source in sources
    ]
    return [*producers, EVENT_LOG.replace_attributes(deps=[spec.key for spec in producers])]


def producer_key(source: str) -> AssetKey:
    """The asset of a source that brings events."""
    return AssetKey(["sources", source])


@multi_asset(
    name="load_events",
    specs=[
        AssetSpec(
            EVENTS,
            deps=[EVENT_LOG.key],
            description="Every accepted event, whole, in the order it was accepted.",
        ),
        AssetSpec(
            QUARANTINE,
            deps=[EVENT_LOG.key],
            description="What broke the contract, whole, with the reason.",
        ),
    ],
    check_specs=[
        AssetCheckSpec(
            "nothing_left_behind",
            asset=EVENTS,
            description="Events and quarantine together are all records the log held.",
        )
    ],
    group_name="raw",
    compute_kind="dlt",
)
def load_events(
    context: AssetExecutionContext,
) -> Iterator[MaterializeResult[None] | AssetCheckResult | AssetObservation]:
    """Load what the log has grown by since the last load."""
    settings = load_settings()
    with lake.writer(
        settings, f"load {context.run_id[:8]}", wait_seconds=600, on_wait=context.log.info
    ):
        result = ingest.loader(settings).load()
    read = result.next_seq - result.first_seq
    yield AssetObservation(EVENT_LOG.key, metadata={"log_seq": result.next_seq})
    for report in ingest.source_reports(settings):
        if report["kind"] == "pull":
            known = {name: report.get(name) for name in ("lag", "waiting", "acknowledged", "at")}
            yield AssetObservation(
                producer_key(report["source"]),
                metadata={name: value for name, value in known.items() if value is not None},
            )
    yield MaterializeResult(
        asset_key=EVENTS,
        metadata={
            "dagster/row_count": result.events,
            "first_log_seq": result.first_seq,
            "next_log_seq": result.next_seq,
            "seconds": round(result.seconds, 3),
        },
    )
    yield MaterializeResult(
        asset_key=QUARANTINE, metadata={"dagster/row_count": result.quarantined}
    )
    yield AssetCheckResult(
        check_name="nothing_left_behind",
        asset_key=EVENTS,
        passed=result.events + result.quarantined == read,
        metadata={"log_records": read, "rows": result.events + result.quarantined},
    )


@asset_check(
    asset=EVENTS,
    name="micro_batch_keeps_up",
    description="No accepted event waits for more than a minute to be loaded.",
)
def micro_batch_keeps_up() -> AssetCheckResult:
    """Run by a job of its own, once a minute: it must speak up when the micro-batch does not."""
    since = ingest.waiting_since(load_settings())
    waited = (datetime.now(UTC) - since).total_seconds() if since else 0.0
    return AssetCheckResult(
        passed=waited <= LAG_SECONDS, metadata={"oldest_waits_seconds": round(waited, 1)}
    )


def build_source_assets() -> AssetsDefinition:
    """One asset for each source that is a table, and the run that reads those in use."""
    known = refreshed()

    @multi_asset(
        name="load_sources",
        specs=[
            AssetSpec(["raw", source.table], description=source.description, skippable=True)
            for source in known
        ],
        can_subset=True,
        group_name="raw",
        compute_kind="dlt",
    )
    def load_sources(context: AssetExecutionContext) -> Iterator[MaterializeResult[None]]:
        """Read the sources through their APIs."""
        settings = load_settings()
        with_sandbox = port_answers(settings.host, settings.sandbox_port)
        for source in ingest.refreshable(settings, with_sandbox=with_sandbox):
            key = AssetKey(["raw", source.table])
            if key in context.selected_asset_keys:
                rows = ingest.refresh(settings, source, on_wait=context.log.info)
                yield MaterializeResult(asset_key=key, metadata={"dagster/row_count": rows})

    return load_sources
