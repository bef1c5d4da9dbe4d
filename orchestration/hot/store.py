"""Events in memory, found by the id that they came under.

The cost of adding and of finding follows the events asked for, not the events that are held: DuckDB
would have to scan all of them to find those of a few customers.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable
from typing import Any

#: A part is merged into the one before it when that is no more than so many times as large. Parts
#: are then few, and a row is copied once for each of them.
_GROWTH = 8
#: To merge into one of more rows than this would stop the lane for a tenth of a second.
WHOLE_ROWS = 50_000


class Store:
    """Rows of `stg_events` with two columns more: `id_hash` and `event_hash`; Arrow tables.

    Arrow's own columns are what DuckDB reads with the least work: those of Polars cost three times
    as much.
    """

    def __init__(self, empty: Any, *, whole_rows: int = WHOLE_ROWS) -> None:
        self._whole_rows = whole_rows  # of a part that is merged no further
        self._parts = [empty]
        self._places: dict[int, array[int]] = {}  # id → rows, counted over all parts
        self._hashes: set[int] = set()  # of the events that are held

    @property
    def rows(self) -> int:
        """How many events are held."""
        return len(self._hashes)

    def add(self, events: Any) -> None:
        """Hold more events; what is held already, under whatever id, stays as it is."""
        import pyarrow as pa

        new: list[int] = []
        place = sum(part.num_rows for part in self._parts)
        ids, hashes = (events[name].to_numpy().tolist() for name in ("id_hash", "event_hash"))
        for row, (id_hash, event_hash) in enumerate(zip(ids, hashes, strict=True)):
            if event_hash in self._hashes:
                continue
            self._hashes.add(event_hash)
            self._places.setdefault(id_hash, array("q")).append(place + len(new))
            new.append(row)
        if not new:
            return
        self._parts.append(events if len(new) == events.num_rows else events.take(new))
        while len(self._parts) > 1:
            *_, before, last = self._parts
            if before.num_rows > min(_GROWTH * last.num_rows, self._whole_rows):
                break
            self._parts[-2:] = [pa.concat_tables([before, last]).combine_chunks()]

    def of(self, ids: Iterable[int]) -> Any:
        """The events that came under these ids."""
        import numpy as np
        import pyarrow as pa

        none: array[int] = array("q")
        found = [np.frombuffer(self._places.get(id_hash, none), np.int64) for id_hash in ids]
        places = np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)
        chosen = []
        first = 0
        for part in self._parts:
            begin, end = np.searchsorted(places, (first, first + part.num_rows))
            if end > begin:
                chosen.append(part.take(pa.array(places[begin:end] - first)))
            first += part.num_rows
        return pa.concat_tables(chosen) if chosen else self._parts[0].slice(0, 0)

    def drop(self, ids: Collection[int]) -> None:
        """Let go of the events of these ids; takes time for all that stay."""
        gone = set(ids)
        kept = self.of(id_hash for id_hash in self._places if id_hash not in gone)
        self._parts = [kept.slice(0, 0)]
        self._places.clear()
        self._hashes.clear()
        self.add(kept)
