"""Events in memory, found by the id that they came under.

The cost of adding and of finding follows the events asked for, not the events that are held: DuckDB
would have to scan all of them to find those of a few customers.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

#: A part is merged into the one before it when that is no more than so many times as large. Parts
#: are then few, and a row is copied once for each of them.
_GROWTH = 8


class Store:
    """Rows of `stg_events` with two columns more: `id_hash` and `event_hash`."""

    def __init__(self, empty: pl.DataFrame) -> None:
        self._parts = [empty]
        self._places: dict[int, array[int]] = {}  # id → rows, counted over all parts
        self._hashes: set[int] = set()  # of the events that are held

    @property
    def rows(self) -> int:
        """How many events are held."""
        return len(self._hashes)

    def add(self, events: pl.DataFrame) -> None:
        """Hold more events; what is held already, under whatever id, stays as it is."""
        new: list[int] = []
        place = sum(part.height for part in self._parts)
        pairs = zip(events["id_hash"].to_list(), events["event_hash"].to_list(), strict=True)
        for row, (id_hash, event_hash) in enumerate(pairs):
            if event_hash in self._hashes:
                continue
            self._hashes.add(event_hash)
            self._places.setdefault(id_hash, array("q")).append(place + len(new))
            new.append(row)
        if not new:
            return
        self._parts.append(events if len(new) == events.height else events[new])
        while len(self._parts) > 1 and self._parts[-2].height <= _GROWTH * self._parts[-1].height:
            last = self._parts.pop()
            self._parts[-1] = self._parts[-1].vstack(last).rechunk()

    def of(self, ids: Iterable[int]) -> pl.DataFrame:
        """The events that came under these ids."""
        import numpy as np
        import polars as pl

        none: array[int] = array("q")
        found = [np.frombuffer(self._places.get(id_hash, none), np.int64) for id_hash in ids]
        places = np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)
        chosen = []
        first = 0
        for part in self._parts:
            begin, end = np.searchsorted(places, (first, first + part.height))
            if end > begin:
                chosen.append(part[places[begin:end] - first])
            first += part.height
        return pl.concat(chosen) if chosen else self._parts[0].clear()

    def drop(self, ids: Collection[int]) -> None:
        """Let go of the events of these ids; takes time for all that stay."""
        gone = set(ids)
        kept = self.of(id_hash for id_hash in self._places if id_hash not in gone)
        self._parts = [kept.clear()]
        self._places.clear()
        self._hashes.clear()
        self.add(kept)
