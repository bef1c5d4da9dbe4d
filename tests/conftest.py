"""What the tests of all rooms share: a Postgres, a home, and the options of the chaos suites."""

from __future__ import annotations

import atexit
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import parsed
import pytest

CHAOS = Path(__file__).parent / "chaos"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos", "processes of Signalbox that are killed over and over")
    group.addoption("--chaos", action="store_true", help="run the suites in tests/chaos")
    group.addoption(
        "--chaos-kills", type=int, metavar="N", help="SIGKILLs in each suite (its own number)"
    )
    group.addoption(
        "--chaos-seed", type=int, default=1, metavar="N", help="seed of every suite's lottery (1)"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A run that does not ask for tests/chaos does not even import it."""
    if collection_path != CHAOS or config.getoption("--chaos"):
        return None
    named = [Path(config.invocation_params.dir, arg.partition("::")[0]) for arg in config.args]
    # Named without the option, it is collected so that its own conftest can say what is missing.
    return None if any(path.resolve().is_relative_to(CHAOS) for path in named) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked `long` begins, so that no worker (`--dist loadfile`) is alone at the end."""
    items.sort(key=lambda item: not any(item.iter_markers("long")))


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home of its own. Not pytest's folder: a Unix socket's path must be short."""
    directory = Path(tempfile.mkdtemp(prefix="sbx-"))
    directory.chmod(0o755)
    parsed.into(directory)
    yield directory
    _close_lake_of_dbt()
    shutil.rmtree(directory, ignore_errors=True)


def _close_lake_of_dbt() -> None:
    """After a failed run dbt keeps the lake that it had opened, and the next home has another."""
    dbt = sys.modules.get("dbt.adapters.duckdb.connections")
    if dbt is not None and dbt.DuckDBConnectionManager._ENV is not None:
        dbt.DuckDBConnectionManager._ENV.close()
        dbt.DuckDBConnectionManager.close_all_connections()


@pytest.fixture(scope="session")
def new_database() -> Callable[[], str]:
    """Creates an empty database at each call and returns its URL.

    All are on one Postgres of this test run, which stops with the process.
    """
    import psycopg2
    from sqlalchemy.engine import make_url

    from orchestration import postgres
    from orchestration.settings import Settings

    # Run by root, the server is a user of its own, who must be able to reach its directory.
    directory = Path(tempfile.mkdtemp(prefix="sbx-"))
    directory.chmod(0o755)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    server = postgres.start(Settings(home=directory, postgres_url=None, _env_file=None)).lake
    numbers = itertools.count()

    def execute(*statements: str) -> None:
        connection = psycopg2.connect(server)
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connection.close()

    # Our processes are killed in these tests, the server is not.
    execute("alter system set fsync = off", "select pg_reload_conf()")

    def new() -> str:
        name = f"test_{next(numbers)}"
        execute(f"create database {name}")
        return make_url(server).set(database=name).render_as_string(hide_password=False)

    return new
