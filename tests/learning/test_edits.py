"""`signalbox backtest` and `diff` on a lake of its own: what an edit of the SQL would have done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestration import activate, dbt, diff, ingest, lake, scratch, warehouse
from orchestration.assets.models import stale
from orchestration.backtest import BacktestError, Outcome, backtest
from orchestration.backtest.outcome import OutcomeError, of
from orchestration.settings import DBT_PROJECT, Settings, load_settings

pytestmark = pytest.mark.long

END = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
START = END - timedelta(days=60)
CANCELLED = Outcome(timedelta(days=30), "Subscription Cancelled")


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def events() -> list[dict[str, Any]]:
    """Four customers: a fails to pay and cancels, b fails to pay, c cancels, d pays late."""
    found: list[dict[str, Any]] = []

    def add(user: str, at: datetime, event: str, **properties: Any) -> None:
        found.append(
            {
                "type": "track", "event": event, "messageId": f"m{len(found)}", "userId": user,
                "timestamp": at.isoformat(), "properties": properties,
            }
        )  # fmt: skip

    for user in "abcd":
        email = {"email": f"{user}@shop.example"}
        found.append(
            {
                "type": "identify", "messageId": f"i{user}", "userId": user, "traits": email,
                "timestamp": day(0).isoformat(),
            }
        )  # fmt: skip
        for number in range(0, 60, 3):
            add(user, day(number + 0.5), "Logged In")
    for user, at in (("a", 22.3), ("b", 23.3)):
        invoice = {"invoice_id": f"in-{user}", "amount": 9, "currency": "EUR"}
        add(user, day(at), "Payment Failed", **invoice)
    now = datetime.now(UTC)
    late = {"invoice_id": "in-d", "amount": 9, "currency": "EUR"}
    add("d", now, "Payment Failed", **late)
    add("d", now + timedelta(milliseconds=10), "Payment Succeeded", **late)
    add("a", day(32.3), "Subscription Cancelled", subscription_id="s-a", status="canceled")
    add("c", day(40.3), "Subscription Cancelled", subscription_id="s-c", status="canceled")
    return found


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working tree of the dbt project that a test may edit."""
    copy = tmp_path / "dbt_project"
    shutil.copytree(DBT_PROJECT, copy, ignore=shutil.ignore_patterns("target", "logs"))
    for module in (dbt, scratch):
        monkeypatch.setattr(module, "DBT_PROJECT", copy)
    (copy / "dbt_project.yml").touch()  # nothing that was parsed of another copy is used
    return copy


@pytest.fixture
def settings(
    home: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    monkeypatch.setenv("SIGNALBOX_HOME", str(home))
    load_settings.cache_clear()
    settings = load_settings()
    warehouse.ensure(settings)  # what happens from now on is the ledger's to send
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(json.dumps(message) for message in events()))
    ingest.import_file(settings, path, None, "import")
    with lake.writer(settings, "test"):
        ingest.loader(settings).load()
    yield settings
    load_settings.cache_clear()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_signal_is_counted_and_judged_by_what_came(settings: Settings) -> None:
    result = backtest(
        settings, "payment_failed", since=day(20), step=timedelta(days=10), judged_by=CANCELLED
    )

    assert (result.fired, result.customers, result.hindsight) == (3, 3, 0)
    assert sum(period["fired"] for period in result.periods) == 3
    assert sum(period["not_yet_known"] for period in result.periods) == 1
    quality = result.quality
    assert quality is not None
    assert (quality.known, quality.followed, quality.precision) == (2, 1, 0.5)
    assert (quality.outcomes, quality.foretold, quality.recall) == (2, 1, 0.5)
    assert quality.lead_days == [10, 10, 10]
    # Of four customers at the 20th day, one cancels within 30 days, as does another on the 30th.
    assert quality.base_rate == 0.5
    assert quality.lift == 1
    assert result.built is None


def test_what_only_hindsight_tells_is_not_counted(settings: Settings, project: Path) -> None:
    """An edit that peeks at the cancellation would look perfect in any history built today."""
    edit(
        project / "models" / "signals" / "payment_failed.sql",
        "where failed_at is not null and",
        "where customer_id in (\n        select cancelled.customer_id\n"
        "        from {{ ref('customer_timeline') }} as cancelled\n"
        "        where cancelled.event = 'Subscription Cancelled'\n    )\n"
        "    and failed_at is not null and",
    )
    result = backtest(settings, "payment_failed", since=day(20), step=timedelta(days=5))

    assert result.fired == 0
    assert result.hindsight == 1


def test_mistakes_are_told(settings: Settings) -> None:
    with pytest.raises(BacktestError, match=r"no signal nonsense; there are: browsed_not_bought"):
        backtest(settings, "nonsense")
    with pytest.raises(BacktestError, match="--since must be a day after the first"):
        backtest(settings, "payment_failed", since=day(-3))
    with pytest.raises(diff.DiffError, match="Not all models were built in this home yet"):
        diff.diff(settings)


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"event": "Purchase Completed"}, "within is missing"),
        ({"within": "7d"}, "it names neither an event nor a silence"),
        ({"event": "X", "within": "soon"}, "soon is not a span of time"),
        ({"event": "X", "within": "7d", "when": "now"}, "its keys are event, silence and within"),
    ],
)
def test_a_wrong_outcome_is_told(declared: dict[str, str], words: str) -> None:
    with pytest.raises(OutcomeError, match=f"mine: meta.outcome: {words}"):
        of({"name": "mine", "config": {"meta": {"outcome": declared}}})


