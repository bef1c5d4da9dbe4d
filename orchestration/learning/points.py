"""A churn model that SQL can score: logistic regression on ramps, kept as a table of points.

Each feature is cut at its quantiles; between two cuts lies a ramp that grows from 0 to 1 in a
straight line. The sum of points times ramps is any piecewise linear curve per feature, and the
macro churn_points computes it. Unknown features (NaN) give no points, as in SQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CUTS = 8
# Strengths of the penalty to choose from, as C times rows: the less, the fewer rules.
STRENGTHS = (120.0, 300.0, 700.0)
BINS = 10


@dataclass(frozen=True)
class Rule:
    """One row of churn_model_points, without the version."""

    rule: str
    feature: str
    starts_at: float
    full_at: float
    points: float
    usual_points: float


@dataclass(frozen=True)
class Ramp:
    feature: int  # column of the features
    starts_at: float
    full_at: float


@dataclass(frozen=True)
class Fit:
    """Ramps with their points; `baseline` is what everybody gets."""

    ramps: tuple[Ramp, ...]
    points: Floats
    baseline: float

    def logits(self, features: Floats) -> Floats:
        """The sum of points of each row of features (n, number of features)."""
        sums: Floats = climb(self.ramps, features) @ self.points + self.baseline
        return sums


def ramps_of(features: Floats) -> tuple[Ramp, ...]:
    """Ramps between the quantiles of each feature that varies."""
    found = []
    for column in range(features.shape[1]):
        known = features[:, column][~np.isnan(features[:, column])]
        if known.size:
            cuts = np.unique(np.round(np.quantile(known, np.linspace(0, 1, CUTS + 1)), 6))
            found += [Ramp(column, float(low), float(high)) for low, high in pairwise(cuts)]
    return tuple(found)


def climb(ramps: Sequence[Ramp], features: Floats) -> Floats:
    """How far each row (n) is up each ramp (m), 0 to 1: an array (n, m)."""
    heights = np.zeros((features.shape[0], len(ramps)))
    for position, ramp in enumerate(ramps):
        height = (features[:, ramp.feature] - ramp.starts_at) / (ramp.full_at - ramp.starts_at)
        heights[:, position] = np.nan_to_num(np.clip(height, 0, 1), nan=0.0)
    return heights


def fit(features: Floats, churned: NDArray[np.bool_], strength: float) -> Fit:
    """Lasso on the ramps, so that few of them keep points.

    Raises:
        ValueError: all rows left, or none did.
    """
    from sklearn.linear_model import LogisticRegression

    ramps = ramps_of(features)
    model = LogisticRegression(
        l1_ratio=1.0,
        C=strength / len(churned),
        solver="liblinear",
        tol=1e-3,
        max_iter=1000,
        random_state=0,
    )
    # liblinear penalises the intercept with the rest unless it is scaled out of the way.
    model.intercept_scaling = 100.0
    model.fit(climb(ramps, features), churned)
    kept = np.flatnonzero(model.coef_[0])
    return Fit(
        tuple(ramps[position] for position in kept),
        model.coef_[0][kept],
        float(model.intercept_[0]),
    )


def calibrated(model: Fit, slope: float, shift: float) -> Fit:
    """The same model with its logits stretched and moved: still nothing but points."""
    return Fit(model.ramps, model.points * slope, model.baseline * slope + shift)


def platt(logits: Floats, churned: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and shift that calibrate logits, by maximum likelihood."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=np.inf, max_iter=1000).fit(logits[:, None], churned)
    return float(model.coef_[0][0]), float(model.intercept_[0])


def rules_of(model: Fit, names: Sequence[str], features: Floats) -> list[Rule]:
    """The model as rows of churn_model_points; `features` say what is usual."""
    usual = climb(model.ramps, features).mean(axis=0) * model.points
    rules = [
        Rule(
            f"{names[ramp.feature]} from {ramp.starts_at:g}",
            names[ramp.feature],
            ramp.starts_at,
            ramp.full_at,
            round(float(points), 6),
            round(float(average), 6),
        )
        for ramp, points, average in zip(model.ramps, model.points, usual, strict=True)
    ]
    baseline = round(model.baseline, 6)
    return [*rules, Rule("baseline", "always", 0.0, 1.0, baseline, baseline)]


def logits_by_rules(rules: Sequence[Rule], names: Sequence[str], features: Floats) -> Floats:
    """The sum of points of each row (n) as SQL adds them up; an unknown feature gives none."""
    total = np.zeros(features.shape[0])
    for rule in rules:
        if rule.feature == "always":
            total += rule.points
        elif rule.feature in names:
            ramp = Ramp(list(names).index(rule.feature), rule.starts_at, rule.full_at)
            total += rule.points * climb([ramp], features)[:, 0]
    return np.round(total, 6)


def probabilities(logits: Floats) -> Floats:
    """The logistic of the points, with the four decimals that churn_scores keeps."""
    from scipy.special import expit

    rounded: Floats = np.round(expit(logits), 4)
    return rounded


def measures(churned: NDArray[np.bool_], predicted: Floats) -> dict[str, float]:
    """AUC, calibration error (mean gap between predicted and actual share over ten bins of equal
    size), log loss and Brier score of probabilities."""
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    return {
        "auc": round(float(roc_auc_score(churned, predicted)), 4),
        "calibration_error": round(calibration_error(churned, predicted), 4),
        "log_loss": round(float(log_loss(churned, np.clip(predicted, 1e-4, 1 - 1e-4))), 4),
        "brier": round(float(brier_score_loss(churned, predicted)), 4),
    }


def calibration_error(churned: NDArray[np.bool_], predicted: Floats) -> float:
    """Mean of |predicted - actual share| over ten bins of equal size."""
    bins: list[Any] = np.array_split(np.argsort(predicted, kind="stable"), BINS)
    gaps = [
        abs(float(predicted[rows].mean() - churned[rows].mean())) * len(rows)
        for rows in bins
        if len(rows)
    ]
    return sum(gaps) / len(churned)


def score_bins(predicted: Floats) -> list[tuple[int, float, float, float]]:
    """Number, lower end, upper end and share of up to ten bins that hold about as many scores."""
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, BINS + 1)[1:-1]))
    ends = [0.0, *(float(edge) for edge in edges if edge > 0), 1.0001]
    return [
        (number, low, high, float(((predicted >= low) & (predicted < high)).mean()))
        for number, (low, high) in enumerate(pairwise(ends), start=1)
    ]
