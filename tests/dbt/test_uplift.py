"""`signal_uplift` against the published example of its interval and a reference in Python."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime

import pytest
from dbt_warehouse import Warehouse

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
SYNC = "smtp_email__cart_abandoned"


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Both ends of the score interval, as the roots of (p - x)^2 = z^2 x (1 - x) / n."""
    z, p = 1.959963984540054, successes / trials
    a, b, c = 1 + z * z / trials, -(2 * p + z * z / trials), p * p
    root = math.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def newcombe(x1: int, n1: int, x2: int, n2: int) -> tuple[float, float, float]:
    """Difference of two rates with its 95 % interval: Newcombe 1998, method 10."""
    (l1, u1), (l2, u2) = wilson(x1, n1), wilson(x2, n2)
    p1, p2 = x1 / n1, x2 / n2
    low = p1 - p2 - math.hypot(p1 - l1, u2 - p2)
    return p1 - p2, low, p1 - p2 + math.hypot(u1 - p1, p2 - l2)


def uplift(warehouse: Warehouse, x1: int, n1: int, x2: int, n2: int) -> list[tuple[object, ...]]:
    """The model's answer for x1 of n1 messaged and x2 of n2 held out with the outcome."""
    with warehouse.connect() as connection:
        connection.execute(
            f"""
            create or replace table main.sync_results as
            select '{SYNC}' as sync, 'message' as mode, 'c' || range as customer_id,
                case when range < {n1} then 'delivered' else 'suppressed' end as state,
                case when range >= {n1} then 'holdout' end as policy,
                case when range < {n1} then timestamptz '2026-01-01' end as sent_at,
                timestamptz '2026-01-01' as updated_at
            from range({n1 + n2});
            create or replace table main.customer_timeline as
            select 'c' || range as customer_id, 'Purchase Completed' as event,
                timestamptz '2026-01-03' as event_at
            from range({n1 + n2})
            where range < {x1} or range between {n1} and {n1 + x2 - 1}
            """
        )
        return connection.execute(  # type: ignore[no-any-return]
            "select customers_messaged, customers_held_out, outcomes_messaged, outcomes_held_out,"
            " uplift, uplift_low, uplift_high, verdict from main.signal_uplift where sync = $sync",
            {"sync": SYNC},
        ).fetchall()


def test_the_interval_is_newcombes(warehouse: Warehouse) -> None:
    with warehouse.connect() as connection:
        connection.execute(
            "create table main.sync_results (sync varchar, mode varchar, customer_id varchar,"
            " state varchar, policy varchar, sent_at timestamptz, updated_at timestamptz);"
            "create table main.customer_timeline (customer_id varchar, event varchar,"
            " event_at timestamptz)"
        )
    warehouse.dbt("run", "--select", "signal_uplift", as_of=AS_OF)
    # Examples of the paper's table II, to four decimals.
    published = {
        (56, 70, 48, 80): (0.0524, 0.3339),
        (9, 10, 3, 10): (0.1705, 0.8090),
        (5, 56, 0, 29): (-0.0381, 0.1926),
        (10, 10, 0, 10): (0.6075, 1.0),
    }
    chance = random.Random(1)
    drawn = []
    for _ in range(20):
        n1, n2 = chance.randint(1, 400), chance.randint(1, 60)
        drawn.append((chance.randint(0, n1), n1, chance.randint(0, n2), n2))
    for counts in [*published, *drawn]:
        x1, n1, x2, n2 = counts
        (row,) = uplift(warehouse, *counts)
        assert row[:4] == (n1, n2, x1, x2)
        wanted = newcombe(*counts)
        assert row[4:7] == pytest.approx(wanted, abs=1e-9)
        if counts in published:
            assert row[5:7] == pytest.approx(published[counts], abs=5e-5)
        words = ("the message helps", "the message harms", "no difference seen")
        assert row[7] == words[0 if wanted[1] > 0 else 1 if wanted[2] < 0 else 2]
    (row,) = uplift(warehouse, 3, 5, 0, 0)
    assert row[4:] == (None, None, None, "no data yet")
