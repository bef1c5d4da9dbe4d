from __future__ import annotations

import atexit
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from ingestion.destination import Lake
from orchestration import postgres
from orchestration.settings import Settings

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> str:
    """URL of a Postgres of this test run. It stops with the process."""
    # Run by root, the server is a user of its own, who must be able to reach its directory.
    home = Path(tempfile.mkdtemp(prefix="signalbox-test-"))
    home.chmod(0o755)
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return postgres.start(Settings(home=home, postgres_url=None, _env_file=None)).lake


@pytest.fixture
def lake(server: str, tmp_path: Path) -> Iterator[Lake]:
    """A lake of its own: a new catalog database and an empty directory."""
    name = f"lake_{next(_numbers)}"
    connection = psycopg2.connect(server)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"create database {name}")
        url = make_url(server).set(database=name).render_as_string(hide_password=False)
        yield Lake(url, f"{tmp_path / 'lake'}/", tmp_path / "dlt")
        cursor.execute(f"drop database {name} with (force)")
    connection.close()
