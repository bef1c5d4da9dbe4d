"""What is trained once a day, and the checks that watch what was learned."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetSpec,
    MaterializeResult,
    multi_asset,
)

from orchestration import lake
from orchestration.learning import training
from orchestration.learning.churn import TooLittleHistory
from orchestration.learning.value_model import NotFitted
from orchestration.settings import load_settings

REGISTRY = AssetKey(["learned", "model_registry"])
POINTS = AssetKey(["learned", "churn_model_points"])
BINS = AssetKey(["learned", "churn_model_bins"])
PARAMETERS = AssetKey(["learned", "customer_value_parameters"])
EXPECTED = AssetKey(["learned", "customer_value_scores"])
MOST_CALIBRATION_ERROR = 0.1
MOST_DRIFT = 0.25
CHAMPION = "select * from model_registry where model = 'churn' and is_champion"


@multi_asset(
    name="churn_model",
    specs=[
        AssetSpec(
            key,
            deps=[AssetKey("churn_training_set")],
            description=description,
            skippable=True,
        )
        for key, description in (
            (REGISTRY, "Every version of every model that was trained, and which one is in use."),
            (POINTS, "The churn model as a table of points, which SQL adds up."),
            (BINS, "How the scores were spread when the churn model was trained."),
        )
    ],
    check_specs=[
        AssetCheckSpec(
            "one_champion_and_it_was_better",
            asset=REGISTRY,
            description="One version is in use, and its log loss was below the one it replaced.",
        ),
        AssetCheckSpec(
            "calibrated",
            asset=REGISTRY,
            description="Foretold and actual share differ by no more than a tenth, out of time.",
        ),
        AssetCheckSpec(
            "scores_have_not_drifted",
            asset=POINTS,
            description="The population stability index of today's scores is no more than 0.25.",
        ),
    ],
    group_name="learned",
    compute_kind="scikitlearn",
)
def churn_model(
    context: AssetExecutionContext,
) -> Iterator[MaterializeResult[None] | AssetCheckResult]:
    """Learn from churn_training_set; crown the version if it beats the champion."""
    settings = load_settings()
    try:
        version = training.train_churn(settings, on_step=context.log.info)
    except TooLittleHistory as error:
        context.log.info(str(error))
    else:
        told: dict[str, Any] = {
            "version": version.version,
            "champion": version.is_champion,
            "verdict": version.verdict,
            "rows": version.training_rows,
            **version.metrics,
        }
        for key in (REGISTRY, POINTS, BINS):
            yield MaterializeResult(asset_key=key, metadata=told)
    with lake.connect(settings) as connection:
        yield from checks(connection)


@multi_asset(
    name="customer_value_model",
    specs=[
        AssetSpec(
            key,
            deps=[AssetKey("customer_purchase_rhythm")],
            description=description,
            skippable=True,
        )
        for key, description in (
            (
                PARAMETERS,
                "The customer value model: BG/NBD for how often, Gamma-Gamma for how much.",
            ),
            (EXPECTED, "What the customer value model expects of each customer."),
        )
    ],
    group_name="learned",
    compute_kind="scipy",
)
def customer_value_model(context: AssetExecutionContext) -> Iterator[MaterializeResult[None]]:
    """Fit to customer_purchase_rhythm, and score every customer."""
    try:
        version = training.train_value(load_settings(), on_step=context.log.info)
    except (NotFitted, TooLittleHistory) as error:
        context.log.info(str(error))
        return
    told: dict[str, Any] = {"version": version.version, "verdict": version.verdict}
    for key in (PARAMETERS, EXPECTED):
        yield MaterializeResult(asset_key=key, metadata={**told, **version.metrics})


def checks(connection: Any) -> Iterator[AssetCheckResult]:
    """The checks of what stands in the lake; they pass while nothing was learned."""
    result = connection.execute(CHAMPION)
    columns = [name for name, *_ in result.description]
    champions = [dict(zip(columns, row, strict=True)) for row in result.fetchall()]
    metrics: Mapping[str, Any] = json.loads(champions[0]["metrics"]) if champions else {}
    rival = metrics.get("champion_log_loss")
    better = rival is None or metrics["challenger_log_loss"] < rival
    (versions,) = connection.execute(
        "select count(*) from model_registry where model = 'churn'"
    ).fetchone()
    yield AssetCheckResult(
        asset_key=REGISTRY,
        check_name="one_champion_and_it_was_better",
        passed=len(champions) == min(versions, 1) and better,
        metadata={"champions": len(champions), "versions": versions},
    )
    error = metrics.get("calibration_error", 0.0)
    yield AssetCheckResult(
        asset_key=REGISTRY,
        check_name="calibrated",
        passed=error <= MOST_CALIBRATION_ERROR,
        severity=AssetCheckSeverity.WARN,
        metadata={"calibration_error": error},
    )
    (drift,) = connection.execute(
        "select coalesce(sum(stability_index), 0) from churn_model_drift"
    ).fetchone()
    yield AssetCheckResult(
        asset_key=POINTS,
        check_name="scores_have_not_drifted",
        passed=drift <= MOST_DRIFT,
        severity=AssetCheckSeverity.WARN,
        metadata={"population_stability_index": drift},
    )