def test_every_signal_of_the_project_names_its_outcome(settings: Settings) -> None:
    signals = [
        node
        for node in dbt.manifest(settings)["nodes"].values()
        if node["resource_type"] == "model"
        and node["fqn"][1] == "signals"
        and node["name"] not in {"signals", "signals_waiting"}
    ]
    assert signals
    for node in signals:
        assert of(node) is not None, node["name"]


def test_an_edit_shows_who_moves_and_what_would_be_sent(settings: Settings, project: Path) -> None:
    with lake.writer(settings, "test"):
        dbt.invoke(
            [
                "build",
                "--exclude-resource-type",
                "test",
                "unit_test",
                "--exclude",
                "tag:after_sync",
            ],
            settings,
        )
    before = state(settings)
    unedited = diff.diff(settings)
    assert unedited.edited is None and "signalbox build" in unedited.notes[0]
    assert all(not row["enter"] and not row["leave"] for row in unedited.segments)
    assert all(not row["new"] and not row["gone"] for row in unedited.signals)
    assert all(not sync.writes and not sync.messages for sync in unedited.syncs)
    for model in unedited.models:
        assert (model.new, model.gone, model.changed or 0) == (0, 0, 0), model

    dbt.keep_built(settings, dbt.manifest_path(settings))
    assert (diff.diff(settings).edited, diff.diff(settings).built) == ([], [])

    edit(project / "models" / "segments" / "new.sql", "tenure_days < 30", "tenure_days < 300")
    edit(
        project / "models" / "signals" / "payment_failed.sql",
        "case when paid_at > failed_at then paid_at end",
        "case when paid_at < failed_at then paid_at end",
    )
    edit(project / "dbt_project.yml", "login_after_absence_days: 7", "login_after_absence_days: 2")
    edited = diff.diff(settings)

    assert edited.edited == ["login_after_absence", "new", "payment_failed"]
    assert "segment_membership" in edited.built and "customer_timeline" not in edited.built
    (new,) = [row for row in edited.segments if row["segment"] == "new"]
    assert (new["before"], new["after"], new["enter"], new["leave"]) == (0, 4, 4, 0)
    (absent,) = [row for row in edited.signals if row["signal"] == "login_after_absence"]
    assert (absent["before"], absent["new"], absent["gone"]) == (0, 4 * 19, 0)
    syncs = {sync.sync: sync for sync in edited.syncs}
    assert syncs["smtp_email__payment_failed"].messages == 1
    assert syncs["hubspot__customer_health"].creates == 4
    assert syncs["hubspot__customer_health"].updates == 0
    assert "webhook__card_freeze" not in syncs
    assert state(settings) == before

    # What a new day mends by itself is not told; what only a full refresh brings is.
    assert stale(settings) == {}
    with (project / "seeds" / "event_catalog.csv").open("a") as file:
        file.write("Basket Shared,web,true\n")
    assert stale(settings) == {"customer_timeline": ["event_catalog"]}


def test_an_edit_of_what_a_daily_job_builds_shows(settings: Settings, project: Path) -> None:
    """It is built from what the job saw, though the lake has gone on, and even while it does."""
    build = ["build", "--exclude-resource-type", "test", "unit_test", "--exclude", "tag:after_sync"]
    with lake.writer(settings, "test"):
        dbt.invoke(build, settings)
        dbt.keep_built(settings, dbt.manifest_path(settings))
        with lake.connect(settings, read_only=False) as connection:
            # Had the learned points only been read now, all scores would differ by them.
            connection.execute(
                "insert into model_registry (model, version, is_champion) values ('churn', 1, true)"
            )

    def go_on(step: str) -> None:
        if step == "comparing":
            with lake.connect(settings, read_only=False) as connection:
                connection.execute("delete from churn_scores_daily")

    rules = project / "seeds" / "churn_rules.csv"
    edit(rules, "baseline,always,0,1,-1.0", "baseline,always,0,1,1.0")
    with rules.open("a") as file:
        file.write("new,logins_30d,0,1,0.5,Logins: {value}\n")
    edited = diff.diff(settings, on_step=go_on)

    assert edited.edited == ["churn_rules"] and edited.notes == []
    models = {model.model: model for model in edited.models}
    points = models["churn_points"]
    assert (points.before + 1, points.new, points.changed) == (points.after, 1, 1)
    scores = models["churn_scores_daily"]
    assert scores.before == scores.after == scores.changed
    assert "customer_features_daily" not in models


def state(settings: Settings) -> list[Any]:
    """What neither command may change: the lake's commits and the ledger's actions."""
    with lake.connect(settings) as connection:
        snapshots = connection.execute("select max(snapshot_id) from lake.snapshots()").fetchall()
    ledger = activate.ledger(settings)
    return [snapshots, {spec.name: ledger.counts(spec.name) for spec in activate.specs(settings)}]
