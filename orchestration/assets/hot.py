"""The hot lane in the one graph: what it sent, whether it keeps up, whether it agrees."""

import time
from datetime import UTC, datetime, timedelta

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetKey,
    AssetSpec,
    MetadataValue,
    asset_check,
)

from orchestration.assets.ingest import EVENT_LOG
from orchestration.hot import reporting
from orchestration.hot.parity import compare
from orchestration.settings import load_settings

ACTIONS = AssetKey(list(reporting.ACTIONS))

SPEC = AssetSpec(
    ACTIONS,
    deps=[EVENT_LOG.key],
    description=(
        "Messages that left within seconds of their event: the SQL of the models tagged hot, on a "
        "database in memory. One event here for each second with work."
    ),
    group_name="destinations",
    kinds={"duckdb"},
)


@asset_check(
    asset=ACTIONS,
    name="keeps_up",
    description=f"The lane runs, and no event waits longer than {reporting.MAX_LAG:.0f} s for it.",
)
def keeps_up() -> AssetCheckResult:
    state = reporting.read_state(load_settings())
    if state is None:
        return AssetCheckResult(
            passed=True, description="The lane never ran here; the micro-batch acts alone."
        )
    found = reporting.troubles(state)
    return AssetCheckResult(
        passed=not found,
        severity=AssetCheckSeverity.WARN,
        description=" ".join(found) or "It runs, and nothing waits for long.",
        metadata={
            "running": state["running"],
            "last said so, seconds ago": round(time.time() - state["at"], 1),
            "records behind": state["behind"],
            "customers waiting": state["customers_waiting"],
            "lag seconds": state["lag_seconds"],
            "waits for the warehouse": state["held_back"],
        },
    )


@asset_check(
    asset=ACTIONS,
    name="agrees_with_the_warehouse",
    description=(
        "Whatever the hot lane acted on yesterday the warehouse derives, too; by the ledger and "
        "the models. What the micro-batch had to do is listed besides."
    ),
)
def agrees(context: AssetCheckExecutionContext) -> AssetCheckResult:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    found = compare(load_settings(), today - timedelta(days=1), today)
    for line in found.differences[:50]:
        context.log.info("%s", line)
    return AssetCheckResult(
        passed=not found.not_derived,
        severity=AssetCheckSeverity.WARN,
        description=f"Yesterday, {today - timedelta(days=1):%Y-%m-%d} UTC: {found.summary}",
        metadata={
            "by the hot lane": found.hot,
            "by the micro-batch": found.batch,
            "acted on hot, not derived by the warehouse": len(found.not_derived),
            "left to the micro-batch": len(found.missed),
            "differences": MetadataValue.md(
                "\n".join(f"- {line}" for line in found.differences[:50]) or "none"
            ),
        },
    )


CHECKS: list[AssetChecksDefinition] = [keeps_up, agrees]
KEEPS_UP = tuple(keeps_up.check_keys)
AGREES = tuple(agrees.check_keys)
