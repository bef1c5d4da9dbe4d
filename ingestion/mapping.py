"""Turns the rows of a CSV or Parquet file into Segment messages, as a small YAML file says.

    type: track                       # or identify, page, screen, group; track if left out
    event: Purchase Completed         # of a track message
    where: customer_id is not null    # rows that do not fulfil it are left out
    group_by: [invoice_no, customer_id]   # rows that agree in these make one message; optional
    user_id: customer_id              # or anonymous_id, or both
    timestamp: min(invoice_date)
    timezone: Europe/London           # of times that name none; UTC if left out
    delimiter: ";"                    # of a CSV; comma (in .tsv tab) if left out
    message_id: invoice_no            # optional, see below
    constants: {currency: GBP}        # properties that are the same in every message
    properties:                       # traits, for identify and group
      order_id: invoice_no
      total: round(sum(quantity * unit_price), 2)
      items:                          # a list: one element for each row of the group
        - {product_id: stock_code, quantity: quantity, price: unit_price}

Every value but those of type, event, timezone, delimiter and constants is a DuckDB SQL expression
over the file's columns, the same language as the models; nothing else is invented here.

The message id decides what a second import of the file does: the same id is the same event.
Without `message_id` it comes from event and group, or, ungrouped, from the message's content, so
that rows alike in everything count once.
"""

from __future__ import annotations

import csv
import gzip
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import orjson

from ingestion.envelope import format_time

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

BATCH_ROWS = 2_000
# Not left out: a message without a time would count as happening now.
_NO_TIME = "none"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


class MappingError(Exception):
    """The mapping or the file it is for is wrong; the message says where and what to do."""


class Mapping(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What one mapping file says; the module's text describes the fields."""

    timestamp: str
    type: Literal["track", "identify", "page", "screen", "group"] = "track"
    event: str | None = None
    where: str = "true"
    group_by: list[str] = []
    user_id: str = "null"
    anonymous_id: str = "null"
    group_id: str = "null"
    message_id: str | None = None
    timezone: str = "UTC"
    delimiter: str | None = None
    constants: dict[str, Any] = {}
    properties: dict[str, str | list[dict[str, str]]] = {}
    traits: dict[str, str | list[dict[str, str]]] = {}


@dataclass(frozen=True)
class Mapped:
    """What a mapping makes of a file: how many rows it has and leaves out, and the messages."""

    rows: int
    rows_dropped: int
    total: int
    messages: Iterator[bytes]


def read_mapping(path: Path) -> Mapping:
    """Parse a mapping file.

    Raises:
        MappingError: it is missing, not YAML, or says something that no mapping can say.
    """
    try:
        mapping = msgspec.yaml.decode(path.read_bytes(), type=Mapping)
    except OSError as error:
        raise MappingError(
            f"The mapping {path} cannot be read: {error.strerror}. Give the path of a YAML file."
        ) from None
    except msgspec.MsgspecError as error:
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(Mapping))
        raise MappingError(
            f"The mapping {path} is not usable: {str(error).rstrip('.')}. It may say: {known}."
        ) from None
    fields = mapping.traits if mapping.type in ("identify", "group") else mapping.properties
    other = "properties" if mapping.type in ("identify", "group") else "traits"
    if getattr(mapping, other):
        raise MappingError(f"The mapping {path}: {mapping.type} messages have no {other}.")
    if (mapping.type == "track") != (mapping.event is not None):
        raise MappingError(f"The mapping {path}: track messages, and only they, need an event.")
    if mapping.user_id == "null" and mapping.anonymous_id == "null":
        raise MappingError(f"The mapping {path} names neither user_id nor anonymous_id.")
    for name, value in fields.items():
        if isinstance(value, list) and (len(value) != 1 or not mapping.group_by):
            raise MappingError(
                f"The mapping {path}: {name} is a list; it needs group_by, and exactly one "
                "element, which describes what each row of the group becomes."
            )
    return mapping


@contextmanager
def map_file(path: Path, mapping: Mapping) -> Iterator[Mapped]:
    """The messages of a file, oldest first, each as JSON.

    All rows are read and mapped before the first message comes out, so that a mistake in row
    one million is found before anything is imported; what does not fit into memory waits in a
    temporary directory.

    Raises:
        MappingError: the file cannot be read, or the mapping does not fit it.
    """
    import duckdb

    if not path.is_file():
        raise MappingError(f"{path} does not exist.")
    source = _source(path, mapping)
    with tempfile.TemporaryDirectory(prefix="signalbox-import-") as directory:
        connection = duckdb.connect()
        try:
            connection.execute("set enable_progress_bar = false")
            connection.execute("set autoinstall_known_extensions = false")
            connection.execute(f"set temp_directory = '{_quoted(directory)}'")
            connection.execute(f"set timezone = '{_quoted(mapping.timezone)}'")
            counts = connection.execute(
                f"select count(*), count(*) filter (where {mapping.where}) from {source}"
            ).fetchone()
            connection.execute(f"create temp table messages as {_query(mapping, source)}")
            made = connection.execute("select count(*) from messages").fetchone()
            rows, kept = counts or (0, 0)
            total = made[0] if made else 0
            yield Mapped(rows, rows - kept, total, _messages(connection, mapping))
        except duckdb.Error as error:
            text = _irregular_line(path, mapping)
            # DuckDB names the column, then adds hints of its own.
            text = text or str(error).strip().split("\n\n")[0]
            raise MappingError(
                f"{path.name} cannot be read with this mapping: {text}\nCorrect the mapping or "
                "the file, then import again."
            ) from None
        finally:
            connection.close()


