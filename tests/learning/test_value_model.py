"""BG/NBD and Gamma-Gamma against their definitions, published values, and worlds that we made."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import beta as beta_function
from scipy.special import gamma as gamma_function

from orchestration.learning.value_model import (
    BgNbd,
    GammaGamma,
    NotFitted,
    Purchases,
    fit_bg_nbd,
    fit_gamma_gamma,
)

PAPER = BgNbd(r=0.243, alpha=4.414, a=0.793, b=2.426)


def people(*rows: tuple[float, float, float]) -> Purchases:
    columns = np.array(rows, float).T
    return Purchases(*columns)


def world(rows: int, seed: int, model: BgNbd) -> tuple[Purchases, np.ndarray]:
    """Customers who live by the model's own story; also the purchases of the next 40 units."""
    chance = np.random.default_rng(seed)
    x, last_at, observed, after = [], [], [], []
    for _ in range(rows):
        rate = chance.gamma(model.r, 1 / model.alpha)
        leaves = chance.beta(model.a, model.b)
        until = chance.uniform(20, 60)
        at, count, last, later = 0.0, 0, 0.0, 0
        while True:
            at += chance.exponential(1 / rate) if rate > 1e-9 else np.inf
            if at > until + 40:
                break
            if at <= until:
                count, last = count + 1, at
            else:
                later += 1
            if chance.random() < leaves:
                break
        x.append(count)
        last_at.append(last)
        observed.append(until)
        after.append(later)
    return Purchases(np.array(x, float), np.array(last_at), np.array(observed)), np.array(after)


def test_the_likelihood_is_the_integral_of_the_story() -> None:
    """Section 3 of the paper, integrated numerically instead of in closed form."""
    for x, last_at, observed in [(0, 0.0, 30.0), (1, 12.0, 30.0), (4, 28.0, 30.0), (2, 3.0, 38.86)]:
        r, alpha, a, b = PAPER.r, PAPER.alpha, PAPER.a, PAPER.b

        def rate_part(until: float, x: int = x, r: float = r, alpha: float = alpha) -> float:
            weight = alpha**r / gamma_function(r)
            # l = u^4 tames the pole of the gamma density at 0.
            value, _ = quad(
                lambda u: 4 * u**3 * (u**4) ** (r + x - 1) * np.exp(-(u**4) * (alpha + until)),
                0,
                4,
            )
            return float(weight * value)

        active = beta_function(a, b + x) / beta_function(a, b) * rate_part(observed)
        gone = 0.0
        if x:
            gone = beta_function(a + 1, b + x - 1) / beta_function(a, b) * rate_part(last_at)
        (found,) = PAPER.log_likelihood(people((x, last_at, observed)))
        assert found == pytest.approx(np.log(active + gone), abs=1e-5)
        (alive,) = PAPER.probability_active(people((x, last_at, observed)))
        assert alive == pytest.approx(active / (active + gone), abs=1e-5)


def test_expectations_agree_with_published_ones() -> None:
    """Fader, Hardie and Lee's note on implementing the model: customer 0001 of the CDNOW sample,
    two repeats, the last after 30.43 of 38.86 weeks, is expected to buy 1.226 times in 39 weeks."""
    (expected,) = PAPER.expected_purchases(people((2, 30.43, 38.86)), 39.0)
    assert expected == pytest.approx(1.226, abs=0.001)


def test_expectations_are_what_a_made_world_does() -> None:
    model = BgNbd(r=0.6, alpha=8.0, a=0.9, b=2.5)
    past, after = world(12_000, seed=1, model=model)
    expected = model.expected_purchases(past, 40.0)
    assert expected.sum() == pytest.approx(after.sum(), rel=0.05)
    for low, high in ((0, 0), (1, 2), (3, 99)):
        group = (past.repeats >= low) & (past.repeats <= high)
        assert expected[group].mean() == pytest.approx(after[group].mean(), rel=0.12, abs=0.02)


def test_the_fit_recovers_a_made_world_in_any_unit() -> None:
    model = BgNbd(r=0.6, alpha=8.0, a=0.9, b=2.5)
    past, _ = world(4_000, seed=2, model=model)
    found = fit_bg_nbd(past)
    assert found.r / found.alpha == pytest.approx(model.r / model.alpha, rel=0.15)
    assert found.a / (found.a + found.b) == pytest.approx(model.a / (model.a + model.b), rel=0.25)
    gain = found.log_likelihood(past).sum() - model.log_likelihood(past).sum()
    assert 0 <= gain < 12  # a maximum beats the truth, by a little
    days = Purchases(past.repeats, past.last_at * 7, past.observed * 7)
    assert fit_bg_nbd(days).alpha == pytest.approx(found.alpha * 7, rel=0.02)


def test_gamma_gamma_recovers_a_made_world_and_shrinks_towards_everybody() -> None:
    chance = np.random.default_rng(3)
    truth = GammaGamma(p=6.0, q=4.0, gamma=15.0)
    n = chance.integers(1, 9, 8_000).astype(float)
    nu = chance.gamma(truth.q, 1 / truth.gamma, len(n))
    mean = chance.gamma(truth.p * n, 1 / (nu * n))
    found = fit_gamma_gamma(n, mean)
    everybody = truth.p * truth.gamma / (truth.q - 1)
    assert found.p * found.gamma / (found.q - 1) == pytest.approx(everybody, rel=0.05)
    one, many = found.expected_value(np.array([1.0, 50.0]), np.array([90.0, 90.0]))
    assert everybody < one < many < 90
    assert many == pytest.approx(90, rel=0.05)


def test_what_cannot_be_fitted_is_said() -> None:
    with pytest.raises(NotFitted, match="two days"):
        fit_bg_nbd(people((0, 0, 10), (0, 0, 20)))
    with pytest.raises(NotFitted, match="of value"):
        fit_gamma_gamma(np.array([1.0, 2.0]), np.array([0.0, 0.0]))
