"""What the chaos suites share: their option, their lottery, one line of figures for each."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ingestion.destination import Lake

HERE = Path(__file__).parent
DEFAULT_KILLS = 70  # of a suite that states no KILLS
ROOMS = ("ingestion", "syncs", "brokers")
MODULES = (
    *("test_log", "test_log_server", "test_kill_points", "collector_process", "test_load", "lakes"),
    *("syncs_support", "dbt_warehouse", "broker_support", "test_kafka"),
)

# The suites drive the same processes as the tests of each room, only longer.
sys.path += [str(HERE.parent / room) for room in ROOMS]
pytest.register_assert_rewrite(*MODULES)


@pytest.fixture
def lake(new_database: Callable[[], str], tmp_path: Path) -> Lake:
    """A lake of its own: a new catalog database and an empty directory."""
    return Lake(new_database(), f"{tmp_path / 'lake'}/", tmp_path / "dlt")


@dataclass
class Chaos:
    """How often one suite kills, its lottery, and what it found."""

    suite: str
    seed: int
    kills: int
    properties: list[tuple[str, object]] = field(repr=False)

    def __post_init__(self) -> None:
        self.lottery = random.Random(f"{self.suite} {self.seed}")
        #: A suite whose processes always end before they are killed must end too.
        self.attempts = range(4 * self.kills + 10)

    def report(self, *, kills: int, lost: int, duplicates: int, unknown: int, more: str) -> None:
        """Keep the suite's line for the end of the run. Call it before the first assert."""
        line = (
            f"{self.suite}: seed {self.seed}, kills {kills}, lost {lost}, "
            f"duplicates {duplicates}, unknown {unknown} ({more})"
        )
        self.properties.append(("chaos", line))


@pytest.fixture
def chaos(request: pytest.FixtureRequest) -> Chaos:
    config = request.config
    return Chaos(
        request.node.name.removeprefix("test_").rstrip("]").replace("_", " ").replace("[", ", "),
        config.getoption("--chaos-seed"),
        config.getoption("--chaos-kills") or getattr(request.module, "KILLS", DEFAULT_KILLS),
        request.node.user_properties,
    )


def pytest_report_header(config: pytest.Config) -> str | None:
    if not config.getoption("--chaos"):
        return None
    return (
        f"chaos: seed {config.getoption('--chaos-seed')}, "
        f"{config.getoption('--chaos-kills') or 'their own number of'} kills in each suite"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--chaos"):
        return
    chaotic = [item for item in items if item.path.is_relative_to(HERE)]
    items[:] = [item for item in items if item not in chaotic]
    config.hook.pytest_deselected(items=chaotic)


def pytest_report_collectionfinish(config: pytest.Config) -> str | None:
    if config.getoption("--chaos"):
        return None
    return "tests/chaos kills processes for minutes: it runs only with --chaos (`make chaos`)"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]
    lines = [line for report in reports for name, line in report.user_properties if name == "chaos"]
    if lines:
        terminalreporter.section("chaos")
        for line in lines:
            terminalreporter.line(line)
