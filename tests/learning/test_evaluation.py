"""`signalbox train` and `evaluate` on a lake of its own: no look into the future, a real result."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestration import ingest, lake, warehouse
from orchestration.assets import learning, models
from orchestration.learning import churn, evaluation, training
from orchestration.learning.churn import TooLittleHistory
from orchestration.settings import Settings, load_settings

pytestmark = pytest.mark.long

START = datetime(2025, 1, 1, 8, tzinfo=UTC)
AS_OF = date(2025, 7, 1)
HORIZON = 45
PEOPLE = 400


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("SIGNALBOX_HOME", str(home))
    load_settings.cache_clear()
    yield load_settings()
    load_settings.cache_clear()


def shop(since: datetime, until: datetime) -> list[dict[str, Any]]:
    """Purchases of people with a rhythm each, of whom many stop after some purchase."""
    messages = []
    for person in range(PEOPLE):
        rnd = random.Random(person)
        gap, stops = rnd.uniform(4, 40), rnd.uniform(0.02, 0.4)
        at, number = START + timedelta(days=rnd.uniform(0, 120)), 0
        while at < START + timedelta(days=330):
            if since <= at < until:
                order = {"order_id": f"o{person}-{number}", "currency": "EUR"}
                order |= {"total": round(rnd.uniform(5, 90), 2), "items": []}
                messages.append(
                    {
                        "type": "track",
                        "event": "Purchase Completed",
                        "messageId": f"m{person}-{number}",
                        "userId": f"u{person}",
                        "timestamp": at.isoformat(),
                        "properties": order,
                    }
                )
            else:
                rnd.uniform(5, 90)
            if rnd.random() < stops:
                break
            at, number = at + timedelta(days=rnd.expovariate(1 / gap)), number + 1
    return messages


def fill(settings: Settings, directory: Path, since: datetime, until: datetime) -> None:
    path = directory / "shop.jsonl"
    path.write_text("\n".join(json.dumps(message) for message in shop(since, until)))
    ingest.import_file(settings, path, None, "import")
    with lake.writer(settings, "test"):
        warehouse.ensure(settings)
        ingest.loader(settings).load()


def told(path: Path) -> list[tuple[Any, ...]]:
    rows = pq.read_table(path).to_pylist()
    return [(tuple(row["ids"]), row["probability"], row["band"], row["reason_1"]) for row in rows]


def test_the_future_makes_no_difference_and_the_past_foretells(
    settings: Settings, home: Path, tmp_path: Path
) -> None:
    cut = datetime(AS_OF.year, AS_OF.month, AS_OF.day, tzinfo=UTC)
    fill(settings, tmp_path, START, cut)
    blind = evaluation.evaluate(settings, AS_OF, HORIZON, tmp_path / "blind.parquet")
    fill(settings, tmp_path, cut, START + timedelta(days=400))
    result = evaluation.evaluate(settings, AS_OF, HORIZON, tmp_path / "seeing.parquet")

    assert told(tmp_path / "blind.parquet") == told(tmp_path / "seeing.parquet")
    assert blind.metrics is None and "nobody knows" in blind.notes[0]
    assert result.scored_by == "model" and result.metrics is not None
    assert result.metrics["auc"] > 0.75
    assert result.metrics["calibration_error"] < 0.12
    assert not list(home.glob("evaluation-*"))

    # The outcome in the file is what the purchases say.
    ends = cut + timedelta(days=HORIZON)
    stayed = {message["userId"] for message in shop(cut, ends)}
    for row in pq.read_table(tmp_path / "seeing.parquet").to_pylist():
        assert row["churned"] == (row["ids"][0].removeprefix("user:") not in stayed)

    with pytest.raises(evaluation.EvaluationError, match="2025-01-"):
        evaluation.evaluate(settings, date(2024, 1, 1), 90, tmp_path / "none.parquet")
    early = evaluation.evaluate(settings, date(2025, 1, 20), 400, tmp_path / "early.parquet")
    assert early.scored_by == "rules" and "customers who left" in early.notes[0]
    assert early.customers > 0


def test_training_on_the_lake(settings: Settings) -> None:
    """After the evaluation, on the same lake: trained as every night, scored by plain SQL."""
    with pytest.raises(TooLittleHistory, match="signalbox build"):
        training.train_churn(settings)
    now = START + timedelta(days=330)
    chosen = ["--select", "+churn_scores", "+customer_value", "+churn_model_drift"]
    with lake.writer(settings, "test"):
        args = [*chosen, "--exclude-resource-type", "test", "unit_test"]
        assert list(models.build(args, settings, as_of=now))
    first = training.train_churn(settings, as_of=now)
    value = training.train_value(settings, as_of=now)
    with lake.writer(settings, "test"), lake.connect(settings, read_only=False) as connection:
        again = churn.learn(connection)
    assert first.is_champion and (again.version, again.is_champion) == (2, False)
    assert "not below" in again.verdict
    assert value.is_champion and value.metrics["actual_purchases"] > 0
    with lake.connect(settings) as connection:
        versions = connection.execute("select distinct version from churn_points").fetchall()
        assert versions == [(1,)]
        assert connection.execute(
            "select count(*), count(expected_value), min(probability_active) >= 0,"
            " max(probability_active) <= 1, min(expected_purchases) >= 0 from customer_value"
        ).fetchone() == (PEOPLE, PEOPLE, True, True, True)
        checks = {check.check_name: check.passed for check in learning.checks(connection)}
    assert checks["one_champion_and_it_was_better"]
    with lake.writer(settings, "test"), lake.connect(settings, read_only=False) as connection:
        connection.execute("update model_registry set is_champion = true where model = 'churn'")
        broken = {check.check_name: check.passed for check in learning.checks(connection)}
    assert not broken["one_champion_and_it_was_better"]
