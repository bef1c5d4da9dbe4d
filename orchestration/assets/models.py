"""dbt's models as assets and dbt's tests as their checks, run by dbt inside the run's process."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    AssetsDefinition,
    AssetSpec,
    DagsterInstance,
    MaterializeResult,
    MetadataValue,
)
from dagster._core.instance.ref import InstanceRef
from dagster_dbt import DagsterDbtTranslator, dbt_assets
from dagster_dbt.asset_utils import get_asset_check_key_for_test, get_subset_selection_for_context
from dagster_dbt.core.dbt_cli_event import DbtCoreCliEventMessage

from orchestration import dbt, ingest, lake, lanes
from orchestration.hot import reporting
from orchestration.settings import ROOT, Settings, load_settings

AFTER_SYNC = "tag:after_sync"
WATERMARKS = AssetSpec(
    AssetKey(["builds", "build_watermarks"]),
    description="How far each model has read, noted by every build.",
    group_name="ops",
    kinds={"dbt", "duckdb"},
)
LATENCY = AssetSpec(
    AssetKey(["lanes", "latency"]),
    deps=[AssetKey(["ledger", "actions"]), AssetKey(list(reporting.ACTIONS))],
    description=(
        "Seconds from event to action in the last hour, of both lanes and each signal, what waits "
        "and what was dropped. One event here each minute."
    ),
    group_name="ops",
)
MICRO_BATCH = "micro_batch"
RESULTS = "results"
DAILY = "daily"
# Jobs whose models are incremental or views. Others hold tables, and to swap one takes commits.
ONE_TRANSACTION = {MICRO_BATCH, RESULTS}


class _Translator(DagsterDbtTranslator):  # type: ignore[misc]
    """Groups assets as the project's folders do; everything else is dagster-dbt's default."""

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str | None:
        return str(dbt_resource_props["fqn"][1]) if len(dbt_resource_props["fqn"]) > 2 else "seeds"

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> AssetKey:
        key = super().get_asset_key(dbt_resource_props)
        return AssetKey(["seeds", *key.path]) if _is_seed(dbt_resource_props) else key


_translator = _Translator()


def _is_seed(props: Mapping[str, Any]) -> bool:
    return bool(props["resource_type"] == "seed")


def batch_keys(manifest: Mapping[str, Any], assets: AssetsDefinition) -> set[AssetKey]:
    """The models that every micro-batch builds.

    Not seeds and what is tagged `daily`; and no views, which show new rows without being built.
    The views of the syncs belong to it, so that the graph of the job leads to the syncs.
    """
    chosen = {
        _translator.get_asset_key(node)
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model"
        and "daily" not in node.get("tags", [])
        and (not _is_view(node) or node["fqn"][1] == "syncs")
    }
    return set(assets.keys) & chosen


def _is_view(node: Mapping[str, Any]) -> bool:
    return bool(node["resource_type"] == "model" and node["config"]["materialized"] == "view")


def batch_checks(manifest: Mapping[str, Any], assets: AssetsDefinition) -> list[AssetCheckKey]:
    """The tests tagged `micro_batch`, which guard every batch; the others run daily."""
    keys = (
        get_asset_check_key_for_test(manifest, _translator, unique_id, project=None)
        for unique_id, node in manifest["nodes"].items()
        if node["resource_type"] == "test" and "micro_batch" in node.get("tags", [])
    )
    return [key for key in keys if key is not None and key in assets.check_keys]


def outdated(settings: Settings, columns: Mapping[str, Collection[str]]) -> list[str]:
    """Names of the models that are tables and must be built whole: new ones, and those that lack a
    column which this version declares. `columns` are the present ones of each table by name.
    """
    return [
        node["name"]
        for node in dbt.manifest(settings)["nodes"].values()
        if node["resource_type"] == "model"
        and node["config"]["materialized"] != "view"
        and not set(node["columns"]) <= set(columns.get(node["name"], ()))
    ]


def stale(settings: Settings) -> dict[str, list[str]]:
    """Incremental models whose earlier rows are not as the working tree has them, and why.

    Names of models with those of the edits since the last build of all: of the model itself, or of
    a seed or a view above it. Models that a new day recomputes mend themselves and are left out.

    Raises:
        DbtFailed: with dbt's words.
    """
    parsed = dbt.manifest(settings)
    nodes, found = parsed["nodes"], dict[str, set[str]]()
    ids = {node["name"]: one for one, node in nodes.items() if node["resource_type"] != "test"}
    for name in dbt.modified(settings) or ():
        if name not in ids:
            continue  # a draft, and this process goes by the project as it was when it began
        todo, seen = [ids[name]], {ids[name]}
        while todo:
            node = nodes[todo.pop()]
            if node["config"]["materialized"] != "incremental":
                fresh = {one for one in parsed["child_map"][node["unique_id"]] if one in nodes}
                todo += fresh - seen
                seen |= fresh
            elif not node["config"].get("meta", {}).get("rolls_daily"):
                found.setdefault(node["name"], set()).add(name)
    return {name: sorted(edits) for name, edits in sorted(found.items())}


def layouts(settings: Settings) -> dict[str, list[str]]:
    """The columns in whose order the rows of a table are to lie, of those that say so."""
    return {
        node["name"]: node["config"]["meta"]["laid_out_by"]
        for node in dbt.manifest(settings)["nodes"].values()
        if "laid_out_by" in node["config"].get("meta", {})
    }


def build(
    args: Sequence[str], settings: Settings, *, as_of: datetime | None = None
) -> Iterator[dict[str, Any]]:
    """Run `dbt build` outside a Dagster run, and tell Dagster what it built and tested.

    Yields dbt's events as they happen, so that whoever waits can see progress.

    Raises:
        DbtFailed: at the end, if a node failed; what was built before is told nevertheless.
    """
    parsed = dbt.manifest_path(settings)
    manifest = dbt.manifest(settings)
    instance = DagsterInstance.from_ref(InstanceRef.from_dir(str(ROOT)))
    events = []
    try:
        for event in dbt.stream(["build", *args], settings, as_of=as_of):
            events.append(event)
            yield event
        # Rows that an edit has not reached yet are still those of the build before.
        if "--select" not in args and ("--full-refresh" in args or not stale(settings)):
            dbt.keep_built(settings, parsed)
    finally:
        for event in events:
            message = DbtCoreCliEventMessage(raw_event=event, event_history_metadata={})
            for told in message.to_default_asset_events(manifest, _translator):
                if isinstance(told, AssetMaterialization | AssetCheckEvaluation):
                    instance.report_runless_asset_event(told)


def _when_it_holds(events: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The events of a dbt run that is one transaction: if it is undone, only what its tests said.

    Raises:
        DbtFailed: after those, as `dbt.stream` does.
    """
    seen: list[dict[str, Any]] = []
    try:
        seen.extend(events)  # which keeps what came before an error
    except dbt.DbtFailed:
        yield from (event for event in seen if event["info"]["name"] == "LogTestResult")
        raise
    yield from seen


