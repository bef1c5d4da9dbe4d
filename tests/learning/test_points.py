"""The churn model's arithmetic: what it learns, how it is calibrated, what it hands to SQL."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.learning import churn, points
from orchestration.learning.points import Ramp, Rule
from orchestration.learning.registry import TrainingSet

NAMES = ("silence", "orders", "noise")


def crowd(rows: int, seed: int, *, days: int = 6) -> tuple[TrainingSet, points.Floats]:
    """Customers whose chance of leaving is known: it grows with silence and falls with orders."""
    chance = np.random.default_rng(seed)
    features = np.column_stack(
        [chance.exponential(60, rows), chance.poisson(3, rows) * 1.0, chance.normal(size=rows)]
    )
    features[chance.random(rows) < 0.1, 2] = np.nan
    logits = np.clip(features[:, 0] / 40, 0, 3) - 0.6 * features[:, 1]
    truth = 1 / (1 + np.exp(-logits))
    asked = np.datetime64("2026-01-01") + 30 * np.sort(chance.integers(0, days, rows))
    customers = np.array([f"cus_{number}" for number in range(rows)])
    churned = chance.random(rows) < truth
    return TrainingSet(NAMES, 60, customers, asked, churned, features), truth


def test_it_finds_what_drives_leaving_and_knows_how_sure_it_is() -> None:
    rows, _ = crowd(9000, seed=1)
    fresh, truth = crowd(6000, seed=2)
    trained = churn.train(rows)
    predicted = points.probabilities(points.logits_by_rules(trained.rules, NAMES, fresh.features))
    assert trained.metrics["split"] == "time"
    best = points.measures(fresh.churned, truth)["auc"]
    assert points.measures(fresh.churned, predicted)["auc"] > best - 0.01
    assert points.calibration_error(fresh.churned, predicted) < 0.03
    weight = dict.fromkeys((*NAMES, "always"), 0.0)
    for rule in trained.rules:
        weight[rule.feature] += abs(rule.points)
    assert weight["noise"] < 0.1 * weight["silence"]
    assert all(rule.points > 0 for rule in trained.rules if rule.feature == "silence")


def test_too_few_of_either_kind_is_said_in_words() -> None:
    rows, _ = crowd(200, seed=3)
    few = rows.where(~rows.churned | (np.arange(200) < 20))
    with pytest.raises(churn.TooLittleHistory, match="customers who left"):
        churn.train(few)
    with pytest.raises(churn.TooLittleHistory, match="0 and 0"):
        churn.train(rows.where(np.zeros(200, bool)))


def test_a_champion_is_only_beaten_by_a_better_one() -> None:
    rows, _ = crowd(6000, seed=4)
    trained = churn.train(rows)
    ignorant = [Rule("baseline", "always", 0.0, 1.0, 0.0, 0.0)]
    losses = churn.challenge(rows, trained, ignorant)
    assert losses["challenger"] < losses["champion"]
    # The truth itself: ramps without noise, which no fit of a sample beats.
    truth = [
        Rule("silence", "silence", 0.0, 120.0, 3.0, 0.0),
        Rule("orders", "orders", 0.0, 20.0, -12.0, 0.0),
    ]
    losses = churn.challenge(rows, trained, truth)
    assert losses["challenger"] > losses["champion"]


@given(
    st.lists(st.one_of(st.floats(-50, 150), st.just(float("nan"))), min_size=1, max_size=20),
    st.floats(-20, 80),
    st.floats(0.5, 60),
)
def test_a_ramp_grows_from_none_to_all_and_ignores_the_unknown(
    values: list[float], starts_at: float, length: float
) -> None:
    heights = points.climb([Ramp(0, starts_at, starts_at + length)], np.array(values)[:, None])
    for value, height in zip(values, heights[:, 0], strict=True):
        if np.isnan(value) or value <= starts_at:
            assert height == 0
        elif value >= starts_at + length:
            assert height == 1
        else:
            assert height == pytest.approx((value - starts_at) / length)


def test_calibration_error_is_the_mean_gap() -> None:
    churned = np.array([True, False] * 500)
    assert points.calibration_error(churned, np.full(1000, 0.5)) == pytest.approx(0.0)
    assert points.calibration_error(churned, np.full(1000, 0.8)) == pytest.approx(0.3)


def test_bins_hold_all_scores() -> None:
    scores = np.round(np.random.default_rng(5).beta(1, 4, 2000), 4)
    bins = points.score_bins(scores)
    assert sum(share for *_, share in bins) == pytest.approx(1)
    assert [low for _, low, _, _ in bins][1:] == [high for _, _, high, _ in bins][:-1]
    assert len(points.score_bins(np.full(10, 0.25))) == 2
