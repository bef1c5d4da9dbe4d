"""What switching a source on does to the rest: settings, status, Dagster; and what it costs off."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dagster import AssetKey

from ingestion import sources
from ingestion.sources import PullSource, PushSource, SourceError
from orchestration import ingest
from orchestration.assets import ingest as assets
from orchestration.settings import Settings


def on(home: Path, *names: str) -> Settings:
    return Settings(home=home, sources=names, _env_file=None)


def test_a_source_is_switched_on_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNALBOX_STRIPE_SECRET", "whsec_1")
    settings = on(tmp_path, "kafka", "stripe")
    assert [source.name for source in ingest.pulled(settings)] == ["kafka"]
    assert set(ingest.hooks(settings)) == {"stripe"}
    reports = {report["source"]: report for report in ingest.source_reports(settings)}
    assert reports.keys() == {"crm", "kafka", "stripe", "support"}
    assert reports["stripe"]["path"] == "/v1/hooks/stripe"
    assert reports["kafka"] == {"source": "kafka", "kind": "pull", "connected": False}
    specs = {spec.key: spec for spec in assets.build_producer_assets(settings)}
    upstream = {dependency.asset_key for dependency in specs[AssetKey("event_log")].deps}
    assert upstream == {AssetKey(["sources", "kafka"]), AssetKey(["sources", "stripe"])}

    with pytest.raises(SourceError, match="There is no source 'kafak'"):
        ingest.pulled(on(tmp_path, "kafak"))
    with pytest.raises(SourceError, match=r"SIGNALBOX_KAFKA_SERVERS: Field required"):
        ingest.check_source(settings, "kafka")
    monkeypatch.setenv("SIGNALBOX_SQS_VISIBILITY_SECONDS", "secret")
    with pytest.raises(SourceError, match="SIGNALBOX_SQS_VISIBILITY_SECONDS") as caught:
        ingest.check_source(on(tmp_path, "sqs"), "sqs")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "extra", "package"),
    [("kafka", "kafka", "confluent_kafka"), ("sqs", "aws", "boto3"), ("pubsub", "gcp", "google")],
)
def test_a_missing_package_is_named(
    name: str, extra: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    source = sources.load(name)
    assert isinstance(source, PullSource)
    given = {
        "kafka": {"servers": "127.0.0.1:9", "topics": ["t"]},
        "sqs": {"queue_url": "http://127.0.0.1:9/1/q"},
        "pubsub": {"subscription": "projects/p/subscriptions/s"},
    }[name]
    with pytest.raises(SourceError, match=rf'pip install "signalbox\[{extra}\]"'):
        source.connect(source.settings(**given))  # type: ignore[arg-type]


def test_sources_that_are_off_import_nothing() -> None:
    code = (
        "import sys; from ingestion import sources; "
        "[sources.load(name) for name in sources.available()]; "
        "print([m for m in ('confluent_kafka', 'boto3', 'google.auth', 'grpc', 'dlt') "
        "if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_source_says_what_it_is() -> None:
    for name in sources.available():
        source = sources.load(name)
        assert source.description.endswith(".")
        if isinstance(source, PullSource | PushSource):
            assert source.settings.__doc__
