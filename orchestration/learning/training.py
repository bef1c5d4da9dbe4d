"""Training in production: on the lake's models, under the writer lock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from orchestration import lake, warehouse
from orchestration.learning import churn, value
from orchestration.learning.registry import Version
from orchestration.settings import Settings

# What the scores of a new champion stand in; the views behind follow by themselves.
SCORES = "churn_points churn_scores_daily"


def train_churn(
    settings: Settings,
    *,
    as_of: datetime | None = None,
    on_step: Callable[[str], object] = lambda _: None,
) -> Version:
    """Build the training set, learn from it, and score anew if there is a new champion.

    Raises:
        TooLittleHistory: there is not enough to learn from; the rules go on scoring.
        DbtFailed: with dbt's words.
    """
    with lake.writer(settings, "training", wait_seconds=600, on_wait=on_step):
        warehouse.ensure(settings)
        _need_timeline(settings)
        on_step("building the training set")
        _build(["--select", "churn_training_set"], settings, as_of)
        on_step("learning")
        with lake.connect(settings, read_only=False) as connection:
            version = churn.learn(connection)
        if version.is_champion:
            on_step("scoring")
            # All rows at once: a score of one customer must not be another model's than the next.
            _build(["--full-refresh", "--select", *SCORES.split()], settings, as_of)
    return version


def train_value(
    settings: Settings,
    *,
    as_of: datetime | None = None,
    on_step: Callable[[str], object] = lambda _: None,
) -> Version:
    """Fit the customer value model, and write down what it expects of each customer.

    Raises:
        NotFitted: there are too few purchases to learn from.
        DbtFailed: with dbt's words.
    """
    with lake.writer(settings, "training", wait_seconds=600, on_wait=on_step):
        warehouse.ensure(settings)
        _need_timeline(settings)
        on_step("building the purchase rhythm")
        _build(["--select", "customer_purchase_rhythm"], settings, as_of)
        on_step("learning")
        with lake.connect(settings, read_only=False) as connection:
            return value.learn(connection)


def _build(args: list[str], settings: Settings, as_of: datetime | None) -> None:
    from orchestration.assets import models

    for _ in models.build([*args, "--exclude-resource-type", "unit_test"], settings, as_of=as_of):
        pass


def _need_timeline(settings: Settings) -> None:
    with lake.connect(settings) as connection:
        built: Any = connection.execute(
            "select 1 from duckdb_tables() where database_name = 'lake' and schema_name = 'main'"
            " and table_name = 'customer_timeline'"
        ).fetchone()
    if built is None:
        raise churn.TooLittleHistory(
            "No models were built in this home yet: signalbox load, then signalbox build."
        )
