"""What the collector counts, summed over its worker processes."""

from __future__ import annotations

from collections.abc import MutableSequence

NAMES = ("accepted", "quarantined", "refused_requests")


class Counters:
    """The row of one worker in cells that all of them share, and the sums over all rows.

    `cells` holds one row after another, each one cell for each of NAMES. Only its own worker
    writes a row, so nothing is locked; a worker that is started again goes on counting in it.
    """

    def __init__(self, cells: MutableSequence[int] | None = None, row: int = 0) -> None:
        self._cells: MutableSequence[int] = [0] * len(NAMES) if cells is None else cells
        self._first = row * len(NAMES)

    def add(self, name: str, number: int = 1) -> None:
        """Count in the row of this worker."""
        self._cells[self._first + NAMES.index(name)] += number

    def totals(self) -> dict[str, int]:
        """The sums over all workers, by name."""
        width = len(NAMES)
        return {name: sum(self._cells[at::width]) for at, name in enumerate(NAMES)}
