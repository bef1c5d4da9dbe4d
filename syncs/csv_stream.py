"""Arrow batches as a file of CSV lines, made as it is read: what Postgres' COPY takes."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.csv


class CsvStream:
    """Readable once. Holds one batch at a time."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = iter(batches)
        self._text = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, at least one until the end."""
        while not self._text:
            batch = next(self._batches, None)
            if batch is None:
                return b""
            buffer = io.BytesIO()
            pyarrow.csv.write_csv(batch, buffer, pyarrow.csv.WriteOptions(include_header=False))
            self._text = memoryview(buffer.getvalue())
        size = len(self._text) if size < 0 else size
        taken, self._text = self._text[:size], self._text[size:]
        return bytes(taken)
