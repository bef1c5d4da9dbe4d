from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from syncs_support import Vendor, make_pusher

from syncs import destinations, templates
from syncs.ledger import Ledger
from syncs.push import Pusher


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    server = Vendor()
    yield server
    server.close()


@pytest.fixture
def ledger_url(new_database: Callable[[], str]) -> str:
    return new_database()


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
def club(monkeypatch: pytest.MonkeyPatch) -> None:
    """The destination in toys/club.py."""
    folder = str(Path(__file__).with_name("toys"))
    monkeypatch.setattr(destinations, "__path__", [*destinations.__path__, folder])


@pytest.fixture
def pusher(ledger: Ledger, vendor: Vendor) -> Pusher:
    return make_pusher(ledger, vendor.url)


@pytest.fixture
def plain_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "plain.j2").write_text("{% block text %}{{ words }}{% endblock %}")
    monkeypatch.setattr(templates, "FOLDERS", [tmp_path, *templates.FOLDERS])
    return "plain"
