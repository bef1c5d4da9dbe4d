"""How often a customer buys again, and for how much: BG/NBD and Gamma-Gamma, fitted by likelihood.

BG/NBD (Fader, Hardie and Lee 2005): while active a customer buys at a rate of its own (gamma r,
alpha); after each purchase it drops out with a chance of its own (beta a, b). A customer is known
by x repeat purchases, the last at t_x, observed for T, all counted from the first purchase.
Gamma-Gamma (Fader and Hardie 2013): the value of a purchase varies around a mean of the
customer's own, which is independent of how often it buys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln, expit, gammaln, hyp2f1, logsumexp

from orchestration.learning.points import Floats


class NotFitted(Exception):
    """No parameters describe these customers; the message says why."""


@dataclass(frozen=True)
class Purchases:
    """n customers; times in any one unit, which the parameters then have too."""

    repeats: Floats  # (n,) x
    last_at: Floats  # (n,) t_x; 0 where x is 0
    observed: Floats  # (n,) T

    def __len__(self) -> int:
        return len(self.repeats)


@dataclass(frozen=True)
class BgNbd:
    r: float
    alpha: float
    a: float
    b: float

    def log_likelihood(self, of: Purchases) -> Floats:
        """Of each customer (n,)."""
        r, alpha, a, b = self.r, self.alpha, self.a, self.b
        x = of.repeats
        common = gammaln(r + x) - gammaln(r) + r * np.log(alpha)
        active = betaln(a, b + x) - betaln(a, b) - (r + x) * np.log(alpha + of.observed)
        with np.errstate(divide="ignore"):
            gone = np.where(
                x > 0,
                betaln(a + 1, b + np.maximum(x, 1) - 1)
                - betaln(a, b)
                - (r + x) * np.log(alpha + of.last_at),
                -np.inf,
            )
        total: Floats = common + logsumexp(np.vstack([active, gone]), axis=0)
        return total

    def probability_active(self, of: Purchases) -> Floats:
        """That a customer (n,) has not dropped out; 1 before the first repeat."""
        x = of.repeats
        odds = np.log(self.a / (self.b + np.maximum(x, 1) - 1)) + (self.r + x) * np.log(
            (self.alpha + of.observed) / (self.alpha + of.last_at)
        )
        active: Floats = np.where(x > 0, expit(-odds), 1.0)
        return active

    def expected_purchases(self, of: Purchases, ahead: float) -> Floats:
        """Of each customer (n,) in the time ahead, given what it did: the paper's equation 10."""
        r, alpha, a, b = self.r, self.alpha, self.a, self.b
        x, observed = of.repeats, of.observed
        z = ahead / (alpha + observed + ahead)
        series = hyp2f1(r + x, b + x, a + b + x - 1, z)
        shrink = np.exp((r + x) * np.log((alpha + observed) / (alpha + observed + ahead)))
        bought: Floats = (a + b + x - 1) / (a - 1) * (1 - shrink * series)
        return bought * self.probability_active(of)


@dataclass(frozen=True)
class GammaGamma:
    p: float
    q: float
    gamma: float

    def log_likelihood(self, purchases: Floats, mean_value: Floats) -> Floats:
        """Of customers (n,) with so many purchases of that mean value."""
        p, q, gamma, n = self.p, self.q, self.gamma, purchases
        total: Floats = (
            gammaln(p * n + q)
            - gammaln(p * n)
            - gammaln(q)
            + q * np.log(gamma)
            + (p * n - 1) * np.log(mean_value)
            + p * n * np.log(n)
            - (p * n + q) * np.log(gamma + n * mean_value)
        )
        return total

    def expected_value(self, purchases: Floats, mean_value: Floats) -> Floats:
        """Of a purchase to come (n,): between the customer's own mean and everybody's."""
        weighed: Floats = (
            self.p * (self.gamma + purchases * mean_value) / (self.p * purchases + self.q - 1)
        )
        return weighed


def fit_bg_nbd(of: Purchases) -> BgNbd:
    """The parameters of greatest likelihood.

    Raises:
        NotFitted: nobody bought twice, or the search found no maximum.
    """
    if not (of.repeats > 0).any():
        raise NotFitted("Nobody has bought on two days yet: there is no rhythm to learn.")
    scale = float(of.observed.mean())
    scaled = Purchases(of.repeats, of.last_at / scale, of.observed / scale)
    found = _maximise(lambda theta: BgNbd(*theta).log_likelihood(scaled), 4)
    r, alpha, a, b = found
    return BgNbd(r, alpha * scale, a, b)


def fit_gamma_gamma(purchases: Floats, mean_value: Floats) -> GammaGamma:
    """The parameters of greatest likelihood; customers without value are left out.

    Raises:
        NotFitted: fewer than two customers have value, or the search found no maximum.
    """
    known = (purchases > 0) & (mean_value > 0)
    if known.sum() < 2:
        raise NotFitted("Fewer than two customers bought anything of value.")
    scale = float(mean_value[known].mean())
    n, mean = purchases[known], mean_value[known] / scale
    p, q, gamma = _maximise(lambda theta: GammaGamma(*theta).log_likelihood(n, mean), 3)
    return GammaGamma(p, q, gamma * scale)


def _maximise(log_likelihood: object, parameters: int) -> list[float]:
    """Positive parameters, searched by their logarithms from several starts."""

    def loss(logs: Floats) -> float:
        with np.errstate(all="ignore"):
            value = -float(np.mean(log_likelihood(np.exp(logs))))  # type: ignore[operator]
        # The weak pull keeps parameters that the data say nothing about from running away.
        return (value if np.isfinite(value) else 1e6) + 1e-6 * float(logs @ logs)

    tries = [
        minimize(loss, np.full(parameters, start), method="L-BFGS-B", bounds=[(-7, 9)] * parameters)
        for start in (0.0, 1.0, -1.0)
    ]
    best = min(tries, key=lambda one: float(one.fun))
    if not np.isfinite(best.fun) or best.fun >= 1e6:
        raise NotFitted("No parameters describe these purchases.")
    return [float(value) for value in np.exp(best.x)]
