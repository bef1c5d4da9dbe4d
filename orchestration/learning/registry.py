"""The tables that learning reads and writes, on a connection whose schema is the models'."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from orchestration.learning.points import Floats, Rule

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

NOT_FEATURES = {
    "customer_id", "as_of_date", "horizon_days", "churn_kind", "silence_days", "churned",
}  # fmt: skip


@dataclass(frozen=True)
class TrainingSet:
    """churn_training_set: n rows of customers and days, oldest day first."""

    names: tuple[str, ...]
    horizon_days: int
    customers: NDArray[Any]  # (n,) text
    days: NDArray[np.datetime64]  # (n,)
    churned: NDArray[np.bool_]  # (n,)
    features: Floats  # (n, number of names); NaN where unknown

    def where(self, chosen: NDArray[np.bool_]) -> TrainingSet:
        return TrainingSet(
            self.names,
            self.horizon_days,
            self.customers[chosen],
            self.days[chosen],
            self.churned[chosen],
            self.features[chosen],
        )

    def __len__(self) -> int:
        return len(self.churned)


@dataclass(frozen=True)
class Version:
    """One row of model_registry."""

    model: str
    version: int
    is_champion: bool
    verdict: str
    trained_at: datetime
    first_as_of_date: date | None
    last_as_of_date: date | None
    horizon_days: int
    training_rows: int
    customers: int
    positive_share: float
    metrics: dict[str, Any]


def training_set(connection: DuckDBPyConnection) -> TrainingSet:
    """All of churn_training_set."""
    columns = connection.execute(
        "select * from churn_training_set order by as_of_date, customer_id"
    ).fetchnumpy()
    names = tuple(name for name in columns if name not in NOT_FEATURES)
    features: list[Floats] = [
        np.ma.filled(np.ma.asarray(columns[name], float), np.nan) for name in names
    ]
    return TrainingSet(
        names,
        int(columns["horizon_days"][0]) if len(columns["horizon_days"]) else 0,
        np.asarray(columns["customer_id"]).astype(str),
        np.asarray(columns["as_of_date"]).astype("datetime64[D]"),
        np.asarray(columns["churned"]).astype(bool),
        np.column_stack(features),
    )


def next_version(connection: DuckDBPyConnection, model: str) -> int:
    row = connection.execute(
        "select coalesce(max(version), 0) + 1 from model_registry where model = $model",
        {"model": model},
    ).fetchone()
    assert row is not None
    return int(row[0])


def champion_rules(connection: DuckDBPyConnection) -> list[Rule]:
    """The points of the churn model in use; empty if none was learned."""
    rows = connection.execute(
        "select rule, feature, starts_at, full_at, points, usual_points from churn_model_points"
        " where version = (select max(version) from model_registry"
        " where model = 'churn' and is_champion)"
    ).fetchall()
    return [Rule(*row) for row in rows]


def add(connection: DuckDBPyConnection, version: Version) -> None:
    """Write a version down; a new champion takes the old one's place. The caller commits."""
    if version.is_champion:
        connection.execute(
            "update model_registry set is_champion = false where model = $model and is_champion",
            {"model": version.model},
        )
    values = {**vars(version), "metrics": json.dumps(version.metrics)}
    connection.execute(
        f"insert into model_registry ({', '.join(values)})"
        f" values ({', '.join('$' + name for name in values)})",
        values,
    )


def add_rules(
    connection: DuckDBPyConnection,
    version: int,
    rules: Sequence[Rule],
    bins: Sequence[tuple[int, float, float, float]],
) -> None:
    """The points of a version of the churn model, and how its scores were spread."""
    connection.executemany(
        "insert into churn_model_points"
        " (version, rule, feature, starts_at, full_at, points, usual_points)"
        " values (?, ?, ?, ?, ?, ?, ?)",
        [(version, *vars(rule).values()) for rule in rules],
    )
    connection.executemany(
        "insert into churn_model_bins (version, bin, score_from, score_below, share)"
        " values (?, ?, ?, ?, ?)",
        [(version, *one) for one in bins],
    )
