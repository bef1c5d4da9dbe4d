"""A folder of CSV files, one per sync object, kept current by key and replaced as a whole."""

from __future__ import annotations

import csv
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings, SettingsConfigDict

from syncs.results import Fatal, HttpClient, Retryable, Row, RowResult, Target

MODES = {"upsert", "mirror"}
BATCH_SIZE = 10_000
API_VERSION = "RFC 4180"
RATE = 5.0
CREDENTIALS = ("directory",)
SANDBOX = {"directory": "{directory}"}

# https://owasp.org/www-community/attacks/CSV_Injection; the last four are the first in full width.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_NAME = re.compile(r"\w[\w.-]{0,99}")


class Settings(BaseSettings):
    """SIGNALBOX_CSV_FILE_DIRECTORY; a sync's `object` is the file's name, without .csv."""

    model_config = SettingsConfigDict(
        env_prefix="SIGNALBOX_CSV_FILE_", extra="ignore", env_ignore_empty=True
    )

    directory: Path | None = None


def push(rows: Sequence[Row], target: Target[Settings], http: HttpClient) -> list[RowResult]:
    if not rows:
        return []
    if not _NAME.fullmatch(target.object):
        raise Fatal(f"object {target.object!r}: a file's name of letters, digits, . _ and -")
    assert target.settings.directory is not None
    path = target.settings.directory / f"{target.object}.csv"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            _replace(path, rows, target.key)
    except (PermissionError, NotADirectoryError, FileExistsError, IsADirectoryError) as error:
        raise Fatal(f"{path.name} cannot be written: {error.strerror}") from None
    except OSError as error:
        raise Retryable(f"{path.name} cannot be written: {error.strerror}") from None
    return [RowResult.delivered() for _ in rows]


def check(target: Target[Settings], http: HttpClient) -> str:
    directory = target.settings.directory
    assert directory is not None
    place = next(folder for folder in (directory, *directory.parents) if folder.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise Fatal(f"{place} is not a folder that can be written")
    return f"{directory}, {len(list(directory.glob('*.csv')))} files"


def cell(value: Any) -> str:
    """A value as text that no spreadsheet takes for a formula: such text gets an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def _replace(path: Path, rows: Sequence[Row], key: str) -> None:
    columns, kept = _read(path, key)
    columns += [name for name in rows[0].fields if name not in columns]
    for row in rows:
        if row.leave:
            kept.pop(cell(row.key), None)
        else:
            values = {name: cell(value) for name, value in row.fields.items()}
            kept[cell(row.key)] = kept.get(cell(row.key), {}) | values
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".part")
    try:
        with os.fdopen(descriptor, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(kept.values())
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), path.stat().st_mode & 0o777 if path.exists() else 0o600)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read(path: Path, key: str) -> tuple[list[str], dict[str, dict[str, str]]]:
    if not path.exists():
        return [key], {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or [key])
        if key not in columns:
            raise Fatal(f"{path.name} has no column {key}; move the file away or name another")
        return columns, {line[key]: line for line in reader}


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No two processes rewrite the file at once: the second would undo the first."""
    with (path.parent / f".{path.stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