def _source(path: Path, mapping: Mapping) -> str:
    name = _quoted(str(path))
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix == ".parquet":
        return f"read_parquet('{name}')"
    if suffix not in _DELIMITERS:
        raise MappingError(
            f"{path.name} is neither .csv, .tsv (plain or .gz) nor .parquet, which is all that a "
            "mapping can read."
        )
    # Only types are guessed, and from all rows, as an id such as C1001 may come late. To guess
    # the rest as well would read a file with a broken line as something else, in silence.
    delimiter = _quoted(mapping.delimiter or _DELIMITERS[suffix])
    return (
        f"read_csv('{name}', header = true, skip = 0, sample_size = -1, "
        f"quote = '\"', escape = '\"', delim = '{delimiter}')"
    )


def _irregular_line(path: Path, mapping: Mapping) -> str | None:
    """Where a CSV stops being one; DuckDB only says that it does, if at all."""
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in _DELIMITERS:
        return None
    delimiter = mapping.delimiter or _DELIMITERS[suffix]
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        lines = csv.reader(file, delimiter=delimiter, strict=True)
        line = 1
        try:
            columns = len(next(lines))
            line = lines.line_num + 1
            for values in lines:
                if values and len(values) != columns:
                    return f"line {line} has {len(values)} columns, the first line {columns}."
                line = lines.line_num + 1
        except StopIteration:
            return "it is empty."
        except csv.Error as error:
            return f"line {line}: {error}."
        except UnicodeDecodeError:
            return f"line {line} or one soon after it is not UTF-8."
    return None


def _query(mapping: Mapping, source: str) -> str:
    fields = mapping.traits or mapping.properties
    pairs = [
        f"'{_quoted(name)}': {_each(value[0]) if isinstance(value, list) else f'({value})'}"
        for name, value in fields.items()
    ]
    keys = ", ".join(mapping.group_by)
    message_id = mapping.message_id
    if message_id is None and keys:
        name = _quoted(mapping.event or mapping.type)
        message_id = f"'import-' || md5(to_json(['{name}', {_texts(mapping.group_by)}])::varchar)"
    # The names of the mapping are the user's own SQL, run with the user's own rights.
    return f"""
        select
            cast({message_id or "null"} as varchar) as message_id,
            cast({mapping.user_id} as varchar) as user_id,
            cast({mapping.anonymous_id} as varchar) as anonymous_id,
            cast({mapping.group_id} as varchar) as group_id,
            epoch_us(cast({mapping.timestamp} as timestamptz)) as happened_at,
            {f"{{{', '.join(pairs)}}}" if pairs else "null"} as fields
        from {source}
        where {mapping.where}
        {f"group by {keys}" if keys else ""}
        order by happened_at
    """


def _each(element: dict[str, str]) -> str:
    struct = ", ".join(f"'{_quoted(name)}': ({value})" for name, value in element.items())
    # Sorted by content: the list must not depend on the order in which threads found its rows.
    return f"list({{{struct}}} order by {{{struct}}})"


def _texts(expressions: list[str]) -> str:
    return ", ".join(f"cast({expression} as varchar)" for expression in expressions)


def _messages(connection: DuckDBPyConnection, mapping: Mapping) -> Iterator[bytes]:
    named = {"type": mapping.type, **({"event": mapping.event} if mapping.event else {})}
    container = "traits" if mapping.type in ("identify", "group") else "properties"
    reader = connection.execute("select * from messages").to_arrow_reader(BATCH_ROWS)
    for batch in reader:
        for row in batch.to_pylist():
            at = row["happened_at"]
            message = {
                **named,
                "messageId": row["message_id"],
                "userId": row["user_id"],
                "anonymousId": row["anonymous_id"],
                "groupId": row["group_id"],
                "timestamp": _NO_TIME
                if at is None
                else format_time(_EPOCH + timedelta(microseconds=at)),
                container: {**(row["fields"] or {}), **mapping.constants},
            }
            yield orjson.dumps(_without_nulls(message), default=_plain)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    from decimal import Decimal

    return float(value) if isinstance(value, Decimal) else str(value)


def _quoted(text: str) -> str:
    return text.replace("'", "''")
