"""A lake whose files lie in a bucket: loaded, built, read by all who read, compacted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import duckdb
import pytest
from moto.server import ThreadedMotoServer

from orchestration import dbt, ingest, lake, report, warehouse
from orchestration.cli.console import complain
from orchestration.settings import Settings, load_settings

UNTESTED = ["--exclude-resource-type", "test", "unit_test"]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def bucket(endpoint: str) -> Any:
    keys = {"aws_access_key_id": "ada", "aws_secret_access_key": "it's ours"}
    found = boto3.resource("s3", endpoint_url=endpoint, region_name="eu-central-1", **keys)
    bucket = found.Bucket("lake")
    bucket.create(CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    return bucket


@pytest.fixture
def settings(
    home: Path, endpoint: str, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    for name, value in {
        "HOME": str(home),
        "LAKE_URL": f"s3://{bucket.name}/signalbox",
        "LAKE_ENDPOINT_URL": endpoint,
        "LAKE_REGION": "eu-central-1",
        "LAKE_ACCESS_KEY_ID": "ada",
        "LAKE_SECRET_ACCESS_KEY": "it's ours",
    }.items():
        monkeypatch.setenv(f"SIGNALBOX_{name}", value)
    load_settings.cache_clear()
    yield load_settings()
    load_settings.cache_clear()


def load(settings: Settings, directory: Path, user: str) -> None:
    """One event more, and the model that reads it."""
    file = directory / "messages.jsonl"
    message = {"type": "track", "event": "Logged In", "userId": user, "messageId": user}
    file.write_text(json.dumps(message | {"timestamp": "2026-01-01T08:00:00Z"}))
    ingest.import_file(settings, file, None, "import")
    with lake.writer(settings, "test"):
        warehouse.ensure(settings)
        ingest.loader(settings).load()
        dbt.invoke(["build", "--select", "+stg_events", *UNTESTED], settings)


def test_a_lake_in_a_bucket(settings: Settings, home: Path, bucket: Any, tmp_path: Path) -> None:
    for user in ("ada", "bob"):
        load(settings, tmp_path, user)

    events = "signalbox/raw/events/"
    assert len(list(bucket.objects.filter(Prefix=events))) == 2
    assert not (home / "lake").exists()
    with lake.connect(settings) as connection:
        assert connection.execute("select count(*) from stg_events").fetchone() == (2,)
    with lake.connect_guarded(settings) as connection:
        assert connection.execute("select count(*) from stg_events").fetchone() == (2,)
        with pytest.raises(duckdb.PermissionException):
            connection.execute("from read_csv('s3://other/file.csv')")
        (shown,) = connection.execute("select secret_string from duckdb_secrets()").fetchall()
        assert "it's ours" not in shown[0]
    with lake.writer(settings, "test"):
        assert lake.maintain(settings, {})["tables_merged"] > 0
        with lake.connect(settings, read_only=False) as connection:
            connection.execute("call ducklake_cleanup_old_files('lake', cleanup_all => true)")
    assert len(list(bucket.objects.filter(Prefix=events))) == 1
    with lake.connect(settings) as connection:
        assert connection.execute("select count(*) from raw.events").fetchone() == (2,)
    (told,) = (check for check in report.doctor(settings, offline=True) if check["check"] == "lake")
    assert told["state"] == "ok" and "s3://lake/signalbox/" in told["result"]


def test_a_store_that_is_not_there_is_said_in_words(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = settings.model_copy(update={"lake_endpoint_url": "http://127.0.0.1:9"})
    with lake.connect(gone) as connection, pytest.raises(duckdb.IOException) as caught:
        connection.execute("set http_retries = 0")
        connection.execute("select count(*) from raw.events where user_id = 'ada'").fetchone()
    assert complain(caught.value)
    assert "SIGNALBOX_LAKE_URL" in capsys.readouterr().err