def _how_fast(settings: Settings) -> AssetObservation:
    """The last hour's seconds of both lanes, for each signal, what waits and what was dropped."""
    batch, hot = lanes.micro_batch(settings), reporting.read_state(settings)
    metadata: dict[str, Any] = {
        "micro-batch, records to load": ingest.open_reader(settings).end()
        - ingest.loader(settings).position(),
        **{
            f"micro-batch, accepted to sent {share}": value
            for share, value in batch["accepted_to_sent"].items()
            if share != "count" and value is not None
        },
        "micro-batch, messages": MetadataValue.md(
            reporting.in_markdown(
                (what, destination, found)
                for sync, found in batch["messages"].items()
                for destination, _, what in [sync.partition("__")]
            )
        ),
    }
    if hot:
        syncs = hot["syncs"]
        metadata |= {
            "hot lane runs": hot["running"],
            "hot lane, lag seconds": hot["lag_seconds"],
            "hot lane, actions waiting": sum(one["waiting"] for one in syncs.values()),
            "hot lane, expired since its start": sum(one["expired"] for one in syncs.values()),
            **{
                f"hot lane, accepted to sent {share}": hot["latency"][""][share]
                for share in ("p50", "p95", "p99")
                if "" in hot["latency"]
            },
            "hot lane, signals": MetadataValue.md(
                reporting.in_markdown(
                    (*reporting.signals_and_destination(sync, syncs[sync]), found)
                    for sync, found in sorted(hot["latency"].items())
                    if sync in syncs
                )
            ),
        }
    return AssetObservation(LATENCY.key, metadata=metadata)


def build_model_assets(manifest: Mapping[str, Any]) -> tuple[AssetsDefinition, AssetsDefinition]:
    """The models every job builds first and, apart, those that read what the syncs have done."""

    views = {
        _translator.get_asset_key(node) for node in manifest["nodes"].values() if _is_view(node)
    }

    def run_dbt(context: AssetExecutionContext) -> Iterator[Any]:
        run_settings = load_settings()
        tags = context.op.tags
        selection, indirect = get_subset_selection_for_context(
            context=context,
            manifest=manifest,
            select=tags.get("dagster_dbt/select"),
            exclude=tags.get("dagster_dbt/exclude"),
            selector=None,
            dagster_dbt_translator=_translator,
            current_dbt_indirect_selection_env=None,
        )
        # One argument each: dbt splits on spaces only when it comes through a shell.
        args = [part for argument in selection for part in argument.split(" ")]
        args += ["--indirect-selection", indirect] if indirect else []
        with lake.writer(
            run_settings, f"dbt {context.run_id[:8]}", wait_seconds=600, on_wait=context.log.info
        ):
            # Unit tests check the SQL, not the data: they have nothing to say about a run.
            command = ["build", *args, "--exclude-resource-type", "unit_test"]
            batch = context.run.job_name == MICRO_BATCH
            whole = context.run.job_name in ONE_TRANSACTION
            if batch:
                command += ["--exclude", "config.materialized:view"]
            events = dbt.stream(command, run_settings, whole=whole)
            for event in _when_it_holds(events) if whole else events:
                message = DbtCoreCliEventMessage(raw_event=event, event_history_metadata={})
                yield from message.to_default_asset_events(
                    manifest=manifest, dagster_dbt_translator=_translator, context=context
                )
            if context.run.job_name == DAILY and not stale(run_settings):
                dbt.keep_built(run_settings, dbt.manifest_path(run_settings))
        if context.run.job_name == RESULTS:
            yield _how_fast(run_settings)
        if batch:
            for key in context.selected_asset_keys & views:
                yield MaterializeResult(asset_key=key, metadata={"view": "shows what was built"})

    every_batch = dbt_assets(
        manifest=manifest,
        exclude=AFTER_SYNC,
        name="models",
        dagster_dbt_translator=_translator,
    )(run_dbt)
    after_sync = dbt_assets(
        manifest=manifest,
        select=AFTER_SYNC,
        name="models_after_sync",
        dagster_dbt_translator=_translator,
    )(run_dbt)
    return every_batch, after_sync
