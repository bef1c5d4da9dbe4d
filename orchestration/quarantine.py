"""The quarantine of this home: what is in it, and replays through the collector's door."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from orchestration import ingest, lake, warehouse
from orchestration.settings import Settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from ingestion.quarantine import Filter, Replay


@contextmanager
def reading(settings: Settings) -> Iterator[DuckDBPyConnection]:
    """The lake, read-only, with all raw tables there."""
    warehouse.ensure(settings)
    with lake.connect(settings) as connection:
        yield connection


def not_loaded(settings: Settings) -> int:
    """How many records of the log the lake may not show yet."""
    from ingestion.loaded import loaded_end

    log = ingest.open_reader(settings)
    return max(0, log.end() - loaded_end(log.directory))


def replay(
    settings: Settings,
    wanted: Filter,
    *,
    assignments: Sequence[str] = (),
    limit: int | None = None,
    dry_run: bool = False,
    on_wait: Callable[[str], object] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Replay:
    """Send what waits in quarantine through the door again, and load it.

    Runs as the lake's writer. It loads the log before, so that the warehouse knows of every replay
    so far, also of one that was killed before it could load; and after, so that it shows.

    Raises:
        WriterBusy: somebody else writes for too long.
        QuarantineError: an assignment cannot be evaluated.
        LogError: the log cannot be written.
        LoadError: the lake cannot be written; what was replayed is loaded with the next load.
    """
    from ingestion import quarantine
    from ingestion.contract import Contracts

    run = partial(
        quarantine.replay,
        wanted=wanted,
        contracts=Contracts.load(),
        policy=partial(ingest.source_policy, settings),
        assignments=assignments,
        limit=limit,
        progress=progress,
    )
    if dry_run:
        with reading(settings) as connection:
            return run(connection, None)
    with lake.writer(settings, "quarantine replay", on_wait=on_wait):
        warehouse.ensure(settings)
        loader = ingest.loader(settings)
        loader.load()
        with lake.connect(settings) as connection, ingest.open_log(settings) as log:
            result = run(connection, log)
        loader.load()
    return result
