"""The churn model in SQL: its training set against a reference in Python, its scores against it."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
from dbt_streams import NOW, stream
from dbt_warehouse import Warehouse

from orchestration.learning import points
from orchestration.learning.points import Rule

HORIZON, STEP, DATES, SILENCE_MIN, GAPS = 10, 7, 3, 3, 3
MEANING: dict[str, Any] = {
    "churn_horizon_days": HORIZON,
    "churn_training_step_days": STEP,
    "churn_training_dates": DATES,
    "churn_history_days_min": 1,
    "churn_silence_days_min": SILENCE_MIN,
    "churn_gaps": GAPS,
}
KEYS = {"customer_id", "as_of_date", "horizon_days", "churn_kind", "silence_days", "churned"}


def built(warehouse: Warehouse, seed: int, size: int) -> None:
    warehouse.load(stream(seed, size=size, days=60, records=False))
    warehouse.dbt("seed")
    warehouse.dbt("run", "--select", "+churn_training_set", "+churn_scores", as_of=NOW, **MEANING)


def features_of_days(warehouse: Warehouse) -> str:
    return warehouse.inline("{{ churn_features() }}")


def test_the_training_set_says_what_was_known_and_what_came_of_it(warehouse: Warehouse) -> None:
    built(warehouse, seed=21, size=150)
    rows = warehouse.query(
        "select customer_id, as_of_date, silence_days, churned, churn_kind from churn_training_set"
    )
    last = NOW.date() - timedelta(days=1 + HORIZON)
    assert {row[1] for row in rows} == {last - timedelta(days=STEP * n) for n in range(DATES)}

    # Features: the same as customer_features_daily tells of the same day.
    names = [name for name in warehouse.columns("churn_training_set") if name not in KEYS]
    daily = features_of_days(warehouse)
    differing = " or ".join(
        f"abs(coalesce(t.{name}, -99) - coalesce(cast(f.{name} as double), -99)) > 1e-9"
        for name in names
    )
    join = f"from churn_training_set t left join ({daily}) f using (customer_id, as_of_date)"
    assert warehouse.query(f"select count(*), count(f.customer_id) {join}") == [(len(rows),) * 2]
    assert warehouse.query(f"select count(*) {join} where {differing}") == [(0,)]

    # Labels: by the customer's own rhythm, counted here from the timeline.
    active: dict[str, set[date]] = defaultdict(set)
    for customer, day in warehouse.query(
        "select customer_id, event_date from customer_timeline where is_activity"
    ):
        active[customer].add(day)
    known = dict(
        warehouse.query(
            "select customer_id, min(first_seen_at)::date from identity_map"
            " where kind_rank < 4 group by 1"
        )
    )
    for customer, as_of, silence_days, churned, kind in rows:
        before = sorted(day for day in active[customer] if day <= as_of)
        assert before and known[customer] <= as_of and kind == "silence"
        wanted = HORIZON
        if len(before) > 1:
            gap = (before[-1] - before[0]).days / (len(before) - 1)
            wanted = min(HORIZON, max(SILENCE_MIN, int(np.ceil(round(GAPS * gap, 9)))))
        assert silence_days == wanted
        until = as_of + timedelta(days=wanted)
        assert churned == (not any(as_of < day <= until for day in active[customer]))
    assert {row[3] for row in rows} == {True, False}


def test_a_contract_ends_by_cancellation_and_not_by_silence(warehouse: Warehouse) -> None:
    from dbt_warehouse import Message

    as_of = NOW.date() - timedelta(days=1 + HORIZON)

    def event(user: str, name: str, day: int) -> Message:
        at = datetime(as_of.year, as_of.month, as_of.day, 9, tzinfo=NOW.tzinfo)
        at += timedelta(days=day)
        return Message("track", at, f"{user}{name}{day}", user, None, name, {"properties": {}})

    warehouse.load(
        [
            *(event(user, "Logged In", -8) for user in ("quiet", "ends", "late", "ended")),
            *(event(user, "Subscription Started", -7) for user in ("quiet", "ends", "late")),
            event("ends", "Subscription Cancelled", 4),
            event("ends", "Logged In", 5),
            event("late", "Subscription Cancelled", HORIZON + 1),
            event("ended", "Subscription Started", -7),
            event("ended", "Subscription Cancelled", -2),
        ]
    )
    warehouse.dbt("seed")
    warehouse.dbt(
        "run",
        "--select",
        "+churn_training_set",
        as_of=NOW,
        **{**MEANING, "churn_training_dates": 1},
    )
    assert warehouse.query(
        "select id_value, churn_kind, churned, has_contract from churn_training_set"
        " inner join identity_map using (customer_id) order by 1"
    ) == [
        ("ended", "silence", True, 0.0),
        ("ends", "cancellation", True, 1.0),
        ("late", "cancellation", False, 1.0),
        ("quiet", "cancellation", False, 1.0),
    ]


def test_sql_gives_pythons_probability(warehouse: Warehouse) -> None:
    built(warehouse, seed=22, size=400)
    chance = random.Random(7)
    names = [name for name in warehouse.columns("churn_training_set") if name not in KEYS]
    rules = [Rule("baseline", "always", 0.0, 1.0, -0.4, -0.4)]
    for name in names:
        for number in range(2):
            starts_at = chance.uniform(-1, 20)
            full_at = starts_at + chance.uniform(0.5, 30)
            amount, usual = round(chance.uniform(-2, 2), 6), round(chance.uniform(-1, 1), 6)
            rules.append(Rule(f"{name} {number}", name, starts_at, full_at, amount, usual))
    with warehouse.connect() as connection:
        for version in (1, 2):
            connection.execute(
                "insert into model_registry (model, version, is_champion) values ('churn', ?, ?)",
                [version, version == 2],
            )
        connection.execute("insert into churn_model_points values (1, 'old', 'always', 0, 1, 9, 0)")
        connection.executemany(
            "insert into churn_model_points values (2, ?, ?, ?, ?, ?, ?)",
            [tuple(vars(rule).values()) for rule in rules],
        )
    warehouse.dbt(
        "run", "--full-refresh", "--select", "churn_points", "churn_scores_daily", as_of=NOW
    )
    columns = ", ".join(f"cast(f.{name} as double)" for name in names)
    rows = warehouse.query(
        f"select s.churn_score, s.customer_id, s.as_of_date, {columns} from churn_scores_daily s"
        f" inner join ({features_of_days(warehouse)}) f using (customer_id, as_of_date)"
    )
    features = np.array([[np.nan if x is None else x for x in row[3:]] for row in rows])
    wanted = points.probabilities(points.logits_by_rules(rules, names, features))
    assert len(rows) > 100
    # The last of six decimals of the points may fall either way.
    assert np.abs(wanted - np.array([row[0] for row in rows])).max() <= 1e-4 + 1e-12
    assert (wanted == np.array([row[0] for row in rows])).mean() > 0.99

    # The reasons are the features that weigh most against what is usual.
    latest = {row[1]: row for row in rows if row[2] == NOW.date()}
    words = dict(warehouse.query("select feature, reason from churn_model_features"))
    told = warehouse.query("select customer_id, reason_1 from churn_scores")
    assert len(told) == len(latest)
    for customer, reason in told:
        one = np.array([[np.nan if x is None else x for x in latest[customer][3:]]])
        weighed = {}
        for position, name in enumerate(names):
            if not np.isnan(one[0, position]):
                own = [rule for rule in rules if rule.feature == name]
                usual = sum(rule.usual_points for rule in own)
                weighed[name] = float(points.logits_by_rules(own, names, one)[0]) - usual
        strongest = max(weighed, key=lambda name: weighed[name])
        assert reason.startswith(words[strongest].partition("{")[0])
