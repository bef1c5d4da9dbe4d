"""The syncs as assets downstream of their models, and the ledger they write."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    DagsterInstance,
    DagsterRun,
    Failure,
    MaterializeResult,
    RunsFilter,
    multi_asset,
)
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES

from orchestration import activate
from orchestration.assets import hot
from orchestration.settings import load_settings
from syncs.report import SyncReport
from syncs.spec import SyncSpec, load_specs

LEDGER = AssetKey(["ledger", "actions"])
ATTEMPTS = AssetKey(["ledger", "attempts"])
DELIVERED = "delivered"
# A run does not wait long for a destination that is down: the ledger keeps what is left, and a
# sensor starts a delivery when it is due.
RETRY_SECONDS = 3.0
# On a run that has come to its syncs: from then on the next one may begin. The UI shows it.
ACTS_TAG = "signalbox/acts"
WATCH_SECONDS = 0.2
TURN_SECONDS = 120.0


def sync_key(spec: SyncSpec) -> AssetKey:
    """`hubspot__customer_health` is the asset `hubspot/customer_health`."""
    return AssetKey(spec.name.split("__", 1))


def build_sync_assets(manifest: Mapping[str, Any]) -> AssetsDefinition:
    """One asset for each sync that the manifest declares, and the ledger's tables downstream."""
    declared = load_specs(manifest)
    outputs = [
        AssetSpec(
            sync_key(spec),
            deps=[AssetKey(spec.model)],
            description=spec.description,
            group_name="destinations",
            kinds={spec.destination.split("_")[0]},
            metadata={"mode": spec.mode, "object": spec.object, "key": spec.key},
        )
        for spec in declared
    ]
    ledger = [
        AssetSpec(
            key,
            deps=[*(sync_key(spec) for spec in declared), hot.ACTIONS],
            description=description,
            group_name="destinations",
            kinds={"postgres"},
        )
        for key, description in (
            (LEDGER, "Every action's intent and outcome; it alone decides what is sent."),
            (ATTEMPTS, "Each try of each action, with the destination's own words."),
        )
    ]
    checks = [
        AssetCheckSpec(
            DELIVERED,
            asset=sync_key(spec),
            description="Nothing was refused, left unknown, paused, or held back by a limit.",
        )
        for spec in declared
    ]

    @multi_asset(name="syncs", specs=[*outputs, *ledger], check_specs=checks)
    def syncs(
        context: AssetExecutionContext,
    ) -> Iterator[MaterializeResult[None] | AssetCheckResult]:
        take_turn(context.instance, context.run)
        keys = {spec.name: sync_key(spec) for spec in declared}
        # The project may have been edited since this process read it. What is new has no asset
        # here, and its view may not be built: it begins when this process does so again.
        reports = activate.run_syncs(load_settings(), among=keys, retry_budget=RETRY_SECONDS)
        context.log.info("\n".join(f"{one.sync}: {one.status} {one.sent or ''}" for one in reports))
        reports += [
            SyncReport(sync=spec.name, destination=spec.destination, message="not in the project")
            for spec in declared
            if spec.name not in {report.sync for report in reports}
        ]
        for report in reports:
            yield MaterializeResult(asset_key=keys[report.sync], metadata=_metadata(report))
        # A check asks Dagster what it is about: after all of them, each need not wait for one.
        for report in reports:
            yield _check(keys[report.sync], report)
        yield MaterializeResult(
            asset_key=LEDGER,
            metadata={"actions": sum(sum(report.states.values()) for report in reports)},
        )
        yield MaterializeResult(asset_key=ATTEMPTS)
        # The blast limit asks a person, and the pipeline need not stop for the answer.
        failed = [report for report in reports if not report.ok and report.status != "blocked"]
        if failed:
            raise Failure(
                "; ".join(f"{report.sync}: {report.message}" for report in failed),
                allow_retries=False,
            )

    return syncs


def take_turn(instance: DagsterInstance, run: DagsterRun) -> None:
    """Wait until no earlier run of this job is under way, then say that this one acts.

    What an earlier run plans and sends is older, so it goes first. A process that died is under way
    until Dagster's monitoring has found it; one that nothing watches may be so for good, and after
    TURN_SECONDS the syncs' own locks alone keep the order.
    """
    earlier = RunsFilter(
        job_name=run.job_name,
        statuses=IN_PROGRESS_RUN_STATUSES,
        created_before=instance.get_run_records(RunsFilter([run.run_id]))[0].create_timestamp,
    )
    deadline = time.monotonic() + TURN_SECONDS
    while instance.get_run_records(earlier, limit=1) and time.monotonic() < deadline:
        time.sleep(WATCH_SECONDS)
    instance.add_run_tags(run.run_id, {ACTS_TAG: "true"})


def _metadata(report: SyncReport) -> dict[str, Any]:
    return {
        "status": report.status,
        **{f"planned {name}": count for name, count in report.planned.items()},
        **{f"sent {name}": count for name, count in report.sent.items()},
        "to": "sandbox" if report.sandbox else report.destination,
        "seconds": report.seconds,
        **({"message": report.message} if report.message else {}),
    }


def _check(key: AssetKey, report: SyncReport) -> AssetCheckResult:
    trouble = {
        state: report.states[state] for state in ("rejected", "unknown") if report.states.get(state)
    }
    return AssetCheckResult(
        asset_key=key,
        check_name=DELIVERED,
        passed=report.ok and not trouble and report.paused_by is None,
        severity=AssetCheckSeverity.WARN,
        metadata={**trouble, **({"message": report.message} if report.message else {})},
    )
