"""Fits the customer value model to customer_purchase_rhythm and writes what it expects of each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from orchestration.learning import registry
from orchestration.learning.points import Floats
from orchestration.learning.registry import Version
from orchestration.learning.value_model import (
    BgNbd,
    GammaGamma,
    Purchases,
    fit_bg_nbd,
    fit_gamma_gamma,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MODEL = "customer_value"


@dataclass(frozen=True)
class Rhythm:
    """customer_purchase_rhythm of one day: n customers; times in days."""

    as_of_date: date
    horizon_days: int
    customers: NDArray[Any]
    purchases: Purchases
    mean_value: Floats
    purchases_after: Floats
    value_after: Floats


@dataclass(frozen=True)
class ValueModel:
    rhythm: BgNbd
    value: GammaGamma

    def log_likelihood(self, of: Rhythm) -> float:
        """Per customer, of rhythm and value together."""
        known = of.mean_value > 0
        bought = of.purchases.repeats + 1
        value = self.value.log_likelihood(bought[known], of.mean_value[known])
        return float((self.rhythm.log_likelihood(of.purchases).sum() + value.sum()) / len(known))

    def expected(self, of: Rhythm) -> tuple[Floats, Floats]:
        """Purchases of each customer (n,) in the days ahead, and the value of one."""
        purchases = self.rhythm.expected_purchases(of.purchases, of.horizon_days)
        return purchases, self.value.expected_value(of.purchases.repeats + 1, of.mean_value)


def fit(of: Rhythm) -> ValueModel:
    """The model of greatest likelihood.

    Raises:
        NotFitted: the purchases are too few to tell.
    """
    return ValueModel(
        fit_bg_nbd(of.purchases), fit_gamma_gamma(of.purchases.repeats + 1, of.mean_value)
    )


def foretold(model: ValueModel, past: Rhythm) -> dict[str, float]:
    """What the model of a past day expected of the days after it, against what came."""
    expected, value = model.expected(past)
    came = past.purchases_after
    varies = len(came) > 1 and expected.std() > 0 and came.std() > 0
    return {
        "expected_purchases": round(float(expected.sum()), 1),
        "actual_purchases": round(float(came.sum()), 1),
        "mean_absolute_error": round(float(np.abs(expected - came).mean()), 4),
        "correlation": round(float(np.corrcoef(expected, came)[0, 1]), 4) if varies else 0.0,
        "expected_value": round(float((expected * value).sum()), 2),
        "actual_value": round(float(past.value_after.sum()), 2),
    }


def learn(connection: DuckDBPyConnection) -> Version:
    """Fit, write the version down, and score every customer with the version in use.

    A fit replaces the one in use if its likelihood of today's customers is the higher. The metrics
    are of a fit as of a horizon ago, against what came since.

    Raises:
        NotFitted: the purchases are too few to tell.
    """
    now = _rhythm(connection, past=False)
    model = fit(now)
    past = _rhythm(connection, past=True)
    metrics: dict[str, Any] = {"log_likelihood": round(model.log_likelihood(now), 6)}
    if (past.purchases.repeats > 0).any():
        metrics |= foretold(fit(past), past)
    champion = _champion(connection)
    better, verdict = True, "the first that was learned"
    if champion:
        theirs = champion[1].log_likelihood(now)
        better = metrics["log_likelihood"] > theirs
        metrics["champion_log_likelihood"] = round(theirs, 6)
        verdict = (
            f"log likelihood {metrics['log_likelihood']:.6f} per customer, "
            f"{'above' if better else 'not above'} {theirs:.6f} of the one in use"
        )
    version = Version(
        model=MODEL,
        version=registry.next_version(connection, MODEL),
        is_champion=better,
        verdict=verdict,
        trained_at=datetime.now(UTC),
        first_as_of_date=now.as_of_date,
        last_as_of_date=now.as_of_date,
        horizon_days=now.horizon_days,
        training_rows=len(now.customers),
        customers=len(now.customers),
        positive_share=round(float((now.purchases.repeats > 0).mean()), 4),
        metrics=metrics,
    )
    used = (version.version, model) if better or not champion else champion
    connection.execute("begin")
    registry.add(connection, version)
    connection.executemany(
        "insert into customer_value_parameters (version, parameter, value) values (?, ?, ?)",
        [
            (version.version, name, value)
            for part in (model.rhythm, model.value)
            for name, value in vars(part).items()
        ],
    )
    _write_scores(connection, *used, now)
    connection.execute("commit")
    return version


def _rhythm(connection: DuckDBPyConnection, *, past: bool) -> Rhythm:
    columns = connection.execute(
        "select * from customer_purchase_rhythm where is_past = $past order by customer_id",
        {"past": past},
    ).fetchnumpy()

    def numbers(name: str) -> Floats:
        return np.asarray(columns[name], float)

    some = len(columns["customer_id"]) > 0
    return Rhythm(
        columns["as_of_date"][0].astype("datetime64[D]").item() if some else date.min,
        int(columns["horizon_days"][0]) if some else 0,
        np.asarray(columns["customer_id"]).astype(str),
        Purchases(numbers("purchases") - 1, numbers("last_purchase_at"), numbers("observed_days")),
        numbers("mean_value"),
        numbers("purchases_after"),
        numbers("value_after"),
    )


def _champion(connection: DuckDBPyConnection) -> tuple[int, ValueModel] | None:
    rows = connection.execute(
        "select version, parameter, value from customer_value_parameters"
        " where version = (select max(version) from model_registry"
        " where model = $model and is_champion)",
        {"model": MODEL},
    ).fetchall()
    if not rows:
        return None
    values = {name: value for _, name, value in rows}
    rhythm = BgNbd(*(values[name] for name in ("r", "alpha", "a", "b")))
    return rows[0][0], ValueModel(rhythm, GammaGamma(*(values[n] for n in ("p", "q", "gamma"))))


def _write_scores(
    connection: DuckDBPyConnection, version: int, model: ValueModel, of: Rhythm
) -> None:
    import pyarrow as pa

    purchases, value = model.expected(of)
    rows = pa.table(
        {
            "customer_id": of.customers,
            "version": np.full(len(of.customers), version, np.int32),
            "as_of_date": [of.as_of_date] * len(of.customers),
            "horizon_days": np.full(len(of.customers), of.horizon_days, np.int32),
            "probability_active": np.round(model.rhythm.probability_active(of.purchases), 4),
            "expected_purchases": np.round(purchases, 4),
            "expected_order_value": np.round(value, 2),
            "expected_value": np.round(purchases * value, 2),
        }
    )
    connection.register("scored_rows", rows)
    connection.execute("delete from customer_value_scores")
    connection.execute("insert into customer_value_scores by name select * from scored_rows")
    connection.unregister("scored_rows")
