"""What the benchmarks share: their command line, a home of their own, how results are shown."""

from __future__ import annotations

import argparse
import atexit
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from orchestration.settings import Settings

MEMORY = "8GB"


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with `--json`, described by the first line of a module's docstring."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def new_home() -> Path:
    """An empty home that goes with this process."""
    # A Unix socket's path must be short; run by root, Postgres is a user of its own.
    home = Path(tempfile.mkdtemp(prefix="sbx-bench-"))
    home.chmod(0o755)
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


def core_speed() -> float:
    """Millions of additions that Python does in a second on one core, best of five.

    Taken before and after a run: a core of a shared host may have half the speed a minute later,
    and figures of two runs compare only where this does.
    """
    best = float("inf")
    for _ in range(5):
        began, total = time.perf_counter(), 0
        for number in range(1_000_000):
            total += number
        best = min(best, time.perf_counter() - began)
    return round(1 / best, 1)


def share_lake(settings: Settings) -> None:
    """Let loads and dbt use one DuckDB, as in a warm worker, and no more than `MEMORY` of it."""
    from orchestration import lake

    lake.share(settings)
    with lake.connect(settings) as connection:
        connection.execute(f"set memory_limit = '{MEMORY}'")
        connection.execute(f"set temp_directory = '{settings.home / 'spill'}'")


def print_json(result: Any) -> None:
    print(json.dumps(result, indent=2))


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str | None = None,
) -> None:
    """A table whose first column is text and whose others are figures."""
    table = Table(title=title, caption=caption)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
