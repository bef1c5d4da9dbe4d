"""How well churn would have been foretold on a day of the past, from what was known before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration import warehouse
from orchestration.learning import churn
from orchestration.scratch import Scratch
from orchestration.settings import Settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

BUILD = ("build", "--exclude-resource-type", "test", "unit_test", "--select")
SCORES = ("customer_features_daily", "churn_points", "churn_scores_daily", "churn_scores")
# Ids are told as identity_map names them, so that a customer is found again after a merge.
SCORED = """
create table scored as
with ids as (
    select customer_id, list(id_key order by kind_rank, id_key) as ids
    from identity_map group by customer_id
)
select scores.customer_id, ids.ids, scores.churn_score as probability, scores.churn_band as band,
    scores.reason_1, scores.reason_2, scores.reason_3
from churn_scores as scores inner join ids using (customer_id)
"""
OUTCOMES = """
create table outcomes as
select scored.customer_id, bool_and(later.churned) as churned
from scored, unnest(scored.ids) as known(id_key)
inner join identity_map using (id_key)
inner join churn_training_set as later on identity_map.customer_id = later.customer_id
group by scored.customer_id
"""
NO_OUTCOMES = "create table outcomes (customer_id varchar, churned boolean)"
EVALUATION = """
select scored.customer_id, scored.ids, $as_of::date as as_of,
    $horizon::integer as horizon_days, scored.probability, scored.band, scored.reason_1,
    scored.reason_2, scored.reason_3, $scored_by as scored_by, outcomes.churned
from scored left join outcomes using (customer_id) order by scored.customer_id
"""


class EvaluationError(Exception):
    """The data do not allow it; the message says why."""


@dataclass(frozen=True)
class Evaluation:
    """What `signalbox evaluate churn` reports."""

    as_of: date
    horizon_days: int
    customers: int
    scored_by: str  # model or rules
    training_rows: int
    notes: list[str]
    metrics: dict[str, float] | None
    bands: list[dict[str, Any]]


def evaluate(
    settings: Settings,
    as_of: date,
    horizon_days: int,
    out: Path,
    *,
    activity: str | None = None,
    on_step: Callable[[str], object] = lambda _: None,
    inspect: Callable[[str, Scratch], object] = lambda *_: None,
) -> Evaluation:
    """Train on what happened before midnight UTC of a day, and foretell the days from then on.

    The models are built in a file that holds no later event: identity, features, training set and
    scores cannot see one. Only then is the outcome looked up, if the lake has it.

    Args:
        settings: which lake; it is only read.
        as_of: the first day to be foretold.
        horizon_days: how many days are foretold. Who does nothing in them has left.
        out: the Parquet file to write, one row per customer.
        activity: the event whose absence is leaving, such as Purchase Completed; any if unset.
        on_step: told in words what is done now.
        inspect: given `scored` and then `outcome` with the scratch as it is then, for benchmarks.

    Raises:
        EvaluationError: there is nothing to learn from before that day.
        DbtFailed: with dbt's words.
    """
    warehouse.ensure(settings)
    cut = datetime(as_of.year, as_of.month, as_of.day, tzinfo=UTC)
    end = cut + timedelta(days=horizon_days)
    meaning: dict[str, Any] = {
        "churn_horizon_days": horizon_days,
        # The horizon was asked for: nobody's rhythm shortens it.
        "churn_silence_days_min": horizon_days,
        "churn_activity_event": activity,
        "features_daily_days": 1,
    }
    notes, scored_by, training_rows = [], "model", 0
    with Scratch(settings) as scratch:
        with scratch.connect() as connection:
            newest = _newest(connection, cut)
        on_step("building what was known")
        scratch.show(before=cut)
        scratch.dbt(*BUILD, "+churn_training_set", "+churn_points", as_of=cut, **meaning)
        on_step("learning")
        with scratch.connect() as connection:
            try:
                training_rows = churn.learn(connection).training_rows
            except churn.TooLittleHistory as error:
                scored_by = "rules"
                notes.append(str(error))
        on_step("scoring")
        evening = cut - timedelta(seconds=1)
        scratch.dbt("run", "--full-refresh", "--select", *SCORES, as_of=evening, **meaning)
        with scratch.connect() as connection:
            connection.execute(SCORED)
        inspect("scored", scratch)
        if newest >= end - timedelta(days=1):
            on_step("looking up the outcome")
            scratch.show(before=end)
            later = {**meaning, "churn_training_dates": 1, "churn_history_days_min": 0}
            scratch.dbt(
                *("run", "--full-refresh", "--select", "+churn_training_set"), as_of=end, **later
            )
            inspect("outcome", scratch)
        else:
            notes.append(
                f"The data end on {newest:%Y-%m-%d}, before the {horizon_days} days are over: "
                "nobody knows the outcome yet."
            )
        with scratch.connect() as connection:
            connection.execute(OUTCOMES if newest >= end - timedelta(days=1) else NO_OUTCOMES)
            return _report(connection, as_of, horizon_days, out, scored_by, training_rows, notes)


def _newest(connection: DuckDBPyConnection, cut: datetime) -> datetime:
    """The newest event's time.

    Raises:
        EvaluationError: there is none before the cut.
    """
    row = connection.execute(
        "select min(timestamp), max(timestamp) from lake.raw.events"
    ).fetchone()
    assert row is not None
    oldest, newest = row
    if oldest is None:
        raise EvaluationError(
            "The lake holds no events: signalbox import FILE, then signalbox load."
        )
    if oldest >= cut:
        raise EvaluationError(
            f"No event happened before {cut:%Y-%m-%d}; the data run from {oldest:%Y-%m-%d} to "
            f"{newest:%Y-%m-%d}. Choose a day within them."
        )
    return newest  # type: ignore[no-any-return]


def _report(
    connection: DuckDBPyConnection,
    as_of: date,
    horizon_days: int,
    out: Path,
    scored_by: str,
    training_rows: int,
    notes: list[str],
) -> Evaluation:
    import numpy as np
    import pyarrow.parquet as pq

    from orchestration.learning import points

    result = connection.execute(
        EVALUATION,
        {"as_of": as_of, "horizon": horizon_days, "scored_by": scored_by},
    ).to_arrow_table()
    pq.write_table(result, out)
    judged = [
        (bool(left), float(probability))
        for left, probability in zip(
            result["churned"].to_pylist(), result["probability"].to_pylist(), strict=True
        )
        if left is not None
    ]
    metrics = None
    left = sum(churned for churned, _ in judged)
    if judged and 0 < left < len(judged):
        churned = np.array([one for one, _ in judged])
        metrics = {
            "customers_judged": len(judged),
            "left_share": round(left / len(judged), 4),
            **points.measures(churned, np.array([one for _, one in judged])),
        }
    elif judged:
        notes.append("All customers had the same outcome: there is nothing to tell apart.")
    bands = connection.execute(
        "select band, count(*) as customers, round(avg(probability), 4) as foretold,"
        " round(avg(cast(churned as integer)), 4) as left_share"
        " from scored left join outcomes using (customer_id)"
        " group by band order by foretold desc"
    ).fetchall()
    return Evaluation(
        as_of=as_of,
        horizon_days=horizon_days,
        customers=result.num_rows,
        scored_by=scored_by,
        training_rows=training_rows,
        notes=notes,
        metrics=metrics,
        bands=[
            dict(zip(("band", "customers", "foretold", "left_share"), band, strict=True))
            for band in bands
        ],
    )
