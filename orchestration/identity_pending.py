"""What the log holds that identity was not built with yet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ingestion.reserved import OWN_SOURCE
from orchestration import ingest
from orchestration.identity import SPLIT, UNDONE, Pair, pair
from orchestration.settings import Settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_RECORDS = 20_000  # of the log, read at a time

LOADED = """
select event, payload from {events}
where source = $source and event in ($split, $undone){more} order by log_seq
"""
# Loaded, and not built: one that was built counts again as it did.
NOT_BUILT = """
 and repeat_of is null and log_seq > (
    select coalesce(max(log_seq), -1) from build_watermarks where model = 'identity_map'
)
"""


def events(settings: Settings) -> Iterator[Any]:
    """The events in the log that are not in the lake: Arrow tables as the raw layer has them."""
    from ingestion.record_tables import split

    position = ingest.loader(settings).position()
    reader = ingest.open_reader(settings)
    position = max(position, reader.first())
    while records := reader.read(position, _RECORDS):
        yield split(records)[0]
        position = records[-1][0] + 1


def splits(settings: Settings, connection: DuckDBPyConnection) -> dict[Pair, bool]:
    """The splits by hand since identity was built, and those undone, by pair: whether it is split.

    Args:
        settings: whose log.
        connection: with the lake in use.
    """
    names = {"source": OWN_SOURCE, "split": SPLIT, "undone": UNDONE}
    found = connection.execute(LOADED.format(events="raw.events", more=NOT_BUILT), names).fetchall()
    for waiting in events(settings):
        connection.register("waiting", waiting)
        found += connection.execute(LOADED.format(events="waiting", more=""), names).fetchall()
        connection.unregister("waiting")
    decided: dict[Pair, bool] = {}
    for event, payload in found:
        ends = json.loads(payload)["properties"]
        decided[pair(ends["id"], ends["other_id"])] = event == SPLIT
    return decided
