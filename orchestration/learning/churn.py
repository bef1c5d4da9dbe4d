"""Trains the churn model, and lets a version replace the champion only if it is better."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestration.learning import points, registry
from orchestration.learning.points import Fit, Floats, Rule
from orchestration.learning.registry import TrainingSet, Version

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MODEL = "churn"
LEAST_OF_EACH = 30
FOLDS = 3


class TooLittleHistory(Exception):
    """There is not enough to learn from; the message says what is missing."""


@dataclass(frozen=True)
class Trained:
    """A model and what it was measured by."""

    rules: list[Rule]
    bins: list[tuple[int, float, float, float]]
    metrics: dict[str, Any]


def train(rows: TrainingSet) -> Trained:
    """Choose the penalty and calibrate out of time, then fit on all rows.

    The newest day is foretold by a fit on those days alone whose outcome was known by then; where
    the history is too short for that, by a fit on other customers.

    Raises:
        TooLittleHistory: too few customers left, or stayed.
    """
    gone = int(rows.churned.sum())
    if min(gone, len(rows) - gone) < LEAST_OF_EACH:
        raise TooLittleHistory(
            f"To learn from, {LEAST_OF_EACH} customers who left and {LEAST_OF_EACH} who stayed "
            f"are needed, each seen as of a day whose horizon is over; there are {gone} and "
            f"{len(rows) - gone}. Until then the rules of churn_rules score."
        )
    newest = rows.where(rows.days == rows.days.max())
    before, split = rows.where(rows.days <= rows.days.max() - rows.horizon_days), "time"
    if not _both(before, newest):
        others = _fold(rows) > 0
        before, split = rows.where(others), "customers"
        newest = rows.where(~others)
    tried = {
        strength: points.fit(before.features, before.churned, strength).logits(newest.features)
        for strength in points.STRENGTHS
    }
    judged = {
        strength: points.measures(newest.churned, points.probabilities(logits))
        for strength, logits in tried.items()
    }
    best = min(judged, key=lambda strength: judged[strength]["log_loss"])
    slope, _ = points.platt(tried[best], newest.churned)
    model = _calibrated(points.fit(rows.features, rows.churned, best), slope, rows)
    recent = rows.where(rows.days == rows.days.max())
    scores = points.probabilities(model.logits(recent.features))
    return Trained(
        points.rules_of(model, rows.names, recent.features),
        points.score_bins(scores),
        {**judged[best], "split": split, "split_rows": len(newest), "strength": best},
    )


def _calibrated(model: Fit, slope: float, rows: TrainingSet) -> Fit:
    """Stretched by what the split showed (never turned around or blown up), and moved so that as
    many are expected to leave as did."""
    from scipy.optimize import brentq

    stretched = points.calibrated(model, min(max(slope, 0.5), 1.5), 0.0)
    logits, share = stretched.logits(rows.features), rows.churned.mean()
    shift = brentq(lambda move: (1 / (1 + np.exp(-logits - move))).mean() - share, -20, 20)
    return points.calibrated(stretched, 1.0, float(shift))


def challenge(rows: TrainingSet, trained: Trained, champion: list[Rule]) -> dict[str, float]:
    """Both on the newest day: the champion as it is, the challenger fitted on other customers."""
    newest = rows.days == rows.days.max()
    folds = _fold(rows)
    logits: Floats = np.zeros(len(rows))
    for fold in range(FOLDS):
        others, asked = folds != fold, newest & (folds == fold)
        model = points.fit(
            rows.features[others], rows.churned[others], float(trained.metrics["strength"])
        )
        logits[asked] = model.logits(rows.features[asked])
    theirs = points.logits_by_rules(champion, rows.names, rows.features[newest])
    churned = rows.churned[newest]
    return {
        "challenger": points.measures(churned, points.probabilities(logits[newest]))["log_loss"],
        "champion": points.measures(churned, points.probabilities(theirs))["log_loss"],
    }


def learn(connection: DuckDBPyConnection) -> Version:
    """Train on churn_training_set, write the version down, and crown it if it is better.

    One transaction on a connection whose schema holds the models.

    Raises:
        TooLittleHistory: too few customers left, or stayed.
    """
    rows = registry.training_set(connection)
    trained = train(rows)
    champion = registry.champion_rules(connection)
    better, verdict = True, "the first that was learned"
    metrics = dict(trained.metrics)
    if champion:
        losses = challenge(rows, trained, champion)
        better = losses["challenger"] < losses["champion"]
        verdict = (
            f"log loss {losses['challenger']:.4f} on the newest day, "
            f"{'below' if better else 'not below'} the champion's {losses['champion']:.4f}"
        )
        metrics |= {f"{who}_log_loss": loss for who, loss in losses.items()}
    version = Version(
        model=MODEL,
        version=registry.next_version(connection, MODEL),
        is_champion=better,
        verdict=verdict,
        trained_at=datetime.now(UTC),
        first_as_of_date=rows.days.min().item(),
        last_as_of_date=rows.days.max().item(),
        horizon_days=rows.horizon_days,
        training_rows=len(rows),
        customers=len(np.unique(rows.customers)),
        positive_share=round(float(rows.churned.mean()), 4),
        metrics=metrics,
    )
    connection.execute("begin")
    registry.add(connection, version)
    registry.add_rules(connection, version.version, trained.rules, trained.bins)
    connection.execute("commit")
    return version


def _fold(rows: TrainingSet) -> Any:
    """A fixed number from 0 to FOLDS - 1 for each customer."""
    import zlib

    return np.array([zlib.crc32(str(customer).encode()) % FOLDS for customer in rows.customers])


def _both(before: TrainingSet, newest: TrainingSet) -> bool:
    """Whether in both parts enough left and enough stayed."""
    return all(
        LEAST_OF_EACH // 2 <= part.churned.sum() <= len(part) - LEAST_OF_EACH // 2
        for part in (before, newest)
    )
